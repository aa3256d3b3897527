"""Whom the server's links log in as on a host."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """On hosts that are there: as the user they were added with, until they are provisioned again."""
    op.add_column("hosts", sa.Column("login", sa.String(), nullable=True))
