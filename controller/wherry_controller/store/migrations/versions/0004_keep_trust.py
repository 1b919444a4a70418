"""Keep trust: what orders travel with, and whose they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _extend_devices()
    _extend_orders()


def _extend_devices() -> None:
    for column in ("epoch", "root"):
        op.add_column("device", _number(column))
    op.add_column("device", sa.Column("flagged", sa.String(), nullable=True))
    earlier = sa.Column(
        "earlier", sa.JSON(none_as_null=True), nullable=False, server_default=sa.text("'{}'")
    )
    op.add_column("device", earlier)


def _extend_orders() -> None:
    """Add the ends of orders; each is the next generation, for it was never issued before."""
    op.create_table(
        "enclosure",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_enclosure")),
    )
    with op.batch_alter_table("desired") as desired:
        for column in ("epoch", "snapshot"):
            desired.add_column(_number(column))
        for column in ("issued_at", "expires_at"):
            desired.add_column(
                sa.Column(column, sa.BigInteger(), nullable=False, server_default=sa.text("0"))
            )
        desired.add_column(sa.Column("enclosure", sa.String(), nullable=True))
        desired.create_foreign_key(
            op.f("fk_desired_enclosure"), "enclosure", ["enclosure"], ["digest"]
        )
    op.create_index(op.f("ix_desired_enclosure"), "desired", ["enclosure"])
    op.execute("UPDATE desired SET generation = generation + 1")


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False, server_default=sa.text("0"))
