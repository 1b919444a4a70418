"""Rollout machines in the database: their states and unperformed effects, decoded and encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

from wherry import codec
from wherry.names import DeviceId, Digest, RolloutName
from wherry_controller.core.rollout import Effect, Effects, Rollout, devices_of
from wherry_controller.store import rollouts
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import RolloutRecord

LARGEST_STATE_BYTES = 64 << 20  # It names every device and holds a finding of each.


def state_of(record: RolloutRecord) -> Rollout:
    return codec.decode(Rollout, record.state.encode(), limit_bytes=LARGEST_STATE_BYTES)


def effects_of(record: RolloutRecord) -> Effects:
    return msgspec.json.decode(record.effects, type=codec.learned(tuple[Effect, ...]))


def written(
    record: RolloutRecord, state: Rollout, effects: Sequence[Effect], *, now: float
) -> RolloutRecord:
    """Return the record with a new state, and what is still to be done after it."""
    return replace(
        record,
        status=state.status.value,
        state=codec.encode(state).decode(),
        effects=codec.encode(list(effects)).decode(),
        ended_at=(record.ended_at or now) if not state.status.is_open else None,
    )


def open_machines(tx: Transaction) -> Mapping[RolloutName, Rollout]:
    return {record.name: state_of(record) for record in rollouts.open_rollouts(tx)}


def rollout_of_device(tx: Transaction, device: DeviceId) -> RolloutName | None:
    """Return the open rollout that reaches a device, if any."""
    machines = open_machines(tx).items()
    return next((name for name, state in machines if device in devices_of(state.plan)), None)


def bundles_of_ways_back(tx: Transaction) -> frozenset[Digest]:
    """Return what open rollouts may yet have to order devices back to."""
    return frozenset(
        journey.before
        for state in open_machines(tx).values()
        for journey in state.journeys.values()
        if journey.before is not None
    )
