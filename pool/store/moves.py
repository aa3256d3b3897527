"""The one place where a status is written: along the table of legal moves, an event row in the same transaction."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sqlalchemy import insert, select, update

from pool.errors import ConflictError
from pool.states import HOST_MOVES, JOB_MOVES, HostStatus, JobStatus
from pool.store.tables import events, hosts, jobs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Table


def move_host(connection: Connection, host_id: str, to: HostStatus, reason: str | None = None) -> None:
    """Move a host; ConflictError when the table in `states.py` has no such move."""
    _move(connection, hosts, HOST_MOVES, host_id, to, {"reason": reason})


def move_job(connection: Connection, job_id: str, to: JobStatus, **changes: Any) -> None:
    """Move a job and change other columns with it; ConflictError when there is no such move from where it stands."""
    _move(connection, jobs, JOB_MOVES, job_id, to, changes)


def _move(
    connection: Connection,
    table: Table,
    moves: Mapping[Any, frozenset[Any]],
    row_id: str,
    to: HostStatus | JobStatus,
    changes: dict[str, Any],
) -> None:
    legal = [str(status) for status, targets in moves.items() if to in targets]
    before = connection.scalar(select(table.c.status).where(table.c.id == row_id))
    # Compare and set: the row is changed only from a status the table allows, whatever another process did meanwhile.
    change = update(table).where(table.c.id == row_id, table.c.status.in_(legal))
    if connection.execute(change.values(status=str(to), **changes)).rowcount != 1:
        raise ConflictError(f"{row_id} cannot go from {before} to {to}")
    connection.execute(
        insert(events).values(
            at=time.time(), subject=row_id, before=before, after=str(to), reason=changes.get("reason")
        )
    )
