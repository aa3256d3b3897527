"""Builds the runner's zipapp: what is put on a host is `pool/runner` and nothing else, the same bytes every time.

Standard library only and run by its path, so a playbook can build it without pool being installed:
`python3 pool/provision/zipapp.py runner.pyz`.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tempfile
import zipfile

SOURCE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "runner")
_MAIN = "import sys\n\nfrom pool.runner.__main__ import main\n\nsys.exit(main(sys.argv[1:]))\n"
#: The earliest moment a zip file can tell; any fixed one would do.
_DATE = (1980, 1, 1, 0, 0, 0)


def build_runner(path: str) -> str:
    """Write the zipapp to `path`, in one step; the sha256 of its bytes. The same sources give the same bytes."""
    data = _bytes()
    handle, fresh = tempfile.mkstemp(dir=os.path.dirname(os.path.abspath(path)), prefix=".runner.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(fresh, 0o644)
        os.replace(fresh, path)
    except OSError:
        os.unlink(fresh)
        raise
    return hashlib.sha256(data).hexdigest()


def _bytes() -> bytes:
    files = {"__main__.py": _MAIN.encode(), "pool/__init__.py": b""}
    for folder, _, names in os.walk(SOURCE):
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    files["pool/runner/" + os.path.relpath(path, SOURCE).replace(os.sep, "/")] = file.read()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, files[name])
    return made.getvalue()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python3 zipapp.py runner.pyz")
    sys.stdout.write(build_runner(sys.argv[1]) + "\n")
