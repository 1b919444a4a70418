"""Create the first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bundle",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("envelope", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_bundle")),
    )
    op.create_table(
        "device_group",
        sa.Column("name", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_device_group")),
    )
    op.create_table(
        "model",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_model")),
    )
    op.create_table(
        "profile",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("document", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_profile")),
    )
    op.create_table(
        "device",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("profile", sa.String(), nullable=False),
        sa.Column("tags", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("registered_at", sa.Float(), nullable=False),
        sa.Column("store_id", sa.String(), nullable=True),
        sa.Column("report_seq", sa.Integer(), nullable=True),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("last_seen_at", sa.Float(), nullable=True),
        sa.Column("reported", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(["profile"], ["profile.name"], name=op.f("fk_device_profile")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device")),
    )
    op.create_table(
        "version",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("card", sa.Text(), nullable=False),
        sa.Column("lineage", sa.String(), nullable=False),
        sa.Column("claimed_accuracy", sa.Float(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["model.name"], name=op.f("fk_version_model")),
        sa.PrimaryKeyConstraint("model", "name", name=op.f("pk_version")),
    )
    op.create_table(
        "build",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("profiles", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("progress", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["version.model", "version.name"],
            name=op.f("fk_build_model_version"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_build")),
    )
    op.create_index(op.f("ix_build_status"), "build", ["status"])

    op.create_table(
        "desired",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("aliases", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("revoked", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_desired_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_desired")),
    )
    op.create_table(
        "device_group_member",
        sa.Column("group", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"],
            ["device.id"],
            name=op.f("fk_device_group_member_device"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["group"],
            ["device_group.name"],
            name=op.f("fk_device_group_member_group"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("group", "device", name=op.f("pk_device_group_member")),
    )
    op.create_table(
        "event",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("store_id", sa.String(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_event_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device", "store_id", "seq", name=op.f("pk_event")),
    )
    op.create_table(
        "event_ack",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("store_id", sa.String(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_event_ack_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device", "store_id", name=op.f("pk_event_ack")),
    )
    op.create_table(
        "rollout",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("groups", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("effects", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["version.model", "version.name"],
            name=op.f("fk_rollout_model_version"),
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_rollout")),
    )
    op.create_index(op.f("ix_rollout_ended_at"), "rollout", ["ended_at"])

    op.create_table(
        "telemetry_window",
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("store_id", sa.String(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("bundle", sa.String(), nullable=False),
        sa.Column("received_at", sa.Float(), nullable=False),
        sa.Column("window_s", sa.Float(), nullable=False),
        sa.Column("requests", sa.Integer(), nullable=False),
        sa.Column("errors", sa.Integer(), nullable=False),
        sa.Column("latency", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("compute", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("labelled", sa.Integer(), nullable=False),
        sa.Column("right", sa.Integer(), nullable=False),
        sa.Column("sent_bytes", sa.Integer(), nullable=False),
        sa.Column("received_bytes", sa.Integer(), nullable=False),
        sa.Column("host", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_telemetry_window_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("device", "store_id", "seq", name=op.f("pk_telemetry_window")),
    )
    op.create_index(op.f("ix_telemetry_window_received_at"), "telemetry_window", ["received_at"])

    op.create_table(
        "variant",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("profile", sa.String(), nullable=False),
        sa.Column("bundle", sa.String(), nullable=False),
        sa.Column("precision", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("report", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("latency", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["bundle"], ["bundle.digest"], name=op.f("fk_variant_bundle")),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["version.model", "version.name"],
            name=op.f("fk_variant_model_version"),
        ),
        sa.ForeignKeyConstraint(["profile"], ["profile.name"], name=op.f("fk_variant_profile")),
        sa.PrimaryKeyConstraint("model", "version", "profile", name=op.f("pk_variant")),
    )
    op.create_index(op.f("ix_variant_bundle"), "variant", ["bundle"])

    op.create_table(
        "version_file",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["version.model", "version.name"],
            name=op.f("fk_version_file_model_version"),
        ),
        sa.PrimaryKeyConstraint("model", "version", "name", name=op.f("pk_version_file")),
    )
    op.create_table(
        "deployment",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("rollout", sa.String(), nullable=True),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("bundle", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("phase", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("ordered_at", sa.Float(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["bundle"], ["bundle.digest"], name=op.f("fk_deployment_bundle")),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_deployment_device"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["rollout"], ["rollout.name"], name=op.f("fk_deployment_rollout")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deployment")),
    )
    op.create_index(op.f("ix_deployment_device"), "deployment", ["device"])
    op.create_index(op.f("ix_deployment_rollout"), "deployment", ["rollout"])
