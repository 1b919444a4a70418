"""Keep both sides: what windows tell besides counts, and receipts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _extend_windows()
    _keep_receipts()
    _order_anew()


def _extend_windows() -> None:
    with op.batch_alter_table("telemetry_window") as windows:
        for column in ("error_classes", "feedback", "inputs", "outputs", "shadow"):
            windows.add_column(sa.Column(column, sa.JSON(none_as_null=True), nullable=True))
        for column in ("worker_bytes", "restarts", "dropped_windows"):
            windows.add_column(sa.Column(column, sa.BigInteger(), nullable=True))
        for column in ("requests", "errors", "labelled", "right", "sent_bytes", "received_bytes"):
            windows.alter_column(column, existing_type=sa.Integer(), type_=sa.BigInteger())


def _keep_receipts() -> None:
    op.create_table(
        "receipt",
        sa.Column("deployment", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["deployment"],
            ["deployment.id"],
            name=op.f("fk_receipt_deployment"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_receipt_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("deployment", name=op.f("pk_receipt")),
    )
    op.create_index(op.f("ix_receipt_device"), "receipt", ["device"])


def _order_anew() -> None:
    """Make each order the next generation: this release spells what it wants in other bytes."""
    op.execute("UPDATE desired SET generation = generation + 1, issued_at = 0, expires_at = 0")
