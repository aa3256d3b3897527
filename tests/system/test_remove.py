"""Removing a machine undoes exactly what adding it did."""

from __future__ import annotations

from tests.system.site import Site


def test_removing_leaves_no_trace(site: Site) -> None:
    """Packages, files, units, users, homes and processes are as before it was added, though jobs ran on it."""
    site.run("traces", "echo here; echo there > file", host="node2")
    assert site.end_of("traces")["status"] == "done"
    added = site.snapshot("node2") - site.before["node2"]
    assert any("pool-runner.service" in line for line in added)
    done = site.cli("rm", "node2", "-y", timeout=300)
    assert done.rc == 0, done
    after = site.snapshot("node2")
    assert sorted(after ^ site.before["node2"]) == []
    assert "node2" not in site.listed()
    assert site.log("traces") == b"here\n"
