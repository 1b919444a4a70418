"""Where the tensors of a model file stand: offsets, items and rows, without its runtime.

A file that is neither ONNX nor TFLite, or that does not parse, has no tensors: it is bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Data: TypeAlias = "bytes | memoryview"

SMALLEST_BYTES = 64  # A shorter tensor is told with the bytes around it.


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor's bytes in a file; `row` is the items of one of its first axis."""

    name: str
    start: int
    end: int
    item: int
    row: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return what two places have alike when one can be told by the other."""
        return self.end - self.start, self.item, self.row


class NoSuchFile(Exception):
    """Bytes that are not of the format that was looked for."""


def place_of(name: str, start: int, length: int, item: int, dims: Sequence[int]) -> Place:
    """Return the place of a tensor of so many bytes, whose rows may be unknown."""
    rows = dims[0] if dims and dims[0] > 0 else 1
    count = length // item
    return Place(name, start, start + length, item, count // rows if count % rows == 0 else count)


def in_order(places: Iterable[Place]) -> list[Place]:
    """Return the places worth a window, by offset, each byte in one of them at most."""
    ordered: list[Place] = []
    for place in sorted(places, key=lambda place: (place.start, -place.end)):
        is_apart = not ordered or place.start >= ordered[-1].end
        is_whole = (place.end - place.start) % place.item == 0
        if is_apart and is_whole and place.end - place.start >= SMALLEST_BYTES:
            ordered.append(place)
    return ordered


def paired(new: Sequence[Place], base: Sequence[Place]) -> dict[Place, Place]:
    """Return for each tensor the one of the base that it most likely comes of.

    That is the one of its name if it has the same shape; else, as exporters number their names
    anew, the next of that shape whose name nobody has.
    """
    by_name = {place.name: place for place in base}
    pairs = {
        place: by_name[place.name]
        for place in new
        if place.name in by_name and by_name[place.name].shape == place.shape
    }
    taken = set(pairs.values())
    left: dict[tuple[int, int, int], Iterator[Place]] = {}
    spare: defaultdict[tuple[int, int, int], list[Place]] = defaultdict(list)
    for place in base:
        if place not in taken:
            spare[place.shape].append(place)
    for place in new:
        if place not in pairs:
            rest = left.setdefault(place.shape, iter(spare[place.shape]))
            if (found := next(rest, None)) is not None:
                pairs[place] = found
    return pairs
