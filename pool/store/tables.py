"""The tables, in SQLAlchemy Core: what the store keeps and what the database itself refuses.

`allocations` is the claim on one GPU by one job; a partial unique index makes a second live claim on it impossible.
Nothing derived is kept: a run's status comes from its jobs, a host's load from its live jobs. Environment values,
scripts and passwords are not in here: see `secrets.py`.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    text,
)

from pool.states import HostStatus, JobStatus

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, values: type[HostStatus] | type[JobStatus]) -> CheckConstraint:
    words = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({words})", name=f"{column}_known")


meta = Table(
    "meta",
    metadata,
    Column("key", String, primary_key=True),  # pool_id | epoch
    Column("value", String, nullable=False),
)

hosts = Table(
    "hosts",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("address", String, nullable=False),
    Column("port", Integer, nullable=False),
    Column("user", String, nullable=False),
    Column("key", String),
    Column("pool", String, nullable=False),
    Column("region", String, nullable=False),
    Column("network", String),
    Column("internal_ip", String),
    Column("labels", JSON, nullable=False),
    Column("price", Float, nullable=False),
    Column("jumps", JSON),
    Column("python", String),
    Column("login", String),
    Column("status", String, nullable=False),
    Column("reason", String),
    Column("facts", JSON),
    _one_of("status", HostStatus),
    Index("uq_hosts_name_live", "name", unique=True, sqlite_where=text("status != 'removed'")),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, index=True),
    Column("user", String, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("folder", String),
    Column("code", String),
    Column("repo_id", String, nullable=False),
    Column("submitted_at", Float, nullable=False),
    Column("stop_asked", String),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String, primary_key=True),
    Column("run_id", ForeignKey("runs.id"), nullable=False, index=True),
    Column("rank", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("status", String, nullable=False, index=True),
    Column("host_id", ForeignKey("hosts.id"), index=True),
    Column("gpus", JSON, nullable=False),
    Column("cpus", Float, nullable=False),
    Column("memory_mib", Integer, nullable=False),
    Column("exit_code", Integer),
    Column("reason", String),
    Column("log_bytes", Integer),
    Column("log_sha256", String),
    Column("started_at", Float),
    Column("finished_at", Float),
    _one_of("status", JobStatus),
    UniqueConstraint("run_id", "rank", "attempt"),
)

allocations = Table(
    "allocations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("job_id", ForeignKey("jobs.id"), nullable=False, index=True),
    Column("host_id", ForeignKey("hosts.id"), nullable=False),
    Column("gpu", String, nullable=False),
    Column("released", Integer, nullable=False, server_default="0"),
    Index("uq_allocations_gpu_live", "gpu", unique=True, sqlite_where=text("released = 0")),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("subject", String, nullable=False, index=True),  # a host's or job's id
    Column("before", String),
    Column("after", String, nullable=False),
    Column("reason", String),
)
