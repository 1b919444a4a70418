"""TOML that people write, read strictly: every key must be one that its kind of file knows.

The structs of `wherry` ignore unknown fields, so that newer peers can speak to older ones. In a
file that a person wrote, an unknown key is a slip of the pen, and one that is passed over in
silence costs more than an error.
"""

from __future__ import annotations

import math
import tomllib
from typing import TypeVar

import msgspec

from wherry.codec import learned
from wherry.errors import Malformed
from wherry.profile import Profile

T = TypeVar("T")

LARGEST_FILE_BYTES = 256 * 1024


class BadFile(Malformed):
    """A TOML file that does not say what its kind of file must say."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(what, problem)
        self.what, self.problem = what, problem

    def __str__(self) -> str:
        return f"this is no {self.what}: {self.problem}; correct the file."


def parse_profile(data: bytes) -> Profile:
    """Return the profile in `data`; raise `BadFile` or `BadProfile` where there is none."""
    return read(Profile, "profile", data)


def tables_in(data: bytes) -> dict[str, object]:
    """Return what the TOML in `data` spells; raise `ValueError` where it is none.

    TOML's nan and inf are refused: no limit stops a NaN, and JSON would turn it into null.
    """
    return tomllib.loads(data.decode(), parse_float=_finite)


def read(kind: type[T], what: str, data: bytes) -> T:
    """Return the `kind` that the TOML in `data` spells; raise `BadFile` where it spells none."""
    if len(data) > LARGEST_FILE_BYTES:
        raise BadFile(what, f"it has {len(data)} bytes and {LARGEST_FILE_BYTES} are allowed")
    try:
        table = tables_in(data)
        value = msgspec.convert(table, learned(kind))
    except (ValueError, msgspec.ValidationError) as error:
        raise BadFile(what, str(error)) from error
    unknown = _unknown_key(table, msgspec.to_builtins(value))
    if unknown:
        raise BadFile(what, f"it has the unknown key {unknown!r}")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number that can be compared")
    return number


def _unknown_key(written: object, understood: object) -> str | None:
    """Return the first key that is written and was not understood, with its path."""
    for key, value, counterpart in _pairs(written, understood):
        if counterpart is _MISSING:
            return key
        below = _unknown_key(value, counterpart)
        if below:
            return f"{key}.{below}"
    return None


_MISSING = object()


def _pairs(written: object, understood: object) -> list[tuple[str, object, object]]:
    if isinstance(written, dict) and isinstance(understood, dict):
        return [(key, value, understood.get(key, _MISSING)) for key, value in written.items()]
    if isinstance(written, list) and isinstance(understood, list | tuple):
        both = zip(written, understood, strict=True)
        return [(str(index), *pair) for index, pair in enumerate(both)]
    return []
