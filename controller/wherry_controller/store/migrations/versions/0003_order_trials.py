"""Order trials: what devices shall measure for builds, and what they found."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("build", sa.Column("measure_on", sa.String(), nullable=True))
    trials = sa.Column(
        "trials", sa.JSON(none_as_null=True), nullable=False, server_default=sa.text("'[]'")
    )
    op.add_column("desired", trials)
    op.create_table(
        "trial",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("build", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("profile", sa.String(), nullable=False),
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("bundle", sa.String(), nullable=False),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("ordered_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["build"], ["build.id"], name=op.f("fk_trial_build")),
        sa.ForeignKeyConstraint(["bundle"], ["bundle.digest"], name=op.f("fk_trial_bundle")),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_trial_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trial")),
    )
    for column in ("build", "device", "ended_at"):
        op.create_index(op.f(f"ix_trial_{column}"), "trial", [column])
