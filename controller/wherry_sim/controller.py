"""A simulated controller: the real rollout, gate and device functions over a store that survives.

The rollout's new state and its unperformed effects are one write; `kills` numbers the effects
before which the process dies, and the next start performs what is left. The broker is a cache:
what it lost or holds wrongly is read back and repaired, chunks when a device wants them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from wherry import codec
from wherry.blobs import cut
from wherry.bundle import Bundle
from wherry.manifest import blobs_of
from wherry.measures import Feedback
from wherry.messages import Ack, Deployment, Event, Order, Reported, Telemetry, Wanted, Wants
from wherry.names import AliasName, DeviceId, Digest, StoreId
from wherry.topics import (
    AcksTopic,
    BlobTopic,
    BundleTopic,
    DesiredTopic,
    EventsTopic,
    ReportedTopic,
    TelemetryTopic,
    TimestampTopic,
    Topic,
    WantsTopic,
)
from wherry.trust.making import LIFETIMES
from wherry_controller.core import device as devices
from wherry_controller.core import rollout
from wherry_controller.core.gate import Evidence, Side, judge
from wherry_sim.bundles import CHUNK_BYTES
from wherry_sim.network import Broker, Link
from wherry_sim.timeline import Action, Timeline
from wherry_sim.trust import BEGAN_AT, EPOCH, Director

JUDGE_S = 10.0
REPAIR_S = 15.0
REPUBLISH_S = 30.0
BOOT_S = 20.0  # Long enough for devices to speak while nobody listens.
CONNECT_S = 0.2


@dataclass(slots=True)
class Store:
    """The database: what outlives the process. `pending` are unperformed effects, in order."""

    rollout: bytes
    orders: dict[DeviceId, Order]
    pending: list[bytes] = field(default_factory=list)
    positions: dict[DeviceId, devices.Position] = field(default_factory=dict)
    active: dict[DeviceId, Digest | None] = field(default_factory=dict)
    events: dict[tuple[DeviceId, StoreId], dict[int, Event]] = field(default_factory=dict)
    acks: dict[DeviceId, Ack] = field(default_factory=dict)
    windows: set[tuple[DeviceId, StoreId, int]] = field(default_factory=set)
    sides: dict[tuple[DeviceId, Digest], Side] = field(default_factory=dict)


@dataclass(slots=True)
class Controller:
    timeline: Timeline
    broker: Broker
    director: Director
    alias: AliasName
    bundles: Mapping[Digest, Bundle]
    store: Store
    kills: frozenset[int] = frozenset()
    performed: int = 0
    killed: int = 0
    ingested_twice: int = 0
    dropped_wants: int = 0
    _life: int = 0
    _link: Link | None = None
    _shelved: set[Digest] = field(default_factory=set)
    _republished_s: dict[Digest, float] = field(default_factory=dict)
    _envelopes: dict[tuple[DeviceId, int], bytes] = field(default_factory=dict)

    def start(self) -> None:
        self._life += 1
        self._connect()
        self._repeat(JUDGE_S, self._judge)
        self._repeat(REPAIR_S, self._repair)
        self._publish(TimestampTopic(), self.director.timestamp)
        self._perform_pending()

    def die(self) -> None:
        self.killed += 1
        self._life += 1
        if self._link is not None:
            self.broker.close(self._link)
        self._link = None
        self._shelved.clear()
        self._republished_s.clear()
        self.timeline.after(BOOT_S, self.start)

    def state(self) -> rollout.Rollout:
        return msgspec.json.decode(self.store.rollout, type=rollout.Rollout)

    def hear(self, event: rollout.Event) -> None:
        """Let the rollout take one step: state and effects in one write, then perform."""
        state, effects = rollout.step(self.state(), event)
        self.store.rollout = codec.encode(state)
        self.store.pending += [codec.encode(effect) for effect in effects]
        self._perform_pending()

    def begin(self) -> None:
        """Start the rollout from what the devices serve now."""
        self.hear(rollout.Started(self.timeline.now_s, dict(self.store.active)))

    def _repeat(self, seconds: float, action: Action) -> None:
        life = self._life

        def again() -> None:
            if self._life == life:
                self.timeline.after(seconds, again)
                action()

        self.timeline.after(seconds, again)

    def _connect(self) -> None:
        self._link = self.broker.connect(self._receive, self._lost)
        kinds = (EventsTopic, ReportedTopic, TelemetryTopic, WantsTopic)
        self.broker.subscribe_kinds(self._link, *kinds)

    def _lost(self) -> None:
        self._link = None
        life = self._life
        self.timeline.after(CONNECT_S, lambda: self._connect() if self._life == life else None)

    def _publish(self, topic: Topic, payload: bytes) -> None:
        if self._link is not None:
            self.broker.publish_retained(self._link, topic, payload)

    # Effects

    def _perform_pending(self) -> None:
        while self.store.pending:
            self.performed += 1
            if self.performed in self.kills:
                self.die()
                return
            self._perform(msgspec.json.decode(self.store.pending[0], type=rollout.Effect))
            del self.store.pending[0]

    def _perform(self, effect: rollout.Effect) -> None:
        order = self.store.orders[effect.device]
        if isinstance(effect, rollout.Withdraw):
            order = devices.withdraw(order, effect.alias)
        else:
            self._shelve(effect.bundle)
            wanted = Wanted(
                deployment=effect.deployment,
                bundle=effect.bundle,
                probation_s=effect.probation_s,
                deadline_s=effect.deadline_s,
                policy=effect.policy,
                shadow=effect.shadow,
                split=effect.split,
            )
            order = devices.want(order, effect.alias, wanted, revoked=effect.revoked)
        order = self._issued(order)
        self.store.orders[effect.device] = order
        self._publish(DesiredTopic(effect.device), self._envelope(order))

    def _issued(self, order: Order) -> Order:
        """Return the order as it is signed now."""
        term = devices.Term(
            order.generation, order.epoch, order.issued, order.expires, order.snapshot
        )
        seen = self.director.repository.snapshot.signed.version
        now = BEGAN_AT + self.timeline.now_s
        term = devices.issue(term, EPOCH, lifetime_s=LIFETIMES.order_s, now=now, snapshot=seen)
        return msgspec.structs.replace(order, **term._asdict())

    def _envelope(self, order: Order) -> bytes:
        place = (order.device, order.generation)
        if place not in self._envelopes:
            self._envelopes[place] = self.director.desired(order)
        return self._envelopes[place]

    def _shelve(self, digest: Digest) -> None:
        if digest not in self._shelved:
            self._shelved.add(digest)
            for topic, payload in self._shelf(digest).items():
                self._publish(topic, payload)

    def _shelf(self, digest: Digest) -> dict[Topic, bytes]:
        """Return the retained messages that carry one bundle."""
        bundle = self.bundles[digest]
        shelf: dict[Topic, bytes] = {BundleTopic(digest): bundle.envelope}
        for blob in blobs_of(bundle.manifest):
            pieces = cut(bundle.blobs[blob.digest], CHUNK_BYTES)
            shelf |= {BlobTopic(c): data for c, data in zip(blob.chunks, pieces, strict=True)}
        return shelf

    # What repeats

    def _judge(self) -> None:
        state, now_s = self.state(), self.timeline.now_s
        if state.status is rollout.RolloutStatus.RUNNING:
            stage = len(state.records) - 1
            evidence = [self._evidence(state, device) for device in rollout.stage_devices(state)]
            gate, since_s = state.plan.stages[stage].gate, state.records[stage].began_s
            verdict = judge(gate, evidence, since_s=since_s, now_s=now_s)
            self.hear(rollout.Judged(stage, verdict, now_s, dict(self.store.active)))
        else:
            self.hear(rollout.Tick(now_s))

    def _evidence(self, state: rollout.Rollout, device: DeviceId) -> Evidence:
        journey = state.journeys[device]
        before = journey.before
        return Evidence(
            device=device,
            status=journey.status,
            reason=journey.reason,
            ended_s=journey.ended_s,
            candidate=self.store.sides.get((device, journey.bundle), Side()),
            incumbent=self.store.sides.get((device, before), Side()) if before else None,
        )

    def _repair(self) -> None:
        """Read the broker back, and publish what it lacks or holds wrongly."""
        wanted: dict[Topic, bytes] = {TimestampTopic(): self.director.timestamp}
        for device, order in self.store.orders.items():
            if order.generation:
                wanted[DesiredTopic(device)] = self._envelope(order)
            for wish in order.aliases.values():
                wanted[BundleTopic(wish.bundle)] = self.bundles[wish.bundle].envelope
            if device in self.store.acks:
                wanted[AcksTopic(device)] = codec.encode(self.store.acks[device])
        for topic, payload in wanted.items():
            if self.broker.retained.get(topic) != payload:
                self._publish(topic, payload)

    # What devices say

    def _receive(self, topic: Topic, payload: bytes) -> None:
        match topic:
            case EventsTopic(device):
                self._take_event(device, codec.decode(Event, payload))
            case ReportedTopic(device):
                self._take_reported(device, codec.decode(Reported, payload))
            case TelemetryTopic(device):
                self._take_window(device, codec.decode(Telemetry, payload))
            case WantsTopic(device):
                self._take_wants(device, codec.decode(Wants, payload))
            case _:
                raise AssertionError(f"nothing was subscribed that brings {topic}")

    def _take_event(self, device: DeviceId, event: Event) -> None:
        stored = self.store.events.setdefault((device, event.store_id), {})
        if event.seq in stored:
            self.ingested_twice += 1
        stored.setdefault(event.seq, event)
        ack = self.store.acks.get(device)
        before = ack.seq if ack and ack.store_id == event.store_id else 0
        seq = devices.contiguous(before, frozenset(stored))
        if seq > before:
            self.store.acks[device] = Ack(store_id=event.store_id, seq=seq)
            self._publish(AcksTopic(device), codec.encode(self.store.acks[device]))
        if event.deployment is not None:
            self._note(device, event.deployment)

    def _take_reported(self, device: DeviceId, reported: Reported) -> None:
        position = devices.Position(reported.store_id, reported.report_seq)
        if not devices.is_news(self.store.positions.get(device), position):
            return
        self.store.positions[device] = position
        if self.alias in reported.slots:
            self.store.active[device] = reported.slots[self.alias].active
        for deployment in reported.deployments.values():
            self._note(device, deployment)

    def _note(self, device: DeviceId, said: Deployment) -> None:
        reported = rollout.DeviceReported(
            device, said.deployment, said.status, self.timeline.now_s, said.reason, said.detail
        )
        self.hear(reported)

    def _take_window(self, device: DeviceId, window: Telemetry) -> None:
        place = (device, window.store_id, window.seq)
        if place in self.store.windows:
            return
        self.store.windows.add(place)
        side = self.store.sides.get((device, window.bundle), Side())
        known, more = side.feedback, window.feedback
        self.store.sides[device, window.bundle] = Side(
            feedback=Feedback(known.labelled + more.labelled, known.right + more.right),
            compute=(*side.compute, window.compute) if window.requests else side.compute,
        )

    def _take_wants(self, device: DeviceId, wants: Wants) -> None:
        shelves: dict[Topic, bytes] = {}
        for wish in self.store.orders[device].aliases.values():
            shelves |= self._shelf(wish.bundle)
        for digest in wants.digests:
            topic = BundleTopic(digest) if BundleTopic(digest) in shelves else BlobTopic(digest)
            since_s = self.timeline.now_s - self._republished_s.get(digest, -REPUBLISH_S)
            if topic not in shelves or since_s < REPUBLISH_S:
                self.dropped_wants += 1
                continue
            self._republished_s[digest] = self.timeline.now_s
            self._publish(topic, shelves[topic])
