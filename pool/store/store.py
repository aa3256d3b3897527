"""Everything a server knows, in one object: hosts, runs, secrets, and who this pool is."""

from __future__ import annotations

import os
import secrets as random

from sqlalchemy import insert, select, update

from pool.store.database import open_database, writing
from pool.store.hosts import Hosts
from pool.store.runs import Runs
from pool.store.secrets import Secrets
from pool.store.tables import meta


class Store:
    """The store in the folder `folder`; one server at a time uses it (the server's lock)."""

    def __init__(self, folder: str) -> None:
        self._engine = open_database(os.path.join(folder, "pool.db"))
        self.hosts = Hosts(self._engine)
        self.runs = Runs(self._engine)
        self.secrets = Secrets(os.path.join(folder, "secrets"))
        self.pool_id = self._pool_id()

    def next_epoch(self) -> int:
        """A number higher than any before: hosts refuse a server whose epoch is older than one they have seen."""
        with writing(self._engine) as connection:
            found = connection.scalar(select(meta.c.value).where(meta.c.key == "epoch"))
            epoch = int(found or 0) + 1
            if found is None:
                connection.execute(insert(meta).values(key="epoch", value=str(epoch)))
            else:
                connection.execute(update(meta).where(meta.c.key == "epoch").values(value=str(epoch)))
        return epoch

    def close(self) -> None:
        """Give the database back."""
        self._engine.dispose()

    def _pool_id(self) -> str:
        with writing(self._engine) as connection:
            found = connection.scalar(select(meta.c.value).where(meta.c.key == "pool_id"))
            if found is None:
                found = random.token_hex(16)
                connection.execute(insert(meta).values(key="pool_id", value=found))
        return str(found)
