"""How a host is reached: its jump hosts, and the interpreter that was asked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Hosts that are there are reached directly, with the interpreter that is found on them."""
    op.add_column("hosts", sa.Column("jumps", sa.JSON(), nullable=True))
    op.add_column("hosts", sa.Column("python", sa.String(), nullable=True))
