"""Both sides of rollouts, read on from where the last reading ended.

A device's candidate counts from the begin of its stage. Its incumbent counts from there too where
it answers beside the candidate (shadowing, split); where one follows the other, from some time
before. What came in the last seconds is read again each time: a transaction that began before a
reading may end after it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from wherry.measures import Feedback, ShadowCounts
from wherry.names import AliasName, DeviceId, Digest, ProfileName
from wherry_controller.core.rollout import Journey, Rollout
from wherry_controller.core.sides import (
    NOTHING,
    Pair,
    RolloutSides,
    Tally,
    by_profile,
    compared,
    device_sides,
    total,
)
from wherry_controller.services.machines import state_of
from wherry_controller.store import sides
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import RolloutRecord
from wherry_controller.store.sides import Part

SETTLED_S = 30.0
MOST_KEPT = 8  # Rollouts: who looks at one looks at it again.

Key: TypeAlias = tuple[DeviceId, Digest]
Spans: TypeAlias = Mapping[Key, float]
Tallies: TypeAlias = Mapping[Key, Tally]


@dataclass(slots=True)
class _Reading:
    """What was read of one rollout up to a time, in the spans that it then had."""

    spans: Spans
    until: float
    tallies: dict[Key, Tally] = field(default_factory=dict)


class BothSides:
    """Reads both sides of rollouts; threads may share it.

    Where one bundle follows the other the incumbent counts from `before_s` before the stage.
    """

    def __init__(self, *, before_s: float) -> None:
        self._before_s = before_s
        self._readings: OrderedDict[str, _Reading] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def kept(self) -> int:
        """How many rollouts are read on from where the last reading ended."""
        return len(self._readings)

    def read(self, tx: Transaction, record: RolloutRecord, now: float) -> RolloutSides:
        """Return both sides of a rollout as they are now."""
        pairs = self.pairs(tx, record, now)
        return RolloutSides(
            rollout=record.name,
            model=record.model,
            version=record.version,
            alias=record.alias,
            status=record.status,
            at=now,
            profiles={name: compared(some) for name, some in by_profile(pairs).items()},
            devices=tuple(map(device_sides, pairs)),
        )

    def pairs(self, tx: Transaction, record: RolloutRecord, now: float) -> Sequence[Pair]:
        """Return both sides of every device that the rollout has ordered, by device."""
        state = state_of(record)
        spans = self._spans(state)
        if not spans:
            return []
        tallies = self._read(tx, record, spans, record.ended_at or now)
        profiles = sides.profiles_of(tx, sorted(state.journeys))
        return [
            _pair(device, profiles[device], journey, tallies)
            for device, journey in sorted(state.journeys.items())
            if device in profiles
        ]

    def _spans(self, state: Rollout) -> dict[Key, float]:
        """Return from when on each bundle counts on each device."""
        plan = state.plan
        is_beside = plan.shadow is not None or plan.split is not None
        spans: dict[Key, float] = {}
        for stage, record in zip(plan.stages, state.records, strict=False):
            for device in stage.bundles:
                journey = state.journeys[device]
                spans[device, journey.bundle] = record.began_s
                incumbent = _incumbent_of(journey)
                if incumbent is not None:
                    earlier_s = 0.0 if is_beside else self._before_s
                    spans[device, incumbent] = record.began_s - earlier_s
        return spans

    def _read(self, tx: Transaction, record: RolloutRecord, spans: Spans, until: float) -> Tallies:
        """Return what every bundle did in its span, on every device."""
        with self._lock:
            reading = self._readings.pop(record.name, None)
            if reading is None or reading.spans != spans:
                reading = _Reading(spans, min(spans.values()))
            settled = max(reading.until, until - SETTLED_S)
            since, alias = reading.until, record.alias
            reading.tallies = dict(
                _added(reading.tallies, _parts(tx, alias, spans, since=since, until=settled))
            )
            reading.until = settled
            self._readings[record.name] = reading
            while len(self._readings) > MOST_KEPT:
                self._readings.popitem(last=False)
            # The last windows of a rollout that has ended come shortly after its end.
            fresh = _parts(tx, alias, spans, since=settled, until=until + SETTLED_S)
            return _added(reading.tallies, fresh)


def _incumbent_of(journey: Journey) -> Digest | None:
    return journey.before if journey.before != journey.bundle else None


def _pair(device: DeviceId, profile: ProfileName, journey: Journey, tallies: Tallies) -> Pair:
    incumbent = _incumbent_of(journey)
    return Pair(
        device=device,
        profile=profile,
        bundle=journey.bundle,
        before=incumbent,
        candidate=tallies.get((device, journey.bundle), NOTHING),
        incumbent=tallies.get((device, incumbent), NOTHING) if incumbent else NOTHING,
    )


def _parts(
    tx: Transaction, alias: AliasName, spans: Spans, *, since: float, until: float
) -> Iterable[Part]:
    bundles = {bundle for _, bundle in spans}
    return (
        part
        for part in sides.list_parts(tx, alias, bundles, since=since, until=until)
        if part.received_at >= spans.get((part.device, part.bundle), until)
    )


def _added(tallies: Tallies, parts: Iterable[Part]) -> Tallies:
    """Return the tallies with what came since."""
    more: dict[Key, list[Tally]] = defaultdict(list)
    for part in parts:
        more[part.device, part.bundle].append(_tally(part))
    grown = {key: total([tallies.get(key, NOTHING), *new]) for key, new in more.items()}
    return {**tallies, **grown}


def _tally(part: Part) -> Tally:
    return Tally(
        requests=part.requests,
        errors=part.errors,
        latency=part.latency,
        compute=part.compute,
        feedback=part.feedback or Feedback(labelled=part.labelled, right=part.right),
        shadow=part.shadow or ShadowCounts(),
    )
