"""Keep what builds tried: reports, references, attempts; and older rows in the newer words.

Cards and reports of version 0.1 become those of 0.2, where a task has any metric and a source is
of any kind. A version's lineage stays the digest that it was registered under.
"""

from __future__ import annotations

import json
from typing import TypeAlias

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Document: TypeAlias = dict[str, object]

VERSION = sa.table(
    "version",
    sa.column("model", sa.String),
    sa.column("name", sa.String),
    sa.column("card", sa.Text),
)
VARIANT = sa.table(
    "variant",
    sa.column("model", sa.String),
    sa.column("version", sa.String),
    sa.column("profile", sa.String),
    sa.column("report", sa.JSON),
)


def upgrade() -> None:
    op.add_column("version", sa.Column("reference", sa.String(), nullable=True))
    op.drop_column("version", "claimed_accuracy")
    op.add_column(
        "build", sa.Column("attempts", sa.Integer(), nullable=False, server_default=sa.text("0"))
    )
    with op.batch_alter_table("variant") as variant:
        variant.alter_column("latency", existing_type=sa.JSON(none_as_null=True), nullable=True)
    _create_report()
    _rewrite_cards(op.get_bind())
    _rewrite_reports(op.get_bind())


def _create_report() -> None:
    op.create_table(
        "report",
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("profile", sa.String(), nullable=False),
        sa.Column("build", sa.String(), nullable=False),
        sa.Column("document", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("tools", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["build"], ["build.id"], name=op.f("fk_report_build")),
        sa.ForeignKeyConstraint(
            ["model", "version"],
            ["version.model", "version.name"],
            name=op.f("fk_report_model_version"),
        ),
        sa.ForeignKeyConstraint(["profile"], ["profile.name"], name=op.f("fk_report_profile")),
        sa.PrimaryKeyConstraint("model", "version", "profile", name=op.f("pk_report")),
    )


def _rewrite_cards(connection: sa.Connection) -> None:
    for model, name, text in connection.execute(sa.select(VERSION)).all():
        card = json.loads(text)
        if "class_output" in card:
            same = (VERSION.c.model == model) & (VERSION.c.name == name)
            values = {"card": json.dumps(_card(card))}
            connection.execute(sa.update(VERSION).where(same).values(values))


def _rewrite_reports(connection: sa.Connection) -> None:
    for model, version, profile, report in connection.execute(sa.select(VARIANT)).all():
        if "accuracy" in report:
            key = (VARIANT.c.model == model) & (VARIANT.c.version == version)
            same = key & (VARIANT.c.profile == profile)
            connection.execute(sa.update(VARIANT).where(same).values(report=_report(report)))


def _card(old: Document) -> Document:
    """Return a card of 0.1 as one of 0.2."""
    card = dict(old)
    source = card.pop("source")
    assert isinstance(source, dict)
    task = {"output": card.pop("class_output"), "claimed": card.pop("claimed_accuracy")}
    file, factory = source["state_dict"], source["factory"]
    named = {"kind": "state_dict", "file": file, "factory": factory}
    return {**card, "source": named, "task": task}


def _report(old: Document) -> Document:
    """Return a report of 0.1 as one of 0.2; nobody asked then how sure a drop was."""
    report = dict(old)
    value, reference = report.pop("accuracy"), report.pop("reference_accuracy")
    assert isinstance(value, float | int)
    assert isinstance(reference, float | int)
    drop = reference - value
    figures = {"value": value, "reference_value": reference, "drop_low": drop, "drop_high": drop}
    return {"metric": "accuracy", **figures, "agreement": None, **report}
