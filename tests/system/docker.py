"""What makes a lab's machine run containers, without a registry: Debian's engine and an image of one program."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.system.site import Site, machines

#: The image: busybox, and ENV FROM_IMAGE=yes. Tasks that name none get it for `python: "3.11"`.
TINY = "tiny:1"
#: Cards are handed out by name, as NVIDIA's runtime does.
_INSTALL = r"""
export DEBIAN_FRONTEND=noninteractive
apt-get -q update && apt-get -q install -y --no-install-recommends docker.io busybox-static
echo '{"live-restore": true, "runtimes": {"nvidia": {"path": "runc"}}}' > /etc/docker/daemon.json
systemctl restart docker
mkdir -p /root/image/bin /root/image/tmp && cp /bin/busybox /root/image/bin/
for name in sh sleep cat env grep id pwd touch sort seq nc; do ln -sf busybox /root/image/bin/$name; done
tar -C /root/image -c . | docker import --change 'ENV FROM_IMAGE=yes' - tiny:1
docker tag tiny:1 tiny:3.11
"""


@contextlib.contextmanager
def docker_machines(session_dir: str, name: str, number: int) -> Iterator[Site]:
    """This many machines with Docker in a pool of their own; afterwards no container of ours is left on them."""
    with machines(session_dir, name, number, POOL_DEFAULT_IMAGE="tiny:{python}") as site:
        for host in site.hosts:
            site.on(host, _INSTALL, timeout=300)
        site.settle()
        yield site
        site.clear()
        for host in site.hosts:
            assert site.on(host, "docker ps --all --quiet") == ""
        assert site.cli("server", "stop", timeout=60).rc == 0
