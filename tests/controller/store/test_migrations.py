"""Databases of earlier releases after their upgrade, in the words of this release."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from tests.builders import A_TIME, an_alias
from tests.controller.trusts import a_trust
from wherry.names import parse_device_id, parse_model_name, parse_version_name
from wherry_controller.core import device as core
from wherry_controller.core.audit import verify
from wherry_controller.core.card import SourceKind
from wherry_controller.services.adoption import adopt
from wherry_controller.services.models import card_of, version_of
from wherry_controller.store import (
    audit,
    deltas,
    devices,
    identities,
    models,
    receipts,
    telemetry,
)
from wherry_controller.store import trust as kept
from wherry_controller.store.database import Transaction, open_store
from wherry_controller.store.records import VersionStatus
from wherry_controller.store.tables import Row

VECTORS = Path(__file__).parents[2] / "vectors"
OLD = tuple(f"controller-database-{number}.sql" for number in (1, 3, 4, 5))
DIGITS = parse_model_name("digits")
V1 = parse_version_name("v1")


def upgrade(tmp_path: Path, name: str) -> Path:
    path = tmp_path / "wherry.db"
    connection = sqlite3.connect(path)
    connection.executescript((VECTORS / name).read_text())
    connection.close()
    open_store(f"sqlite:///{path}").close()
    return path


@pytest.fixture
def upgraded(tmp_path: Path) -> Path:
    return upgrade(tmp_path, "controller-database-1.sql")


@pytest.fixture
def tx(upgraded: Path) -> Iterator[Transaction]:
    store = open_store(f"sqlite:///{upgraded}")
    with store.reading() as transaction:
        yield transaction
    store.close()


@pytest.mark.parametrize("name", OLD)
def test_an_upgraded_database_has_the_schema_of_a_new_one(tmp_path: Path, name: str) -> None:
    engine = create_engine(f"sqlite:///{upgrade(tmp_path, name)}")
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


def test_what_an_earlier_release_served_is_vouched_for(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{upgrade(tmp_path, 'controller-database-3.sql')}")
    trust = a_trust(store)
    with store.transaction() as tx:
        adopt(trust, tx, A_TIME)
        counters = {one.version: one.counter for one in kept.list_releases(tx)}
        bundles = [digest for digest, _ in kept.list_envelopes(tx)]
        wanted = [one for order in devices.list_desired(tx) for one in order.aliases.values()]
        assert trust.unpublished(tx, an_alias(), bundles) == ()
    assert counters == {"v1": 1, "v2": 2}
    assert wanted and {one.bundle for one in wanted} <= set(bundles)
    store.close()


def test_a_kept_database_has_its_fleet_its_trust_and_a_whole_log(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{upgrade(tmp_path, 'controller-database-4.sql')}")
    with store.reading() as tx:
        counters = {one.version: one.counter for one in kept.list_releases(tx)}
        enrolled = identities.list_enrolled(tx)
        certificates = [identities.certificates_of(tx, device) for device in enrolled]
        waiting = [one.device for one in identities.list_pending(tx)]
        deltas_kept = [one.size_bytes for one in deltas.list_deltas(tx)]
        log = audit.list_entries(tx)
        orders = {one.device: one.generation for one in devices.list_desired(tx)}
    assert counters == {"v1": 1, "v2": 2}
    assert (list(enrolled), waiting) == (["pi-1", "pi-2"], ["pi-4"])
    assert [[one.epoch for one in each] for each in certificates] == [[1], [1]]
    assert deltas_kept == [4096]
    assert verify(log)[0] == len(log) > 4
    assert orders == {"pi-1": 3, "pi-2": 2, "pi-3": 2}
    store.close()


def test_an_order_that_is_spelled_otherwise_now_is_issued_as_the_next_generation(
    tmp_path: Path,
) -> None:
    store = open_store(f"sqlite:///{upgrade(tmp_path, 'controller-database-4.sql')}")
    with store.reading() as tx:
        orders = [
            core.Term(one.generation, one.epoch, one.issued_at, one.expires_at, one.snapshot)
            for one in devices.list_desired(tx)
        ]
    assert orders and all(core.is_due(one, one.epoch, now=0.0) for one in orders)
    store.close()


def test_windows_of_an_earlier_release_are_read(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{upgrade(tmp_path, 'controller-database-4.sql')}")
    with store.reading() as tx:
        windows = telemetry.newest_windows(tx, parse_device_id("pi-1"))
        receipts_kept = receipts.receipts_of_device(tx, parse_device_id("pi-1"))
    assert windows and all(one.shadow is None for one in windows)
    assert receipts_kept == []
    store.close()


def test_a_kept_database_has_its_receipts_its_shadows_and_its_orders(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{upgrade(tmp_path, 'controller-database-5.sql')}")
    device = parse_device_id("pi-1")
    with store.reading() as tx:
        (receipt,) = receipts.receipts_of_device(tx, device)
        shadows = [one.shadow for one in telemetry.newest_windows(tx, device) if one.shadow]
        (order,) = [one for one in devices.list_desired(tx) if one.device == device]
    assert receipt.deployment == "v1:pi-1"
    assert [(one.requests, one.agreed, one.skipped) for one in shadows] == [(120, 119, {"busy": 3})]
    wanted = order.aliases[an_alias()]
    assert wanted.shadow is not None and wanted.split is not None
    store.close()
