"""Hosts in the store: kept, found, moved. Returns `pool.host.Host`, never rows."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from pool.errors import ConflictError, NotFoundError
from pool.host import Host, HostFacts, HostView, Jump, facts_from_json
from pool.states import FINISHED, HostStatus
from pool.store import moves
from pool.store.database import writing
from pool.store.tables import allocations, hosts, jobs

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What a second `add-ssh` of the same host may change.
_EDITABLE = (
    *("address", "port", "user", "key", "jumps", "python"),
    *("pool", "region", "network", "internal_ip", "labels", "price"),
)


class Hosts:
    """The hosts of one pool server."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add(self, host: Host) -> Host:
        """Keep a new host; ConflictError when its name is taken."""
        try:
            with writing(self._engine) as connection:
                connection.execute(insert(hosts).values(_to_row(host)))
        except IntegrityError as error:
            raise ConflictError(f"there is a host named {host.name} already") from error
        return host

    def edit(self, host: Host) -> None:
        """Change a host in place: all but its id, name, status, reason and facts."""
        row = _to_row(host)
        self._set(host.id, **{name: row[name] for name in _EDITABLE})

    def all(self) -> list[Host]:
        """Every host that was not removed, by name."""
        query = select(hosts).where(hosts.c.status != str(HostStatus.REMOVED)).order_by(hosts.c.name)
        with self._engine.connect() as connection:
            return [_from_row(row) for row in connection.execute(query).mappings()]

    def get(self, host_id: str) -> Host:
        """The host with this id, removed or not; NotFoundError."""
        return self._one(hosts.c.id == host_id, host_id)

    def named(self, name: str) -> Host:
        """The live host with this name; NotFoundError."""
        return self._one((hosts.c.name == name) & (hosts.c.status != str(HostStatus.REMOVED)), name)

    def move(self, host_id: str, to: HostStatus, reason: str | None = None) -> Host:
        """Move a host along `states.HOST_MOVES`; ConflictError when that is no legal move."""
        with writing(self._engine) as connection:
            moves.move_host(connection, host_id, to, reason)
        return self.get(host_id)

    def explain(self, host_id: str, reason: str | None) -> None:
        """Change why a host stands as it does."""
        self._set(host_id, reason=reason)

    def set_login(self, host_id: str, login: str | None) -> Host:
        """Keep whom links log in as; None for the user that the host was added with."""
        self._set(host_id, login=login)
        return self.get(host_id)

    def set_facts(self, host_id: str, facts: HostFacts) -> None:
        """Keep what the host's runner reported."""
        self._set(host_id, facts=asdict(facts))

    def views(self, foreign: Mapping[str, frozenset[str]]) -> list[HostView]:
        """Every host with what of it is free; `foreign`: by host id, GPUs that another pool holds there."""
        live = jobs.c.status.not_in([str(s) for s in FINISHED])
        load = (
            select(jobs.c.host_id, func.sum(jobs.c.cpus), func.sum(jobs.c.memory_mib), func.count())
            .where(live, jobs.c.host_id.is_not(None))
            .group_by(jobs.c.host_id)
        )
        with self._engine.connect() as connection:
            taken = set(connection.scalars(select(allocations.c.gpu).where(allocations.c.released == 0)))
            loads = {host_id: (cpus, memory, count) for host_id, cpus, memory, count in connection.execute(load)}
        return [
            _view(host, taken | foreign.get(host.id, frozenset()), loads.get(host.id, (0, 0, 0))) for host in self.all()
        ]

    def _set(self, host_id: str, **values: Any) -> None:
        with writing(self._engine) as connection:
            connection.execute(update(hosts).where(hosts.c.id == host_id).values(values))

    def _one(self, where: Any, asked: str) -> Host:
        with self._engine.connect() as connection:
            row = connection.execute(select(hosts).where(where)).mappings().first()
        if row is None:
            raise NotFoundError(f"there is no host {asked}", hint="pool ps")
        return _from_row(row)


def _view(host: Host, taken: set[str] | frozenset[str], load: tuple[float, int, int]) -> HostView:
    facts = host.facts
    return HostView(
        host=host,
        free_gpus=tuple(gpu for gpu in host.gpus if gpu.uuid not in taken),
        free_cpus=(facts.cpus if facts else 0) - load[0],
        free_memory_mib=(facts.memory_mib if facts else 0) - load[1],
        jobs=load[2],
    )


def _to_row(host: Host) -> dict[str, Any]:
    row = {name: getattr(host, name) for name in ("id", "name", "login", "reason", *_EDITABLE)}
    row |= {"status": str(host.status), "labels": dict(host.labels)}
    row["jumps"] = [asdict(jump) for jump in host.jumps or ()]
    return row | {"facts": asdict(host.facts) if host.facts else None}


def _from_row(row: Mapping[Any, Any]) -> Host:
    values = dict(row)
    values["status"] = HostStatus(values["status"])
    values["labels"] = tuple(sorted(values["labels"].items()))
    values["jumps"] = tuple(Jump(**jump) for jump in values["jumps"] or ())
    values["facts"] = facts_from_json(values["facts"]) if values["facts"] else None
    return Host(**values)
