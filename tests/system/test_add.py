"""Adding a machine whose user may sudo: the runner becomes a service of the system, and stays as it is."""

from __future__ import annotations

from tests.system.site import Site


def test_the_runner_is_a_service(site: Site) -> None:
    """Enabled and active, run by root, its folder closed to others; the host is ready with its cards."""
    for name in site.hosts:
        assert site.on(name, "systemctl is-enabled pool-runner.service; systemctl is-active pool-runner.service") == (
            "enabled\nactive"
        )
        pid = site.on(name, "systemctl show --property=MainPID --value pool-runner.service")
        assert site.on(name, f"stat --format=%U /proc/{pid}") == "root"
        assert site.on(name, "stat --format='%U %a' /var/lib/pool-runner") == "root 711"
        assert site.on(name, "systemctl --failed --no-legend --plain") == ""
        host = site.listed()[name]
        assert host["ip"] == site.hosts[name].address
        assert [gpu["name"] for gpu in host["gpus"]] == ["NVIDIA H100 80GB HBM3"] * 2


def test_adding_again_changes_nothing(site: Site) -> None:
    """Every step finds its work done, and the runner is not restarted."""
    ask = "systemctl show --property=MainPID --value pool-runner.service"
    pids = {name: site.on(name, ask) for name in site.hosts}
    for name, result in site.add(*site.hosts).items():
        assert result.rc == 0, result
        assert f"{name} is ready (changed=0)" in result.stdout + result.stderr, result
    assert {name: site.on(name, ask) for name in site.hosts} == pids


def test_another_user_may_not_speak_to_the_runner(site: Site) -> None:
    """The socket takes anyone, the runner only root and who added the host: with another it hangs up, unheard."""
    site.on("node1", "useradd --no-create-home stranger")
    as_user = "setpriv --reuid={0} --regid={0} --clear-groups"
    bridge = f"timeout 3 {as_user} /usr/local/bin/pool-runner bridge < <(sleep 10 2>&-)"
    try:
        assert site.lab.execute("node1", "bash", "-c", bridge.format("stranger"))[0] in (0, 1)
        assert site.lab.execute("node1", "bash", "-c", bridge.format("debian"))[0] == 124
    finally:
        site.on("node1", "userdel stranger")
