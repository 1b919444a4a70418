"""The audit log in a database that refuses to forget."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from tests.controller.stores import a_store
from wherry_controller.core.audit import BrokenChain, Kind, verify
from wherry_controller.services import audit
from wherry_controller.services.audit import LONGEST_FACT
from wherry_controller.store import audit as kept
from wherry_controller.store.database import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = a_store(tmp_path)
    with store.transaction() as tx:
        for number in range(3):
            audit.note(tx, Kind.ENROLLED, {"device": f"pi-{number}"}, 100.0 + number)
    yield store
    store.close()


def bodies(store: Store) -> list[str]:
    with store.reading() as tx:
        return list(kept.list_entries(tx))


def test_notes_make_a_chain_and_tell_their_head(store: Store) -> None:
    with store.transaction() as tx:
        head = audit.note(tx, Kind.REVOKED, {"device": "pi-1"}, 200.0)
    assert verify(bodies(store), head=head) == (4, head)


def test_a_note_falls_with_what_it_tells_of(store: Store) -> None:
    before = bodies(store)
    with contextlib.suppress(ZeroDivisionError), store.transaction() as tx:
        audit.note(tx, Kind.REVOKED, {"device": "pi-1"}, 200.0)
        raise ZeroDivisionError
    assert bodies(store) == before


def test_a_long_fact_is_cut(store: Store) -> None:
    with store.transaction() as tx:
        audit.note(tx, Kind.REFUSED, {"why": "x" * 10_000}, 200.0)
    assert len(bodies(store)[-1]) < LONGEST_FACT + 300


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit SET body = '{}' WHERE seq = 2",
        "DELETE FROM audit WHERE seq = 3",
        "DELETE FROM audit",
        "REPLACE INTO audit (seq, kind, body, digest) VALUES (2, 'enrolled', '{}', '')",
        "INSERT OR REPLACE INTO audit (seq, kind, body, digest) VALUES (2, 'x', '{}', '')",
    ],
)
def test_the_database_changes_no_entry(store: Store, change: str) -> None:
    before = bodies(store)
    with pytest.raises(IntegrityError, match="only grows"), store.transaction() as tx:
        tx.execute(text(change))
    assert bodies(store) == before


def test_who_drops_the_triggers_is_found_out(store: Store) -> None:
    with store.transaction() as tx:
        tx.execute(text("DROP TRIGGER audit_refuses_update"))
        tx.execute(text("UPDATE audit SET body = replace(body, 'pi-1', 'pi-9') WHERE seq = 2"))
    with pytest.raises(BrokenChain) as broken:
        verify(bodies(store))
    assert broken.value.seq == 3
