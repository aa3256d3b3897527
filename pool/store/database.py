"""Opens the database: safe settings, migrations on the way in, one kind of transaction for reads and one for writes."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event

if TYPE_CHECKING:
    from collections.abc import Callable

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_S = 10


def open_database(path: str) -> Engine:
    """The SQLite database at `path`, made or brought up to date; a copy is kept before each migration."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_S, "check_same_thread": False})
    _use_safe_settings(engine)
    _migrate(engine, path)
    return engine


def writing(engine: Engine) -> Any:
    """A transaction that takes the write lock at its start, so that what it read stays true until it commits."""
    return engine.execution_options(writing=True).begin()


def _use_safe_settings(engine: Engine) -> None:
    # WAL corrupts databases in SQLite before 3.51.3 (wal.html, "the WAL-reset bug"); our load does not need it.
    journal = "WAL" if sqlite3.sqlite_version_info >= (3, 51, 3) else "PERSIST"

    def on_connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # SQLAlchemy's "begin" event below sends our own BEGIN
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    def on_begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("writing")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    listen: Callable[..., None] = event.listen
    listen(engine, "connect", on_connect)
    listen(engine, "begin", on_begin)


def _migrate(engine: Engine, path: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    newest = ScriptDirectory.from_config(config).get_current_head()
    with engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current == newest:
        return
    if current is not None:
        shutil.copy2(path, f"{path}.{current}")
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
