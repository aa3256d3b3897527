"""Debian's docker-registry on a machine of a lab, with TLS and a login, and images made for it.

Hosts reach it through a gate of this process, which can be slow, and can keep one of them waiting.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import json
import os
import socket
import ssl
import subprocess
import tarfile
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import bcrypt

from pool.lab import apt, image
from tests.system.site import Site, until

#: What every machine needs: Debian's engine, and cards handed out by name as NVIDIA's runtime does.
INSTALL = r"""
set -e; export DEBIAN_FRONTEND=noninteractive
apt-get -q update && apt-get -q install -y --no-install-recommends docker.io docker-registry openssl
systemctl disable --now docker-registry
echo '{"runtimes": {"nvidia": {"path": "runc"}}}' > /etc/docker/daemon.json
systemctl restart docker
"""
_SERVE = r"""
set -e; mkdir -p /srv/registry /etc/registry && cd /etc/registry
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out cert.pem -days 30 \
    -subj /CN=registry -addext subjectAltName=IP:%(gate)s,IP:%(address)s
echo '%(login)s' > htpasswd
cat > config.yml <<END
version: 0.1
log: {level: info}
storage: {filesystem: {rootdirectory: /srv/registry}, delete: {enabled: true}}
auth: {htpasswd: {realm: lab, path: /etc/registry/htpasswd}}
http: {addr: ':5000', tls: {certificate: /etc/registry/cert.pem, key: /etc/registry/key.pem}}
END
systemd-run --quiet --unit=registry --property=StandardOutput=append:/var/log/registry.log \
    docker-registry serve /etc/registry/config.yml
"""
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_CHUNK = 1 << 16


class Registry:
    """The registry on one machine of `site`; every machine trusts its certificate."""

    def __init__(self, site: Site, on: str, username: str, password: str) -> None:
        self._site, self._on = site, on
        self._login = base64.b64encode(f"{username}:{password}".encode()).decode()
        address = site.hosts[on].address
        self.gate = Gate(address.rpartition(".")[0] + ".1", (address, 5000))
        self.name = f"{self.gate.address}:{self.gate.port}"
        hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4, prefix=b"2b")).decode()
        wants = {"gate": self.gate.address, "address": address, "login": f"{username}:{hashed}"}
        site.on(on, _SERVE % wants)
        certificate = site.on(on, "cat /etc/registry/cert.pem")
        for each in site.hosts:
            folder = f"/etc/docker/certs.d/{self.name}"
            site.on(each, f"mkdir -p {folder} && echo '{certificate}' > {folder}/ca.crt")
        context = ssl.create_default_context(cadata=certificate)
        self._url = f"https://{address}:5000"
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        until(self._answers, "the registry")

    def push(self, name: str, *layers: bytes, arch: str = "amd64", **config: Any) -> str:
        """Put an image of these layers (tars) under `repository:tag`; its digest."""
        packed = [gzip.compress(layer, 1, mtime=0) for layer in layers]
        about = {
            "architecture": arch,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in layers]},
        }
        data = json.dumps(about).encode()
        repository = name.partition(":")[0]
        for blob in (data, *packed):
            self._put_blob(repository, blob)
        kind = "application/vnd.docker.container.image.v1+json"
        layer_kind = "application/vnd.docker.image.rootfs.diff.tar.gzip"
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": kind, "size": len(data), "digest": _digest(data)},
            "layers": [{"mediaType": layer_kind, "size": len(each), "digest": _digest(each)} for each in packed],
        }
        return self.put_manifest(name, manifest)

    def push_list(self, name: str, digest: str, arch: str) -> str:
        """Put a list of one image, for machines of another kind than any of ours; its digest."""
        size = len(self._ask("GET", f"/v2/{name.partition(':')[0]}/manifests/{digest}", accept=_MANIFEST)[1])
        platform = {"architecture": arch, "os": "linux"}
        entry = {"mediaType": _MANIFEST, "size": size, "digest": digest, "platform": platform}
        return self.put_manifest(name, {"schemaVersion": 2, "mediaType": _LIST, "manifests": [entry]})

    def put_manifest(self, name: str, manifest: dict[str, Any]) -> str:
        """Put a manifest under `repository:tag`; its digest."""
        repository, _, tag = name.partition(":")
        data = json.dumps(manifest).encode()
        self._ask("PUT", f"/v2/{repository}/manifests/{tag}", data, kind=manifest["mediaType"])
        return _digest(data)

    def tag(self, name: str, to: str) -> None:
        """Move the tag of `name` to the image with the digest `to`."""
        repository = name.partition(":")[0]
        self.put_manifest(name, json.loads(self._ask("GET", f"/v2/{repository}/manifests/{to}", accept=_MANIFEST)[1]))

    def gets(self, layer: bytes) -> int:
        """How often the layer was fetched."""
        path = f"/blobs/{_digest(gzip.compress(layer, 1, mtime=0))} "
        lines = self._site.on(self._on, "cat /var/log/registry.log").splitlines()
        return sum('"GET ' in line and path in line and " 200 " in line for line in lines)

    def _put_blob(self, repository: str, data: bytes) -> None:
        headers, _ = self._ask("POST", f"/v2/{repository}/blobs/uploads/", b"")
        self._ask("PUT", f"{headers['Location']}&digest={_digest(data)}", data, kind="application/octet-stream")

    def _ask(
        self, method: str, path: str, data: bytes | None = None, kind: str = "", accept: str = ""
    ) -> tuple[Any, bytes]:
        url = path if path.startswith("https:") else self._url + path
        headers = {"Authorization": f"Basic {self._login}", "Content-Type": kind, "Accept": accept}
        given = {name: value for name, value in headers.items() if value}
        with self._opener.open(urllib.request.Request(url, data, given, method=method), timeout=60) as answer:
            return answer.headers, answer.read()

    def _answers(self) -> bool:
        with contextlib.suppress(urllib.error.URLError):
            return bool(self._ask("GET", "/v2/")[0])
        return False


class Gate:
    """Passes connections on, as fast as `rate` (bytes/s; None: at once); those of `kept` wait until it is emptied."""

    def __init__(self, address: str, to: tuple[str, int]) -> None:
        self.address = address
        self.rate: float | None = None
        self.kept: set[str] = set()
        self.waited: set[str] = set()  #: who has been kept waiting
        self._to = to
        self._listener = socket.create_server((address, 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, (client, _) = self._listener.accept()
                threading.Thread(target=self._serve, args=(link, client), daemon=True).start()

    def _serve(self, link: socket.socket, client: str) -> None:
        while client in self.kept:
            self.waited.add(client)
            time.sleep(0.05)
        with link, socket.create_connection(self._to) as onward:
            back = threading.Thread(target=self._pass, args=(onward, link), daemon=True)
            back.start()
            self._pass(link, onward)
            back.join()

    def _pass(self, source: socket.socket, to: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                to.sendall(chunk)
                if self.rate:
                    time.sleep(len(chunk) / self.rate)
        with contextlib.suppress(OSError):
            to.shutdown(socket.SHUT_WR)


def base_layer(folder: str) -> bytes:
    """Debian with Python and busybox, and nothing else: made with mmdebstrap in a few seconds."""
    settings, sources, made = (os.path.join(folder, name) for name in ("apt.conf", "apt.sources", "base.tar"))
    for path, text in ((settings, apt.settings()), (sources, apt.sources(image.SUITE) or "")):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    argv = ["mmdebstrap", "--variant=extract", "--include=busybox-static,python3-minimal", f"--aptopt={settings}"]
    links = "for name in sh sleep cat env grep id ls test; do ln -sf busybox $1/bin/$name; done"
    argv += [f"--extract-hook={links}", image.SUITE, made, *([sources] if os.path.getsize(sources) else [])]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True, timeout=300)
    with open(made, "rb") as file:
        return file.read()


def layer(**files: bytes) -> bytes:
    """A layer with these executable files in /opt."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(f"opt/{name}")
            member.size, member.mode = len(data), 0o755
            tar.addfile(member, io.BytesIO(data))
    return made.getvalue()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
