"""What befalls machines: a reboot, a power cut, a freeze, a broken cable."""

from __future__ import annotations

import threading
import time

from tests.system.site import Site, until

_COUNT = "i=0; while [ $i -lt 1000000 ]; do i=$((i+1)); echo $i; sleep 0.2; done"
#: How long hosts are frozen and cut off: longer than either side of a link waits for the other.
_GONE_S = 60.0


def test_a_reboot_interrupts_jobs_and_the_host_comes_back(site: Site) -> None:
    """In order or as by a power cut: the job is interrupted, the host is ready by itself, its GPUs are free."""
    site.run("reboot", _COUNT, host="node1", gpu=2)
    site.run("power-cut", _COUNT, host="node2", gpu=2)
    cut = threading.Thread(target=site.lab.reboot, args=("node2",), kwargs={"power_cut": True})
    cut.start()
    site.lab.reboot("node1")
    cut.join()
    for name, host in (("reboot", "node1"), ("power-cut", "node2")):
        job = site.end_of(name)
        assert (job["status"], job["reason"]) == ("interrupted", "the host rebooted")
        until(lambda host=host: site.is_idle(host), f"{host} back by itself")
        assert site.on(host, "systemctl is-active pool-runner.service") == "active"
        assert site.on(host, "systemctl list-units --all --plain --no-legend 'pool-job-*'") == ""


def test_a_host_that_is_silent_keeps_its_jobs(site: Site) -> None:
    """Frozen, or behind a broken cable, for a minute: unreachable, `running?`; then running as if nothing had been."""
    for name, host in (("frozen", "node1"), ("cut-off", "node2")):
        site.run(name, f"{_COUNT} & until [ -e ~/go ]; do sleep 0.2; done; rm ~/go; kill $!; echo told", host=host)
        site.until_logged(name, b"1\n")
    began = time.monotonic()
    site.lab.freeze("node1")
    site.lab.cut("node2")
    try:
        for name, host in (("frozen", "node1"), ("cut-off", "node2")):
            until(lambda host=host: site.listed()[host]["status"] == "unreachable", f"{host} unreachable")
            until(lambda name=name: site.job(name)["shown"] == "running?", f"{name} in doubt")
        time.sleep(max(0.0, _GONE_S - (time.monotonic() - began)))
        assert {site.job(name)["shown"] for name in ("frozen", "cut-off")} == {"running?"}
    finally:
        site.lab.thaw("node1")
        site.lab.mend("node2")
    for name, host in (("frozen", "node1"), ("cut-off", "node2")):
        until(lambda host=host: site.listed()[host]["status"] == "ready", f"{host} ready")
        until(lambda name=name: site.job(name)["shown"] == "running", f"{name} running")
        site.make_in_jobs_home(host, "go")
        job = site.end_of(name)
        assert (job["status"], job["exit_code"]) == ("done", 0)
        *numbers, last = site.log(name).decode().split()
        assert last == "told"
        assert numbers == [str(number + 1) for number in range(len(numbers))]


def test_a_runner_that_hangs_is_restarted(site: Site) -> None:
    """It says that it lives no more: systemd starts another one, and the job does not notice."""
    site.run("hangs", "echo begun; until [ -e ~/go-hangs ]; do sleep 0.1; done; rm ~/go-hangs; exit 6", host="node1")
    site.until_logged("hangs", b"begun")
    main = "systemctl show --property=MainPID --value pool-runner.service"
    before = site.on("node1", main)
    site.on("node1", f"kill -STOP {before}")
    until(lambda: site.on("node1", main) not in ("0", before), "another runner")
    until(lambda: site.listed()["node1"]["status"] == "ready", "the link")
    site.make_in_jobs_home("node1", "go-hangs")
    job = site.end_of("hangs")
    assert (job["status"], job["exit_code"]) == ("failed", 6)
