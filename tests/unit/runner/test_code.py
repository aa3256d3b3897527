"""The store of folders: only checked contents get in, each once, and what takes too much goes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pool.runner.code import Code
from pool.runner.code_verbs import CodeVerbs
from pool.runner.ledger import RefusedError
from pool.runner.manifest import flagged
from pool.runner.peer import Peer
from tests.code import keep, listed

GB = 1 << 30


def store(path: Path, limit: int = 1 << 40, needed: Any = list) -> Code:
    """A store, as one that is begun anew on what is there."""
    return Code(str(path), lambda: limit, needed)


def test_a_content_is_kept_once(tmp_path: Path) -> None:
    """What is there is not wanted again, by whatever folder; a folder whose contents are all there needs nothing."""
    code = store(tmp_path)
    first, contents = listed(("f", "a", b"one"), ("f", "b", b"two"))
    assert not code.has(first.sha256)
    assert keep(code, first, contents) == 6
    assert code.has(first.sha256)
    second, more = listed(("f", "a", b"one"), ("f", "c", b"three"), ("f", "d", b""))
    assert keep(code, second, more) == 5
    third, _ = listed(("f", "c", b"three"), ("f", "b", b"two"))
    assert code.begin(third.sha256, third.data) == ("", b"", 0)
    again = store(tmp_path)
    assert [again.has(each.sha256) for each in (first, second, third)] == [True] * 3


def test_the_same_folder_comes_many_times_at_once(tmp_path: Path) -> None:
    """As from several commands in one folder: each is answered, and it is kept."""
    code = store(tmp_path)
    manifest, contents = listed(*(("f", f"file{number}", b"%d" % number) for number in range(50)))
    with ThreadPoolExecutor(8) as threads:
        uploads = list(threads.map(lambda _: code.begin(manifest.sha256, manifest.data)[0], range(200)))
    assert all(uploads)
    keep(code, manifest, contents)
    assert store(tmp_path).has(manifest.sha256)


@pytest.mark.parametrize("seed", range(5))
def test_pieces_come_in_any_order(tmp_path: Path, seed: int) -> None:
    """And twice, and over the borders of contents."""
    mixed = random.Random(seed)
    data = [mixed.randbytes(mixed.choice([0, 1, 5, 1000, 70_000])) for _ in range(20)]
    manifest, _ = listed(*(("f", f"{number:02}", each) for number, each in enumerate(data)))
    stream = b"".join({hashlib.sha256(each).hexdigest(): each for each in data}.values())
    code = store(tmp_path)
    upload, _, size = code.begin(manifest.sha256, manifest.data)
    assert size == len(stream)
    pieces = [(at, stream[at : at + 3000]) for at in range(0, len(stream), 2500)]
    mixed.shuffle(pieces)
    for at, piece in [*pieces, pieces[0]]:
        code.write(upload, at, piece)
    code.finish(upload)
    assert code.has(manifest.sha256)
    for (sha256, _), (path, offset, count) in zip(
        manifest.contents,
        [code.extents([each])[0] if each[1] else ("", 0, 0) for each in manifest.contents],
        strict=True,
    ):
        found = Path(path).read_bytes()[offset : offset + count] if count else b""
        assert hashlib.sha256(found).hexdigest() == sha256
    assert len(code.extents(manifest.contents)) == 1


@pytest.mark.parametrize("wrong", ["changed", "short", "long", "gap", "before"])
def test_what_has_another_hash_gets_nowhere(tmp_path: Path, wrong: str) -> None:
    """Not even what was right of it; sent again it is taken."""
    code = store(tmp_path)
    manifest, contents = listed(("f", "a", b"one"), ("f", "b", b"two"))
    upload, _, _ = code.begin(manifest.sha256, manifest.data)
    offset, data = {
        "changed": (0, b"onetwO"),
        "short": (0, b"onetw"),
        "long": (0, b"onetwo!"),
        "gap": (3, b"two"),
        "before": (-1, b"!onetwo"),
    }[wrong]
    with pytest.raises(RefusedError) as refusal:
        code.write(upload, offset, data)
        code.finish(upload)
    assert refusal.value.cause == "bad_code"
    assert os.listdir(tmp_path / "parts") == os.listdir(tmp_path / "packs") == []
    with pytest.raises(RefusedError, match="begun again"):
        code.write(upload, 0, b"one")
    assert not code.has(manifest.sha256)
    keep(code, manifest, contents)
    assert code.has(manifest.sha256)


def test_a_list_with_another_hash_is_refused(tmp_path: Path) -> None:
    """So nobody's folder can be put under another's name."""
    manifest, _ = listed(("f", "a", b"one"))
    with pytest.raises(RefusedError, match="arrived damaged"):
        store(tmp_path).begin("0" * 64, manifest.data)
    assert os.listdir(tmp_path / "manifests") == []


@pytest.mark.parametrize("name", ["", "x", "../" + "0" * 61, "0" * 63, "0" * 65, "A" * 64, "0" * 63 + "\n", 5, None])
def test_what_is_no_hash_is_no_path(tmp_path: Path, name: Any) -> None:
    """A hash becomes a file name, so it is one or refused."""
    with pytest.raises(RefusedError, match="not a sha256"):
        store(tmp_path).has(name)


def test_what_a_power_cut_has_torn_goes(tmp_path: Path) -> None:
    """A pack of an earlier boot is checked before it is used; the rest of an upload is removed."""
    code = store(tmp_path)
    good, contents = listed(("f", "a", b"good"))
    torn, more = listed(("f", "a", b"torn"))
    keep(code, good, contents)
    (first,) = code.packs.packs_of(good.contents)
    keep(code, torn, more)
    (second,) = code.packs.packs_of(torn.contents)
    for pack in (first, second):
        path = tmp_path / "packs" / f"{pack}.index"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"boot": "earlier"}))
    (tmp_path / "packs" / second).write_bytes(b"\0\0\0\0")
    for junk in ("packs/x", "packs/y.index", "packs/z.index.new", "parts/p", "trees/t", "old.tar"):
        (tmp_path / junk).write_bytes(b"{")
    again = store(tmp_path)
    assert again.has(good.sha256)
    assert not again.has(torn.sha256)
    assert json.loads((tmp_path / "packs" / f"{first}.index").read_text())["boot"] != "earlier"
    assert sorted(os.listdir(tmp_path / "packs")) == sorted([first, f"{first}.index"])
    assert [os.listdir(tmp_path / name) for name in ("parts", "trees")] == [[], []]
    assert not (tmp_path / "old.tar").exists()
    assert keep(again, torn, more) == 4


def test_a_damaged_list_is_not_there(tmp_path: Path) -> None:
    """And is sent again."""
    code = store(tmp_path)
    manifest, contents = listed(("f", "a", b"one"))
    keep(code, manifest, contents)
    (tmp_path / "manifests" / manifest.sha256).write_bytes(manifest.data[:-3])
    again = store(tmp_path)
    assert not again.has(manifest.sha256)
    assert keep(again, manifest, contents) == 0
    assert again.has(manifest.sha256)


def test_a_pack_that_is_cut_off_goes(tmp_path: Path) -> None:
    """Whoever needs it is told, and sends it again."""
    code = store(tmp_path)
    manifest, contents = listed(("f", "a", b"one"))
    keep(code, manifest, contents)
    (pack,) = code.packs.packs_of(manifest.contents)
    os.truncate(tmp_path / "packs" / pack, 1)
    with pytest.raises(RefusedError) as refusal:
        code.trees.take(manifest, (os.geteuid(), os.getegid()), str(tmp_path / "work"))
    assert refusal.value.cause == "no_code"
    assert not (tmp_path / "work").exists()
    assert os.listdir(tmp_path / "trees") == []
    assert keep(code, manifest, contents) == 3


def test_the_least_recently_used_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is too much, and not what is needed, whatever the limit."""
    folders = [listed(("f", "a", bytes([number]) * 1000)) for number in range(4)]
    needed = [folders[0][0].sha256]
    code = store(tmp_path, 2500, lambda: needed)
    for manifest, contents in folders:
        monkeypatch.setattr("pool.runner.code._FRESH_S", 1e9)
        keep(code, manifest, contents)
    assert all(code.has(manifest.sha256) for manifest, _ in folders)
    monkeypatch.setattr("pool.runner.code._FRESH_S", 0.0)
    code.tidy()
    assert [code.has(manifest.sha256) for manifest, _ in folders] == [True, False, False, True]
    needed.clear()
    store(tmp_path, 0).tidy()
    assert os.listdir(tmp_path / "packs") == []


def test_a_folder_that_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused with the sizes, before a byte of it is taken; what may go goes first."""
    code = store(tmp_path)
    old, contents = listed(("f", "a", b"x" * 1000))
    keep(code, old, contents)
    monkeypatch.setattr("pool.runner.code._FRESH_S", 0.0)
    huge = listed(("f", "a", b""))[0]
    entry = ["f", "a", 0o644, 1, 900 * GB, "0" * 64]
    manifest = type(huge)(json.dumps({"version": 1, "entries": [entry]}).encode(), [entry])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(2000 * GB, 0, 1000 * GB))  # type: ignore[attr-defined]
    with pytest.raises(RefusedError, match=r"takes 1800\.0 GB here, and 1000\.0 GB are free") as refusal:
        code.begin(manifest.sha256, manifest.data)
    assert refusal.value.cause == "disk_full"
    assert not code.has(old.sha256)


def test_a_disk_that_fills_up_meanwhile(tmp_path: Path) -> None:
    """Its error is told and nothing of the upload stays."""
    code = store(tmp_path)
    manifest, _ = listed(("f", "a", b"one"))
    upload, _, _ = code.begin(manifest.sha256, manifest.data)
    one = code._uploads[upload]
    os.close(one._fd)
    one._fd = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space left") as raised:
        code.write(upload, 0, b"one")
    assert raised.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path / "parts") == []


def test_uploads_that_go_quiet_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while; and nobody can begin more and more of them."""
    code = store(tmp_path)
    folders = [listed(("f", "a", b"%d" % number))[0] for number in range(100)]
    names = [code.begin(manifest.sha256, manifest.data)[0] for manifest in folders]
    assert sorted(os.listdir(tmp_path / "parts")) == sorted(names[-64:])
    monkeypatch.setattr("pool.runner.code._QUIET_S", -1.0)
    (last, _, _) = code.begin(folders[0].sha256, folders[0].data)
    assert os.listdir(tmp_path / "parts") == [last]


def verbs(tmp_path: Path, live: set[str]) -> tuple[CodeVerbs, Peer]:
    """What a host answers with."""
    peer = Peer(0)
    peer.pool = "p"
    return CodeVerbs(str(tmp_path), str(tmp_path / "code"), lambda: live), peer


def send(host: CodeVerbs, peer: Peer, manifest: Any, contents: dict[str, bytes], piece: int = 7) -> None:
    """As a server does."""
    data = manifest.data
    answer: Any = {}
    for at in range(0, len(data), piece):
        head = {"sha256": manifest.sha256, "offset": at, "size": len(data)}
        answer = host.verb_code_list(peer, head, data[at : at + piece])
    head, wanted = answer
    if head["upload"]:
        stream = b"".join(contents[sha256] for sha256, _ in flagged(manifest.contents, wanted))
        host.verb_code_write(peer, {"upload": head["upload"], "offset": 0}, stream)
        host.verb_code_finish(peer, {"upload": head["upload"]}, b"")


def test_what_a_job_was_promised_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it has its folder, or is no more; `code_gb` is the limit."""
    monkeypatch.setattr("pool.runner.code._FRESH_S", 0.0)
    (tmp_path / "policy.json").write_text('{"code_gb": 0}')
    live = {"job"}
    host, peer = verbs(tmp_path, live)
    manifest, contents = listed(("f", "a", b"x"))
    assert not host.promise("job", manifest.sha256)
    send(host, peer, manifest, contents)
    assert host.promise("job", manifest.sha256)
    host.made("job")
    host.code.tidy()
    assert not host.code.has(manifest.sha256)
    assert not host.promise("job", manifest.sha256)
    send(host, peer, manifest, contents)
    live.clear()
    host.code.tidy()
    assert not host.code.has(manifest.sha256)


def test_pieces_of_a_list_that_do_not_fit(tmp_path: Path) -> None:
    """Out of order, too long, of a list that was never begun: begun again."""
    host, peer = verbs(tmp_path, set())
    for heads in (
        [{"offset": 3, "size": 10}],
        [{"offset": 0, "size": 10}, {"offset": 2, "size": 10}],
        [{"offset": 0, "size": 2}],
    ):
        with pytest.raises(RefusedError, match="begun again"):
            for head in heads:
                host.verb_code_list(peer, {"sha256": "0" * 64, **head}, b"abc")
    with pytest.raises(RefusedError, match="more than 64 MiB"):
        host.verb_code_list(peer, {"sha256": "0" * 64, "offset": 0, "size": 1 << 40}, b"abc")
    for number in range(100):  # nobody can make the runner remember more and more
        host.verb_code_list(peer, {"sha256": f"{number:064x}", "offset": 0, "size": 10}, b"abc")
    assert len(host._lists) < 20


@pytest.mark.parametrize("policy", ["nonsense", '{"code_gb": "much"}', '{"code_gb": -1}', '{"code_gb": true}'])
def test_a_limit_that_is_none_removes_nothing(tmp_path: Path, policy: str) -> None:
    """What it meant is not known."""
    (tmp_path / "policy.json").write_text(policy)
    assert verbs(tmp_path, set())[0]._limit() >= 1 << 60
