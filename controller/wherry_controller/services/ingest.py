"""What devices say, taken into the database: in batches, in any order, any number of times.

`reported` is news if it is numbered later than what is known of the same store; events and
windows are rows under (device, store, seq). What is malformed, or of a device that nobody added,
is dropped and counted. An event is acknowledged after its transaction has ended, so what a
device deletes stands in the database.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import assert_never

from msgspec.structs import replace

from wherry import codec
from wherry.errors import Malformed
from wherry.messages import (
    Ack,
    Deployment,
    Event,
    Phase,
    Presence,
    Reason,
    Reported,
    Status,
    Telemetry,
    Wants,
)
from wherry.names import DeviceId, Digest, RolloutName
from wherry.topics import (
    AcksTopic,
    BlobTopic,
    BundleTopic,
    DesiredTopic,
    EventsTopic,
    PresenceTopic,
    ReportedTopic,
    TelemetryTopic,
    Topic,
    WantsTopic,
    parse_topic,
)
from wherry_controller.core.device import Position, is_news
from wherry_controller.services.fleet import outrun
from wherry_controller.services.telemetry import window_of
from wherry_controller.store import devices, telemetry, trials
from wherry_controller.store.database import Store, Transaction
from wherry_controller.store.records import Device, EventRecord, Journey, Window

log = logging.getLogger(__name__)

LARGEST_MESSAGE_BYTES = 256 * 1024
_PHASES = tuple(Phase)

Said = Reported | Event | Telemetry | Presence | Wants

_KINDS: Mapping[type[Topic], type[Said]] = {
    ReportedTopic: Reported,
    EventsTopic: Event,
    TelemetryTopic: Telemetry,
    PresenceTopic: Presence,
    WantsTopic: Wants,
}


class Drop(Enum):
    """Why a message was dropped."""

    MALFORMED = "malformed"
    UNKNOWN_DEVICE = "unknown_device"
    WANTS_REFUSED = "wants_refused"


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a device; `live` unless the broker had kept it from earlier."""

    device: DeviceId
    said: Said
    live: bool


@dataclass(slots=True)
class Taken:
    """What a batch leads to once it is committed; `moved` are rollouts whose devices moved.

    `has_outrun` says that an order was made newer, so that its device follows it.
    """

    acks: dict[DeviceId, Ack] = field(default_factory=dict)
    moved: set[RolloutName] = field(default_factory=set)
    wants: list[tuple[DeviceId, tuple[Digest, ...]]] = field(default_factory=list)
    has_outrun: bool = False


class Ingest:
    """Takes what devices say; one thread calls it. `dropped` counts what was not taken."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.dropped: Counter[Drop] = Counter()

    def read(
        self, topic: str, payload: bytes, *, retained: bool
    ) -> Message | DesiredTopic | BundleTopic | None:
        """Return what a device says, or the topic of what the controller said itself.

        None, and counted, where a payload is not what its topic promises.
        """
        try:
            return _read(topic, payload, retained=retained)
        except Malformed as error:
            self.drop(Drop.MALFORMED, topic, str(error))
            return None

    def drop(self, why: Drop, topic: str, problem: str) -> None:
        """Count a message that is not taken."""
        self.dropped[why] += 1
        log.warning("message.dropped", extra={"topic": topic[:200], "problem": problem})

    def take(self, messages: Sequence[Message], now: float) -> Taken:
        """Take messages in one transaction; return what follows from it."""
        taken = Taken()
        with self._store.transaction() as tx:
            known = self._known(tx, messages)
            _note_sign_of_life(tx, known, now)
            events: list[EventRecord] = []
            windows: list[Window] = []
            for message in known:
                match message.said:
                    case Reported() as reported:
                        taken.moved |= _take_reported(tx, message.device, reported, now)
                        oldest = reported.oldest_event
                        telemetry.begin_at(tx, message.device, reported.store_id, oldest)
                        taken.has_outrun |= outrun(tx, message.device, reported.generation)
                    case Event() as event:
                        events.append(_record(message.device, event, now))
                        if event.trial is not None:
                            trials.take_result(tx, message.device, event.trial, now)
                        if event.deployment is not None:
                            taken.moved |= _move(tx, message.device, event.deployment, now)
                    case Telemetry() as window:
                        windows.append(window_of(message.device, window, now))
                    case Presence() as presence:
                        _take_presence(tx, message.device, presence)
                    case Wants(digests=digests):
                        taken.wants.append((message.device, digests))
                    case _:
                        assert_never(message.said)
            telemetry.add_windows(tx, windows)
            for device, acks in telemetry.add_events(tx, events).items():
                taken.acks[device] = acks[-1]
        return taken

    def _known(self, tx: Transaction, messages: Iterable[Message]) -> Sequence[Message]:
        there = devices.known_devices(tx)
        known: list[Message] = []
        for message in messages:
            if message.device in there:
                known.append(message)
            else:
                self.drop(Drop.UNKNOWN_DEVICE, message.device, "nobody has added this device")
        return known


def _read(
    topic: str, payload: bytes, *, retained: bool
) -> Message | DesiredTopic | BundleTopic | None:
    """Parse at the door; raise a `Malformed`. A topic that was cleared says nothing."""
    parsed = parse_topic(topic)
    match parsed:
        case DesiredTopic() | BundleTopic():
            return parsed
        case BlobTopic() | AcksTopic():
            return None
        case _ if not payload:
            return None
        case _:
            said = codec.decode(_KINDS[type(parsed)], payload, limit_bytes=LARGEST_MESSAGE_BYTES)
            return Message(parsed.device, said, live=not retained)


def _note_sign_of_life(tx: Transaction, messages: Iterable[Message], now: float) -> None:
    live = {message.device for message in messages if _is_sign_of_life(message)}
    devices.note_alive(tx, live, now)


def _is_sign_of_life(message: Message) -> bool:
    """Say whether a device lives; a kept `online` says so too, since its will has not come."""
    if isinstance(message.said, Presence):
        return message.said.online
    return message.live


def _take_presence(tx: Transaction, device: DeviceId, presence: Presence) -> None:
    record = devices.get_device(tx, device)
    if record is None or record.online == presence.online:
        return
    is_an_old_will = not presence.online and record.store_id not in (None, presence.store_id)
    if not is_an_old_will:
        devices.save_device(tx, replace(record, online=presence.online))


def _take_reported(
    tx: Transaction, device: DeviceId, reported: Reported, now: float
) -> frozenset[RolloutName]:
    record = devices.get_device(tx, device)
    if record is None or not is_news(
        _position(record), Position(reported.store_id, reported.report_seq)
    ):
        return frozenset()
    news = replace(
        record,
        store_id=reported.store_id,
        report_seq=reported.report_seq,
        generation=reported.generation,
        reported=reported,
    )
    devices.save_device(tx, news)
    moved: frozenset[RolloutName] = frozenset()
    for deployment in (*reported.deployments.values(), *_forgotten(tx, device, reported)):
        moved |= _move(tx, device, deployment, now)
    return moved


def _forgotten(tx: Transaction, device: DeviceId, reported: Reported) -> list[Deployment]:
    """Return, as superseded, what no order names and what the device has seen the end of."""
    desired = devices.get_desired(tx, device)
    if reported.generation < desired.generation:
        return []
    current = {wanted.deployment for wanted in desired.aliases.values()}
    current |= {deployment.deployment for deployment in reported.deployments.values()}
    return [
        Deployment(
            deployment=journey.id,
            bundle=journey.bundle,
            status=Status.SUPERSEDED,
            reason=Reason.NEWER_ORDER,
        )
        for journey in devices.open_journeys(tx, device)
        if journey.id not in current
    ]


def _move(
    tx: Transaction, device: DeviceId, said: Deployment, now: float
) -> frozenset[RolloutName]:
    """Carry a deployment forward, never back: an outcome stays, whatever comes late."""
    journey = devices.get_journey(tx, said.deployment)
    if journey is None or journey.device != device or not _is_forward(journey, said):
        return frozenset()
    moved = replace(
        journey,
        status=said.status,
        phase=said.phase,
        reason=said.reason,
        detail=said.detail,
        started_at=journey.started_at or now,
        ended_at=now if said.status.is_final else None,
    )
    devices.save_journey(tx, moved)
    return frozenset() if journey.rollout is None else frozenset((journey.rollout,))


def _is_forward(journey: Journey, said: Deployment) -> bool:
    if journey.status.is_final:
        return False
    if said.status.is_final or journey.status is Status.QUEUED:
        return said.status is not journey.status
    return _rank(said.phase) > _rank(journey.phase)


def _rank(phase: Phase | None) -> int:
    return -1 if phase is None else _PHASES.index(phase)


def _record(device: DeviceId, event: Event, now: float) -> EventRecord:
    return EventRecord(
        device=device,
        store_id=event.store_id,
        seq=event.seq,
        body=codec.encode(event).decode(),
        received_at=now,
    )


def _position(device: Device) -> Position | None:
    if device.store_id is None or device.report_seq is None:
        return None
    return Position(device.store_id, device.report_seq)
