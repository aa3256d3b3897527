"""Makes wheels of pool as a head node gets them: this checkout, what it needs, and later versions of it.

    wheels.py CHECKOUT FOLDER

FOLDER/wheels has what pool needs, for Debian 12's Python; FOLDER/other has the same files, one of them with another
content; FOLDER/dist has pool itself:

0.1.0    this checkout
0.1.1    the same, with that version
0.1.2    one whose server ends at its start
0.1.3    one that needs what no wheel brings
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

#: The host's Python, whatever the one here is.
TARGET = ["--only-binary=:all:", "--python-version=3.11"]
TARGET += [f"--platform={name}_x86_64" for name in ("manylinux2014", "manylinux_2_28", "manylinux_2_34")]
_MAIN, _BROKEN = "def main() -> int:\n", '    raise SystemExit("this version is broken")\n'
Change = Callable[[str], str]


def main(checkout: str, folder: str) -> None:
    """Make all of them; those that are there are made anew."""
    dist, wheels = Path(folder, "dist"), Path(folder, "wheels")
    pip("wheel", "--no-deps", f"--wheel-dir={dist}", checkout)
    (first,) = dist.glob("pool-0.1.0-*.whl")
    pip("download", *TARGET, f"--dest={wheels}", str(first))
    for wheel in wheels.glob("pool-*.whl"):
        wheel.unlink()
    shutil.copytree(wheels, Path(folder, "other"), dirs_exist_ok=True)
    with zipfile.ZipFile(next(Path(folder, "other").glob("idna-*.whl")), "a") as one:
        one.comment = b"another content"
    later(first, "0.1.1")
    later(first, "0.1.2", "pool/server/main.py", lambda text: text.replace(_MAIN, _MAIN + _BROKEN))
    later(first, "0.1.3", "METADATA", lambda text: text.replace("\n\n", "\nRequires-Dist: not-there\n\n", 1))


def later(wheel: Path, version: str, changed: str = "", change: Change = str) -> None:
    """The wheel with another version, and one of its files changed besides."""
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(wheel.parent / renamed(wheel.name, version), "w") as new:
        for name in old.namelist():
            text = old.read(name)
            if name.endswith(("dist-info/METADATA", "dist-info/RECORD")) or name == "pool/__init__.py":
                text = renamed(text.decode(), version).encode()
            if changed and name.endswith(changed):
                text = change(text.decode()).encode()
            new.writestr(renamed(name, version), text)


def renamed(text: str, version: str) -> str:
    """The text, in which pool has this version."""
    return re.sub(r'(pool-|^Version: |^__version__ = ")0\.1\.0', rf"\g<1>{version}", text, flags=re.M)


def pip(*words: str) -> None:
    """Run pip; an error ends it all."""
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
