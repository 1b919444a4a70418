"""What devices say, taken into the database: in batches, in any order, any number of times.

`reported` is news if it is numbered later than what is known of the same store; events and
windows are rows under (device, store, seq). What is malformed, or of a device that nobody added,
is dropped and counted. An event is acknowledged after its transaction has ended, so what a
device deletes stands in the database. What a device refused goes into the audit log, once, as does
the first sign of two devices that live with one identity, and a receipt that does not hold.
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
    EventKind,
    Presence,
    Reported,
    SignedReceipt,
    Telemetry,
    Wants,
)
from wherry.names import DeviceId, Digest, RolloutName
from wherry.reasons import Phase, Reason, Status
from wherry.topics import (
    AcksTopic,
    BlobTopic,
    BundleTopic,
    DesiredTopic,
    EventsTopic,
    MetadataTopic,
    PresenceTopic,
    ReportedTopic,
    TelemetryTopic,
    TimestampTopic,
    Topic,
    WantsTopic,
    parse_topic,
)
from wherry_controller.core.audit import Kind
from wherry_controller.core.device import Position, earlier_after, is_news, is_twin
from wherry_controller.core.receipt import BadReceipt
from wherry_controller.services import audit, receipts
from wherry_controller.services.fleet import outrun
from wherry_controller.services.publisher import ReadBack
from wherry_controller.services.telemetry import window_of
from wherry_controller.store import devices, telemetry, trials
from wherry_controller.store.database import Store, Transaction
from wherry_controller.store.records import Device, EventRecord, Flag, Journey, Window

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
    EARLIER_ENROLMENT = "earlier_enrolment"
    WANTS_REFUSED = "wants_refused"
    RECEIPT_REFUSED = "receipt_refused"


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a device; `live` unless the broker had kept it from earlier."""

    device: DeviceId
    said: Said
    live: bool


@dataclass(slots=True)
class Taken:
    """What a batch leads to once it is committed; `moved` are rollouts whose devices moved.

    `has_outrun` says that an order was made newer, so that its device follows it; `refused` are
    the ways in which receipts of devices were wrong.
    """

    acks: dict[DeviceId, Ack] = field(default_factory=dict)
    moved: set[RolloutName] = field(default_factory=set)
    wants: list[tuple[DeviceId, tuple[Digest, ...]]] = field(default_factory=list)
    has_outrun: bool = False
    refused: set[tuple[DeviceId, str]] = field(default_factory=set)


@dataclass(slots=True)
class _Batch:
    """What is added at the end of a transaction, and what leads further."""

    taken: Taken
    events: list[EventRecord] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)


class Ingest:
    """Takes what devices say; one thread calls it. `dropped` counts what was not taken."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.dropped: Counter[Drop] = Counter()
        self._bad_receipts: set[tuple[DeviceId, str]] = set()

    def read(self, topic: str, payload: bytes, *, retained: bool) -> Message | ReadBack | None:
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
            batch = _Batch(taken)
            for message in known:
                self._take_one(tx, message, batch, now)
            telemetry.add_windows(tx, batch.windows)
            for device, acks in telemetry.add_events(tx, batch.events).items():
                taken.acks[device] = acks[-1]
        self._bad_receipts |= taken.refused
        return taken

    def _take_one(self, tx: Transaction, message: Message, batch: _Batch, now: float) -> None:
        match message.said:
            case Reported() as reported:
                self._take_reported(tx, message.device, reported, batch.taken, now)
            case Event() as event:
                self._take_event(tx, message.device, event, batch, now)
            case Telemetry() as window:
                batch.windows.append(window_of(message.device, window, now))
            case Presence() as presence:
                _take_presence(tx, message.device, presence)
            case Wants(digests=digests):
                batch.taken.wants.append((message.device, digests))
            case _:
                assert_never(message.said)

    def _take_reported(
        self, tx: Transaction, device: DeviceId, reported: Reported, taken: Taken, now: float
    ) -> None:
        taken.moved |= _take_reported(tx, device, reported, now)
        telemetry.begin_at(tx, device, reported.store_id, reported.oldest_event)
        taken.has_outrun |= outrun(tx, device, reported.generation)
        for receipt in reported.receipts.values():
            self._take_receipt(tx, device, receipt, taken, now)

    def _take_event(
        self, tx: Transaction, device: DeviceId, event: Event, batch: _Batch, now: float
    ) -> None:
        record = _record(device, event, now)
        if event.kind is EventKind.REFUSAL and _is_new(tx, record, batch.events):
            _note_refusal(tx, device, event, now)
        batch.events.append(record)
        if event.trial is not None:
            trials.take_result(tx, device, event.trial, now)
        if event.deployment is not None:
            batch.taken.moved |= _move(tx, device, event.deployment, now)
        if event.receipt is not None:
            self._take_receipt(tx, device, event.receipt, batch.taken, now)

    def _take_receipt(
        self,
        tx: Transaction,
        device: DeviceId,
        receipt: SignedReceipt,
        taken: Taken,
        now: float,
    ) -> None:
        """Keep what a device attests, or count it; each way to be wrong is audited once."""
        try:
            receipts.take(tx, device, receipt, now)
        except BadReceipt as error:
            self.drop(Drop.RECEIPT_REFUSED, device, error.problem)
            if (device, error.problem) not in self._bad_receipts | taken.refused:
                taken.refused.add((device, error.problem))
                facts = {"device": device, "reason": "bad_receipt", "detail": error.problem}
                audit.note(tx, Kind.REFUSED, facts, now)

    def _known(self, tx: Transaction, messages: Iterable[Message]) -> Sequence[Message]:
        live = devices.live_epochs(tx)
        known: list[Message] = []
        for message in messages:
            if message.device not in live:
                self.drop(Drop.UNKNOWN_DEVICE, message.device, "nobody has added this device")
            elif _is_of_the_past(message.said, live[message.device]):
                self.drop(Drop.EARLIER_ENROLMENT, message.device, "it was enrolled again since")
            else:
                known.append(message)
        return known


def _read(topic: str, payload: bytes, *, retained: bool) -> Message | ReadBack | None:
    """Parse at the door; raise a `Malformed`. A topic that was cleared says nothing."""
    parsed = parse_topic(topic)
    match parsed:
        case DesiredTopic() | BundleTopic() | TimestampTopic() | MetadataTopic():
            return parsed
        case BlobTopic() | AcksTopic():
            return None
        case _ if not payload:
            return None
        case _:
            said = codec.decode(_KINDS[type(parsed)], payload, limit_bytes=LARGEST_MESSAGE_BYTES)
            return Message(parsed.device, said, live=not retained)


def _is_of_the_past(said: Said, live_epoch: int) -> bool:
    """Say whether a device speaks with an identity that a later enrolment has ended."""
    trust = said.trust if isinstance(said, Reported) else None
    return trust is not None and 0 < trust.epoch < live_epoch


def _is_new(tx: Transaction, record: EventRecord, batch: Iterable[EventRecord]) -> bool:
    """Say whether neither the database nor the batch before it has an event."""
    key = (record.device, record.store_id, record.seq)
    known = ((one.device, one.store_id, one.seq) for one in batch)
    return key not in known and not telemetry.has_event(tx, *key)


def _note_refusal(tx: Transaction, device: DeviceId, event: Event, now: float) -> None:
    reason = event.reason.value if event.reason else "unknown"
    facts = {"by": device, "reason": reason, "detail": event.detail}
    audit.note(tx, Kind.REFUSED, facts, now)


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
    said = Position(reported.store_id, reported.report_seq)
    if record is None or not is_news(_position(record), said, record.earlier):
        return frozenset()
    news = replace(
        record,
        store_id=reported.store_id,
        report_seq=reported.report_seq,
        generation=reported.generation,
        reported=replace(reported, receipts={}),  # They are kept by themselves, once verified.
        root=reported.trust.root if reported.trust is not None else 0,
        flagged=_flag(tx, record, said, now),
        earlier=earlier_after(record.earlier, _position(record), said),
    )
    devices.save_device(tx, news)
    moved: frozenset[RolloutName] = frozenset()
    for deployment in (*reported.deployments.values(), *_forgotten(tx, device, reported)):
        moved |= _move(tx, device, deployment, now)
    return moved


def _flag(tx: Transaction, device: Device, said: Position, now: float) -> Flag | None:
    """Return what is wrong with a device's identity, noted when it is first seen."""
    if device.flagged is not None or not is_twin(device.earlier, said):
        return device.flagged
    facts = {
        "device": device.id,
        "flag": Flag.TWO_LIVE.value,
        "epoch": device.epoch,
        "stores": f"{device.store_id}, {said.store_id}",
    }
    audit.note(tx, Kind.FLAGGED, facts, now)
    log.warning("device.flagged", extra=facts)
    return Flag.TWO_LIVE


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
