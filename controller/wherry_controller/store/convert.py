"""The one passage between rows and records."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from wherry_controller.store.database import Transaction
from wherry_controller.store.tables import Row

R = TypeVar("R", bound=msgspec.Struct)


def to_record(row: Row, kind: type[R]) -> R:
    """Return the record that stands in `row`; raise `msgspec.ValidationError` where none does."""
    return msgspec.convert(row, kind, from_attributes=True, builtin_types=(bytes,))


def columns(record: msgspec.Struct) -> dict[str, object]:
    """Return the record's fields as the database takes them, by column."""
    fields: dict[str, object] = msgspec.to_builtins(record, builtin_types=(bytes,))
    return fields


def add(tx: Transaction, kind: type[Row], record: msgspec.Struct, **more: object) -> None:
    """Put `record`, and the columns that it does not hold, into the table of `kind`."""
    tx.add(kind.model_validate(columns(record) | more))
    tx.flush()


def replace(row: Row, record: msgspec.Struct) -> None:
    """Give `row` the values of `record`."""
    row.sqlmodel_update(columns(record))
