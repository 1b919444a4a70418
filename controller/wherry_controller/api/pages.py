"""Long lists a page at a time: `limit` items after the one that `cursor` names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Depends, Query
from pydantic import BaseModel, Field

from wherry.errors import Malformed

R = TypeVar("R")
M = TypeVar("M")

DEFAULT_LIMIT = 100
LARGEST_LIMIT = 1000


class BadCursor(Malformed):
    """A cursor that names nothing in the list."""

    def __init__(self, cursor: str) -> None:
        super().__init__(cursor)
        self.cursor = cursor

    def __str__(self) -> str:
        return f"the cursor {self.cursor[:80]!r} is of no item: begin again without a cursor."


class Page(BaseModel, Generic[M]):
    items: list[M]
    next_cursor: str | None = Field(
        default=None, description="Send it as `cursor` to get the next page; null on the last one"
    )


class Range(BaseModel):
    """Which part of a list is asked for."""

    limit: int
    cursor: str | None


def _asked(
    limit: Annotated[int, Query(ge=1, le=LARGEST_LIMIT)] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=300)] = None,
) -> Range:
    return Range(limit=limit, cursor=cursor)


Asked = Annotated[Range, Depends(_asked)]


def page(
    records: Sequence[R], asked: Range, *, name: Callable[[R], str], show: Callable[[R], M]
) -> Page[M]:
    """Return the part of `records` that is asked for; `name` is what a cursor says of one."""
    begin = _after(records, asked.cursor, name) if asked.cursor else 0
    shown = records[begin : begin + asked.limit]
    has_more = begin + asked.limit < len(records)
    return Page(
        items=[show(one) for one in shown], next_cursor=name(shown[-1]) if has_more else None
    )


def _after(records: Sequence[R], cursor: str, name: Callable[[R], str]) -> int:
    for index, record in enumerate(records):
        if name(record) == cursor:
            return index + 1
    raise BadCursor(cursor)
