"""A database of release 0.1 after its upgrade: what stood in it, in the words of this release."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from wherry.names import parse_model_name, parse_version_name
from wherry_controller.core.card import SourceKind
from wherry_controller.services.models import card_of, version_of
from wherry_controller.store import models
from wherry_controller.store.database import Transaction, open_store
from wherry_controller.store.records import VersionStatus
from wherry_controller.store.tables import Row

OLD = Path(__file__).parents[2] / "vectors" / "controller-database-1.sql"
DIGITS = parse_model_name("digits")
V1 = parse_version_name("v1")


@pytest.fixture
def upgraded(tmp_path: Path) -> Path:
    path = tmp_path / "wherry.db"
    connection = sqlite3.connect(path)
    connection.executescript(OLD.read_text())
    connection.close()
    open_store(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def tx(upgraded: Path) -> Iterator[Transaction]:
    store = open_store(f"sqlite:///{upgraded}")
    with store.reading() as transaction:
        yield transaction
    store.close()


def test_an_upgraded_database_has_the_schema_of_a_new_one(upgraded: Path) -> None:
    engine = create_engine(f"sqlite:///{upgraded}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Row.metadata) == []
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    engine.dispose()


def test_a_card_of_an_earlier_release_is_read(tx: Transaction) -> None:
    card = card_of(version_of(tx, DIGITS, V1))
    assert (card.source.kind, card.source.file) == (SourceKind.STATE_DICT, "weights.pt")
    assert (card.task.class_output, card.task.claimed) == ("scores", 0.96)
    assert card.goal.floor == 0.9


def test_variants_of_an_earlier_release_keep_their_figures(tx: Transaction) -> None:
    first, second = models.list_variants(tx, DIGITS, V1)
    assert (first.report.value, first.report.reference_value) == (0.95, 0.96)
    assert first.report.drop_low == first.report.drop_high == pytest.approx(0.01)
    assert first.latency is not None and first.latency.p50_ms == 0.18
    assert {first.profile, second.profile} == {"pi-onnx-fp32", "x86-onnx-fp32"}


def test_a_version_that_was_refused_stays_so(tx: Transaction) -> None:
    refused = version_of(tx, DIGITS, parse_version_name("v2"))
    assert (refused.status, refused.reason) == (VersionStatus.REFUSED, "output_not_finite")


def test_builds_of_an_earlier_release_are_listed(tx: Transaction) -> None:
    statuses = {build.version: build.status.value for build in models.list_builds(tx)}
    assert statuses == {"v1": "succeeded", "v2": "refused"}
