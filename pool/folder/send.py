"""Sends a folder to the server: its list when that is new there, and of its contents those that it has not."""

from __future__ import annotations

from pool.client import Client, again
from pool.errors import InputError
from pool.runner.manifest import flagged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pool.folder.snapshot import Snapshot

_PIECE = 1 << 20
#: What was lost on the way, as the server began anew, is sent again so often.
_TRIES = 3


def send(snapshot: Snapshot, progress: Callable[[int, int], None] = lambda _, __: None) -> int:
    """Until the server has the folder; how many bytes of its contents that took. `progress(done, total)` in bytes.

    InputError with `details["changed"]` when a file is no longer what the snapshot says: take another one.
    """
    for tried in range(1, _TRIES + 1):
        try:
            sent: int = again(lambda client: _send(client, snapshot, progress))
            return sent
        except InputError as error:
            if error.details.get("cause") != "no_upload" or tried == _TRIES:
                raise
    raise AssertionError


def _send(client: Client, snapshot: Snapshot, progress: Callable[[int, int], None]) -> int:
    manifest = snapshot.manifest
    at = f"/code/{manifest.sha256}"
    if client.get(at)["has"]:
        return 0
    answer = client.put(at, [manifest.data], len(manifest.data))
    if not answer["upload"]:
        return 0
    wanted = flagged(manifest.contents, bytes.fromhex(answer["wanted"]))
    total = int(answer["bytes"])
    client.put(f"{at}/{answer['upload']}", _pieces(snapshot, wanted, total, progress), total)
    return total


def _pieces(
    snapshot: Snapshot, wanted: list[tuple[str, int]], total: int, progress: Callable[[int, int], None]
) -> Iterator[bytes]:
    piece, done = bytearray(), 0
    for sha256, size in wanted:
        path = snapshot.sources[sha256]
        try:
            with open(path, "rb", buffering=0) as file:
                while size:
                    data = file.read(min(_PIECE, size))
                    if not data:
                        raise _changed(path)
                    size -= len(data)
                    piece += data
                    if len(piece) >= _PIECE:
                        done += len(piece)
                        yield bytes(piece)
                        piece.clear()
                        progress(done, total)
        except OSError as error:
            raise _changed(path) from error
    if piece:
        yield bytes(piece)
        progress(total, total)


def _changed(path: str) -> InputError:
    return InputError(f"{path} changed while it was sent", hint="run the command again", changed=True)
