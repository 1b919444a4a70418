"""A card as the text of `model.toml`: what `parse_card` reads, with a word on each part.

What has its default value is left out, but for what people ask about first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum

from msgspec import NODEFAULT, Struct
from msgspec.structs import FieldInfo, fields

from wherry_controller.core.card import Card

SAID = {
    "source": "the trained state, and what it takes to load it",
    "signature": "the same for applications on every device; batch stands first",
    "task": "the output that labels are compared with, and how",
    "data": "files beside this one, or functions like data.py:rows",
    "goal": "how bad a variant may be, and how much worse than in float, in the metric's own unit",
    "assets": "files that travel in every bundle",
    "lineage": "facts for people and audits",
}
SHOWN = frozenset({"max_batch", "metric", "largest_drop"})
WIDTH = 100
BARE = re.compile(r"[A-Za-z0-9_-]+")


def write_card(card: Card) -> str:
    """Return the text of `model.toml` that `parse_card` reads as `card`."""
    return "\n".join(_table("", _said_of(card))) + "\n"


def _table(path: str, items: Mapping[str, object]) -> Iterator[str]:
    """Yield the lines of a table: its values, then the tables in it."""
    below = {name: value for name, value in items.items() if isinstance(value, Struct | dict)}
    for name, value in items.items():
        if name not in below:
            yield f"{_key(name)} = {_value(value)}"
    for name, value in below.items():
        inner = f"{path}.{name}".removeprefix(".")
        lines = list(_table(inner, _said_of(value)))
        if lines:
            comment = f"  # {SAID[inner]}" if inner in SAID else ""
            yield from ("", f"[{inner}]{comment}", *lines)


def _said_of(value: object) -> Mapping[str, object]:
    """Return what is to be written of a struct or a mapping, by name."""
    if isinstance(value, Struct):
        return {
            field.name: getattr(value, field.name)
            for field in fields(value)
            if _is_said(field, getattr(value, field.name))
        }
    assert isinstance(value, dict)
    return value


def _is_said(field: FieldInfo, value: object) -> bool:
    if value is None:
        return False
    made = field.default_factory() if field.default_factory is not NODEFAULT else field.default
    return field.name in SHOWN or isinstance(value, Struct) or value != made


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case Enum():
            return _text(str(value.value))
        case str():
            return _text(value)
        case Struct():
            inner = (f"{_key(name)} = {_value(one)}" for name, one in _said_of(value).items())
            return f"{{ {', '.join(inner)} }}"
        case tuple() | list():
            return _array([_value(one) for one in value])
        case _:
            return repr(value)


def _array(items: list[str]) -> str:
    """Return items on one line, or on as many lines as they need."""
    line = f"[{', '.join(items)}]"
    if len(line) < WIDTH - 20:
        return line
    return "\n".join(["[", *(f"    {row}" for row in _rows(items)), "]"])


def _rows(items: Iterable[str]) -> Iterator[str]:
    row = ""
    for item in items:
        if row and len(row) + len(item) + 6 > WIDTH:
            yield row
            row = ""
        row = f"{row} {item},".lstrip()
    yield row


def _key(name: str) -> str:
    return name if BARE.fullmatch(name) else _text(name)


def _text(text: str) -> str:
    # TOML escapes as JSON does, and DEL as well.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
