"""The one passage between rows and records."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from wherry.codec import learned
from wherry_controller.store.database import Transaction
from wherry_controller.store.tables import Row

R = TypeVar("R", bound=msgspec.Struct)


def to_record(row: Row, kind: type[R]) -> R:
    """Return the record that stands in `row`; raise `msgspec.ValidationError` where none does."""
    return msgspec.convert(row, learned(kind), from_attributes=True, builtin_types=(bytes,))


def columns(record: msgspec.Struct) -> dict[str, object]:
    """Return the record's fields as the database takes them, by column."""
    fields: dict[str, object] = msgspec.to_builtins(record, builtin_types=(bytes,))
    return fields


def get(tx: Transaction, table: type[Row], key: object, kind: type[R]) -> R | None:
    """Return the record under a primary key, if there is one."""
    row = tx.get(table, key)
    return None if row is None else to_record(row, kind)


def save(tx: Transaction, table: type[Row], record: msgspec.Struct, **more: object) -> None:
    """Put `record`, and columns that it does not hold, in the place of its key, old or new."""
    tx.merge(table.model_validate(columns(record) | more))
    tx.flush()
