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
    _keep_metadata()
    _keep_audit()
    _keep_identities()
    _keep_deltas()


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
        for number in ("epoch", "snapshot"):
            desired.add_column(_number(number))
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


def _keep_metadata() -> None:
    op.create_table(
        "trust_metadata",
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", sa.Float(), nullable=False),
        sa.Column("published_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("role", "version", name=op.f("pk_trust_metadata")),
    )
    op.create_table(
        "release",
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("counter", sa.Integer(), nullable=False),
        sa.Column("released_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["version.model", "version.name"],
            name=op.f("fk_release_model_version"),
        ),
        sa.PrimaryKeyConstraint("alias", "model", "version", name=op.f("pk_release")),
        sa.UniqueConstraint("alias", "counter", name=op.f("uq_release_alias_counter")),
    )


def _keep_audit() -> None:
    """Add the audit log, which the database itself only lets grow."""
    op.create_table(
        "audit",
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_kind"), "audit", ["kind"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION audit_only_grows() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the audit log only grows'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_keeps_rows BEFORE UPDATE OR DELETE ON audit "
            "FOR EACH ROW EXECUTE FUNCTION audit_only_grows()"
        )
        op.execute(
            "CREATE TRIGGER audit_keeps_all BEFORE TRUNCATE ON audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_only_grows()"
        )
        return
    for change in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_refuses_{change.lower()} BEFORE {change} ON audit "
            "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
        )
    # REPLACE deletes without the trigger above, unless recursive triggers are on.
    op.execute(
        "CREATE TRIGGER audit_refuses_replace BEFORE INSERT ON audit "
        "WHEN EXISTS (SELECT 1 FROM audit WHERE seq = NEW.seq) "
        "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
    )


def _keep_identities() -> None:
    op.create_table(
        "token",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("used_at", sa.Float(), nullable=True),
        sa.Column("csr", sa.String(), nullable=True),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["device"], ["device.id"], name=op.f("fk_token_device"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token")),
        sa.UniqueConstraint("digest", name=op.f("uq_token_digest")),
    )
    op.create_index(op.f("ix_token_device"), "token", ["device"])
    op.create_table(
        "identity",
        sa.Column("serial", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("csr", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.Column("not_before", sa.Float(), nullable=False),
        sa.Column("not_after", sa.Float(), nullable=False),
        sa.Column("issued_at", sa.Float(), nullable=False),
        sa.Column("renews", sa.String(), nullable=True),
        sa.Column("revoked_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_identity")),
    )
    for column in ("device", "csr", "revoked_at"):
        op.create_index(op.f(f"ix_identity_{column}"), "identity", [column])
    op.create_table(
        "pending",
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("csr", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=True),
        sa.Column("profile", sa.String(), nullable=True),
        sa.Column("facts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("seen_at", sa.Float(), nullable=False),
        sa.Column("decision", sa.String(), nullable=False),
        sa.Column("decided_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_pending")),
    )


def _keep_deltas() -> None:
    op.create_table(
        "delta",
        sa.Column("base", sa.String(), nullable=False),
        sa.Column("blob", sa.String(), nullable=False),
        sa.Column("index", sa.String(), nullable=True),
        sa.Column("size_bytes", sa.Integer(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("made_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("base", "blob", name=op.f("pk_delta")),
    )


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False, server_default=sa.text("0"))
