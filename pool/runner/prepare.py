"""Makes a job's folder on the host: code made, script and environment written. Nothing of the job runs yet."""

from __future__ import annotations

import os
from typing import Any

from pool.runner import container_spec, durable, spec
from pool.runner.account import job_user
from pool.runner.code import Code
from pool.runner.engine import Engine, EngineError, EngineGoneError
from pool.runner.image import Images
from pool.runner.jobs import JobFolder
from pool.runner.ledger import RefusedError
from pool.runner.limits import limits


class Preparer:
    """Prepares jobs of one state folder."""

    def __init__(self, state: str, code: Code, images: Images) -> None:
        self._state, self._code, self._images = state, code, images

    def prepare(self, folder: JobFolder, asked: dict[str, Any], gpus: list[str], pool: str, uid: int) -> None:
        """Make anew the folder of a job that the user `uid` asks for. RefusedError for what cannot be, or may not."""
        if asked.get("code") and not self._code.has(asked["code"]):
            raise RefusedError("no_code", "the folder of this run is not here any more")
        who = job_user(self._state, uid)
        built = {**spec.build(folder, asked, gpus, pool, who), "limits": limits(self._state, asked)}
        if asked.get("container"):
            container = self._container(folder, asked, built)
            owner = container_spec.owner(container["user"])
            env = container_spec.environment(folder, asked, gpus, container["user"])
            built["container"] = container
        else:
            owner = (who.pw_uid, who.pw_gid)
            env = spec.environment(folder, asked, gpus, who)
        folder.remove()
        # What is in it is mounted into a container, so nobody else has to come by; a process walks there.
        os.makedirs(folder.path, mode=0o700 if "container" in built else 0o711, exist_ok=True)
        self._write(folder, asked, built, owner)
        folder.keep_exit_room()
        durable.write_json(folder.file("env.json"), env)
        durable.write_json(folder.file("spec.json"), built)

    def _container(self, folder: JobFolder, asked: dict[str, Any], built: dict[str, Any]) -> dict[str, Any]:
        image = self._images.find(asked["container"]["id"])
        if image is None:
            raise RefusedError("no_such_image", "image {} is gone again".format(asked["container"]["image"]))
        try:
            info = Engine().ask("GET", "/info")
        except (EngineError, EngineGoneError) as error:
            raise RefusedError("no_docker", str(error)) from error
        return container_spec.build(
            folder, self._state, asked, built["gpus"], built["pool"], image, built["limits"], info
        )

    def _write(self, folder: JobFolder, asked: dict[str, Any], built: dict[str, Any], owner: tuple[int, int]) -> None:
        contained = "container" in built
        if asked.get("code"):
            self._unfold(asked["code"], folder, owner)
        else:
            os.makedirs(folder.work, exist_ok=True)
            os.chown(folder.work, *owner)
        if contained:
            os.chmod(folder.work, 0o777)  # for the image's user, whoever that is; its parent is closed
        if not os.path.isdir(built["cwd"]):
            raise RefusedError(
                "bad_request", "there is no folder {!r} in the uploaded folder".format(asked["working_dir"])
            )
        _write_text(folder.file("script"), asked.get("script") or "", owner, 0o444 if contained else 0o400)
        _write_text(folder.file("hosts"), asked.get("hosts_file") or "", owner, 0o444)

    def _unfold(self, sha256: str, folder: JobFolder, owner: tuple[int, int]) -> None:
        manifest = self._code.manifest(sha256)
        if manifest is None:
            raise RefusedError("no_code", "the folder of this run has just gone")
        self._code.trees.take(manifest, owner, folder.work)


def _write_text(path: str, text: str, owner: tuple[int, int], mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(text.encode())
        file.flush()
        os.fchmod(fd, mode)
        os.fchown(fd, *owner)
