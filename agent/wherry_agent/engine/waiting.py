"""What applications ask of an alias, and how it waits for a runner that has room.

Requests wait in lanes, one for each bundle that should answer and one for whoever serves, each in
the order of their arrival, so that a side that is busy does not keep the other one waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from wherry.names import AliasName, Digest
from wherry.signature import Signature
from wherry_agent.asking import Answer, Berth, Unanswered
from wherry_agent.frames import Tensor

Lane: TypeAlias = "Digest | None"


class Asking(msgspec.Struct, frozen=True):
    """A request: inputs in the signature's order of the bundle that it was read for.

    `done` is called once, on the engine's loop; the tensors' bytes may be the caller's until then.
    In a split the same `key` is answered by the same side. Only `bundle` may answer, where it is
    given: for versions in the URL, and for states that a bundle gave.
    """

    alias: AliasName
    tensors: tuple[Tensor, ...]
    done: Callable[[Answer | Unanswered], None]
    key: str = ""
    bundle: Digest | None = None
    berth: Berth | None = None


@dataclass(slots=True, eq=False)
class Waiting:
    """A request on its way; numbers rise with arrival, and deadlines with them."""

    asking: Asking
    number: int
    came_s: float
    deadline_s: float
    signature: Signature
    lane: Lane = None
    retried: bool = False  # A runner ended over it: it is asked once more, and alone.
    alone: bool = False  # It is not merged with others (again).

    @property
    def rows(self) -> int:
        return self.asking.tensors[0].shape[0]


@dataclass(slots=True)
class Queue:
    lanes: dict[Lane, deque[Waiting]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.lanes.values()))

    def append(self, entry: Waiting) -> None:
        self.lanes.setdefault(entry.lane, deque()).append(entry)

    def put_back(self, entry: Waiting) -> None:
        """Have a request wait again, before those that came after it."""
        lane = self.lanes.setdefault(entry.lane, deque())
        place = next((at for at, other in enumerate(lane) if other.number > entry.number), None)
        if place is None:
            lane.append(entry)
        else:
            lane.insert(place, entry)

    def by_age(self) -> list[deque[Waiting]]:
        """Return the lanes in which requests wait, the one that has waited longest first."""
        lanes = [lane for lane in self.lanes.values() if lane]
        return sorted(lanes, key=lambda lane: lane[0].number) if len(lanes) > 1 else lanes

    def take_expired(self, now_s: float) -> Iterator[Waiting]:
        for lane in self.lanes.values():
            while lane and lane[0].deadline_s <= now_s:
                yield lane.popleft()

    def next_deadline_s(self) -> float | None:
        return min((lane[0].deadline_s for lane in self.lanes.values() if lane), default=None)

    def take_all(self) -> list[Waiting]:
        """Empty the queue, for its requests to be put into other lanes."""
        entries = sorted((e for lane in self.lanes.values() for e in lane), key=lambda e: e.number)
        self.lanes.clear()
        return entries
