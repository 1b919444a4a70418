"""JSON between bytes and typed values, strict on the way in and the same bytes on the way out.

In: the length is bounded first, duplicate keys are refused (msgspec takes them silently), then
msgspec checks types. Unknown fields are ignored, so that a newer peer can speak to an older
one; a missing or unknown `format` (the tag of a document) or any entry in `critical` is Malformed.
"""

from __future__ import annotations

import json
from threading import Lock
from typing import TypeVar

import msgspec

from wherry.errors import Malformed

T = TypeVar("T")

DOCUMENT_LIMIT_BYTES = 1 << 20

_learned: set[object] = set()
_learning = Lock()
_encoder = msgspec.json.Encoder(order="deterministic")


class BadDocument(Malformed):
    """Bytes that are not the document they should be."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(what, problem)
        self.what, self.problem = what, problem

    def __str__(self) -> str:
        return f"this is no {self.what}: {self.problem}; send one that its schema allows."


def encode(value: object) -> bytes:
    """Return `value` as UTF-8 JSON; equal values give equal bytes."""
    return _encoder.encode(value)


def decode(kind: type[T], data: bytes, *, limit_bytes: int = DOCUMENT_LIMIT_BYTES) -> T:
    """Return the `kind` that `data` holds; raise `BadDocument` where it holds none."""
    what = kind.__name__
    if len(data) > limit_bytes:
        raise BadDocument(what, f"it has {len(data)} bytes and {limit_bytes} are allowed")
    outermost = _parse_without_repeated_keys(what, data)
    tag_field = getattr(getattr(kind, "__struct_config__", None), "tag_field", None)
    if tag_field and isinstance(outermost, frozenset) and tag_field not in outermost:
        # msgspec takes a missing tag for the right one; a signature must not stretch that far.
        raise BadDocument(what, f"it does not say its {tag_field}")
    try:
        value = msgspec.json.decode(data, type=learned(kind))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadDocument(what, str(error) or "it is nested too deeply") from error
    critical = getattr(value, "critical", ())
    if critical:
        raise BadDocument(what, f"it needs {', '.join(critical)}, which this release lacks")
    return value


def learned(kind: type[T]) -> type[T]:
    """Return `kind` once msgspec has worked out what it is made of, one thread at a time.

    Whatever threads share goes through here on its way to msgspec: measured with 0.22, two that
    meet a struct for the first time at once end the process with a segmentation fault, as one
    reads the description that the other still fills.
    """
    if kind not in _learned:
        with _learning:
            msgspec.json.Decoder(kind)
        _learned.add(kind)
    return kind


def _parse_without_repeated_keys(what: str, data: bytes) -> object:
    """Return what `data` holds, with the names of its keys in place of each object."""

    def pairs(items: list[tuple[str, object]]) -> frozenset[str]:
        names = [name for name, _ in items]
        if len(set(names)) != len(names):
            repeated = next(name for name in names if names.count(name) > 1)
            raise BadDocument(what, f"the key {repeated[:40]!r} stands twice in one object")
        return frozenset(names)

    try:
        return json.loads(data, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise BadDocument(what, str(error) or "it is nested too deeply") from error
