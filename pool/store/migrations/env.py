"""Alembic's entry: runs the migrations inside the transaction that `database.open_database` has begun."""

from __future__ import annotations

from alembic import context

from pool.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
