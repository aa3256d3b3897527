"""Which of a machine's apt sources a lab host is given, and which settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from pool.lab import apt

_MODERN = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: https://vendor.example/apt
Suites: stable
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
"""
_OLD = """\
deb [arch=amd64 signed-by=/etc/apt/keyrings/a.gpg] http://old.example/debian bookworm-security main non-free # why
deb-src http://old.example/debian bookworm main
deb http://other.example/ubuntu noble main
deb http://vendor.example/debian bookworm stable
"""


def test_only_the_archive_of_the_release_is_carried(tmp_path: Path) -> None:
    """Both formats; no vendor's archive, no other release, nothing that is switched off."""
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "debian.sources").write_text(_MODERN, encoding="utf-8")
    (tmp_path / "sources.list").write_text(_OLD, encoding="utf-8")
    stanzas = apt.sources("bookworm", str(tmp_path)).split("\n\n")
    assert [line for stanza in stanzas for line in stanza.splitlines() if line.startswith(("URIs", "Signed"))] == [
        "URIs: http://mirror.example/debian",
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg",
        "URIs: http://old.example/debian",
        "Signed-By: /etc/apt/keyrings/a.gpg",
    ]
    assert apt.sources("trixie", str(tmp_path)) == ""


def test_a_proxy_of_the_environment_is_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    """apt here would use it; on the host it stands in the configuration."""
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    assert any(line.lower().startswith("acquire::http::proxy ") for line in apt.settings().splitlines())
    assert all(line.startswith("Acquire::") and line.endswith('";') for line in apt.settings().splitlines())
