"""A whole fleet in one process and in no time: both sides' real machines, everything else made up.

`run` plays a scenario from a seed. It raises `BrokenLaw` as soon as a law breaks, and at the
end where the fleet did not come to what the rollout says in the scenario's time.

    timeline -> network -> engine -> device (agent's core) | controller (controller's core) -> fleet
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wherry import codec
from wherry.bundle import Bundle
from wherry.latency import LatencyRule
from wherry.manifest import blobs_of
from wherry.messages import Deployment, EventKind, Shadow, Split
from wherry.names import AliasName, DeviceId, Digest, RolloutName, StoreId
from wherry.reasons import Status
from wherry.trust.device import begin
from wherry_agent.core.agent import Saved
from wherry_agent.core.install import Idle
from wherry_controller.core.device import first_order
from wherry_controller.core.gate import Gate
from wherry_controller.core.rollout import (
    Plan,
    Rollout,
    RolloutStatus,
    Stage,
    StoppedBy,
)
from wherry_sim.bundles import CHUNK_BYTES, Behaviour, make
from wherry_sim.controller import Controller, Store
from wherry_sim.device import Device
from wherry_sim.engine import BrokenLaw, Disk, World
from wherry_sim.network import Broker, Faults
from wherry_sim.timeline import Timeline
from wherry_sim.trust import EPOCH, appoint

ALIAS = AliasName("default")
FLEET = DeviceId("fleet")
ROLLOUT_AT_S = 75.0  # By then every device has labels of what it serves.
LATEST_KILL = 45  # The effects of one whole update of a device are about as many.

GOOD = Behaviour()
CALM = Faults()
GATE = Gate(
    min_labels=200,
    latency=LatencyRule(window_requests=500),
    soak_s=20.0,
    deadline_s=900.0,
)


@dataclass(frozen=True, slots=True)
class Span:
    """A device, by its number, is without network between two times."""

    device: int
    from_s: float
    to_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What the fleet is, what it is given and what befalls it.

    Devices are numbered; the first `canaries` are the first stage. `kills` is how often each
    loses power between two effects; `controller_kills` numbers the controller's effects.
    """

    devices: int = 20
    canaries: int = 4
    old: Behaviour | None = GOOD
    new: Behaviour = GOOD
    gate: Gate = GATE
    probation_s: float = 30.0
    shadow: Shadow | None = None
    split: Split | None = None
    labels_after_s: float = 45.0
    faults: Faults = CALM
    spoils: float = 0.0
    kills: int = 0
    offline: tuple[Span, ...] = ()
    broker_restarts_s: tuple[float, ...] = ()
    controller_kills: frozenset[int] = frozenset()
    within_s: float = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it ended; `touched` are the devices on which the new version ever served.

    On those in `shared` it did so beside the old one.
    """

    status: RolloutStatus
    stopped_by: StoppedBy | None
    why: str
    took_s: float
    versions: dict[DeviceId, str]
    touched: frozenset[DeviceId]
    shared: frozenset[DeviceId]
    ended: dict[DeviceId, Status]
    kills: int
    controller_kills: int
    lost: int
    repeated: int
    chunks_asked: int
    events: int


def run(scenario: Scenario, seed: int) -> Outcome:
    """Play `scenario`; the same seed plays the same story. Raises `BrokenLaw`."""
    fleet = _Fleet(scenario, seed)
    fleet.play()
    return fleet.outcome()


def device_name(number: int) -> DeviceId:
    return DeviceId(f"device-{number:03}")


class _Fleet:
    def __init__(self, scenario: Scenario, seed: int) -> None:
        self.scenario = scenario
        self.chance = Random(seed)
        self.timeline = Timeline()
        self.broker = Broker(self.timeline, self.chance, scenario.faults)
        key = Ed25519PrivateKey.from_private_bytes(bytes([7] * 32))
        self.old, self.new = make("old", key), make("new", key)
        behaviours = {self.new.digest: scenario.new, self.old.digest: scenario.old or GOOD}
        self.director = appoint(ALIAS, (self.old, self.new))
        world = World(
            self.timeline,
            self.broker,
            self.chance,
            behaviours,
            ALIAS,
            scenario.labels_after_s,
        )
        names = [device_name(number) for number in range(scenario.devices)]
        self.devices = {name: self._device(name, world, n) for n, name in enumerate(names, 1)}
        self.controller = Controller(
            self.timeline,
            self.broker,
            self.director,
            ALIAS,
            {bundle.digest: bundle for bundle in (self.old, self.new)},
            Store(
                codec.encode(Rollout(plan=self._plan(names))),
                {name: first_order(name) for name in names},
            ),
            scenario.controller_kills,
        )

    def _device(self, name: DeviceId, world: World, number: int) -> Device:
        installed = self.scenario.old is not None
        confirmed = (self.old.digest,) if installed else ()
        disk = Disk(
            StoreId(f"{number:032x}"),
            codec.encode(Saved(aliases={ALIAS: Idle(confirmed)} if installed else {})),
            codec.encode(begin(self.director.root, epoch=EPOCH)),
        )
        if installed:
            disk.manifests[self.old.digest] = self.old.envelope
            disk.chunks |= dict(_chunks(self.old))
        kills = self.chance.sample(range(8, LATEST_KILL), self.scenario.kills)
        return Device(name, world, disk, frozenset(kills), self.scenario.spoils)

    def _plan(self, names: list[DeviceId]) -> Plan:
        scenario = self.scenario
        parts = {"canary": names[: scenario.canaries], "field": names[scenario.canaries :]}
        return Plan(
            name=RolloutName("new"),
            alias=ALIAS,
            stages=tuple(
                Stage(name=name, bundles=dict.fromkeys(part, self.new.digest), gate=scenario.gate)
                for name, part in parts.items()
            ),
            probation_s=scenario.probation_s,
            deadline_s=600.0,
            shadow=scenario.shadow,
            split=scenario.split,
        )

    def play(self) -> None:
        for device in self.devices.values():
            self.timeline.after(self.chance.uniform(0, 3), device.start)
        self.timeline.after(0.0, self.controller.start)
        self.timeline.after(ROLLOUT_AT_S, self.controller.begin)
        for span in self.scenario.offline:
            device = self.devices[device_name(span.device)]
            self.timeline.after(span.from_s, device.go_offline)
            self.timeline.after(span.to_s, device.go_online)
        for at_s in self.scenario.broker_restarts_s:
            self.timeline.after(at_s, self.broker.restart)
        check_s = ROLLOUT_AT_S
        while True:
            self.timeline.advance()
            if self.timeline.now_s >= check_s:
                check_s = self.timeline.now_s + 1.0
                if self._has_converged():
                    break
                if self.timeline.now_s > self.scenario.within_s:
                    raise self._broken("it has not come to what the rollout says in its time")
        self._check_events()

    def _has_converged(self) -> bool:
        if self.controller.store.pending or self.controller.state().status.is_open:
            return False
        return all(self._is_settled(device) for device in self.devices.values())

    def _is_settled(self, device: Device) -> bool:
        wanted = self.controller.store.orders[device.name].aliases.get(ALIAS)
        state = device.state()
        if not isinstance(state, Idle) or not device.is_told:
            return False
        return wanted is None or (
            state.settled is not None and state.settled.deployment == wanted.deployment
        )

    def _check_events(self) -> None:
        """Every event is in the controller's store, and every outcome is one event of them."""
        for device in self.devices.values():
            stored = self.controller.store.events.get((device.name, device.disk.store_id), {})
            if sorted(stored) != list(range(1, device.disk.events + 1)):
                raise self._broken(f"an event of {device.name} is lost")
            told = [
                event.deployment
                for event in stored.values()
                if event.kind is EventKind.OUTCOME and event.deployment
            ]
            self._check_outcomes(device, told)

    def _check_outcomes(self, device: Device, told: list[Deployment]) -> None:
        outcomes = {each.deployment: each.status for each in told}
        if len(outcomes) != len(told):
            raise self._broken(f"{device.name} told an outcome twice")
        state, rollout = device.state(), self.controller.state()
        if isinstance(state, Idle) and state.settled and state.settled not in told:
            raise self._broken(f"{device.name} never told its last outcome")
        for journeys in (rollout.journeys, rollout.ways_back):
            journey = journeys.get(device.name)
            if journey and outcomes.get(journey.deployment, journey.status) != journey.status:
                raise self._broken(f"the controller has another outcome of {device.name}")

    def _broken(self, law: str) -> BrokenLaw:
        return BrokenLaw(FLEET, law, self.timeline.now_s)

    def outcome(self) -> Outcome:
        state = self.controller.state()
        names = {self.old.digest: "old", self.new.digest: "new", None: "nothing"}
        devices = self.devices.values()
        return Outcome(
            status=state.status,
            stopped_by=state.stopped_by,
            why=state.why,
            took_s=self.timeline.now_s - ROLLOUT_AT_S,
            versions={device.name: names[device.engine.serving] for device in devices},
            touched=frozenset(d.name for d in devices if self.new.digest in d.engine.served),
            shared=frozenset(d.name for d in devices if self.new.digest in d.engine.shared),
            ended={name: journey.status for name, journey in state.journeys.items()},
            kills=sum(device.killed for device in devices),
            controller_kills=self.controller.killed,
            lost=self.broker.lost,
            repeated=self.broker.repeated,
            chunks_asked=sum(device.asked for device in devices),
            events=sum(device.disk.events for device in devices),
        )


def _chunks(bundle: Bundle) -> Iterator[tuple[Digest, bytes]]:
    for blob in blobs_of(bundle.manifest):
        data = bundle.blobs[blob.digest]
        for place, chunk in enumerate(blob.chunks):
            yield chunk, data[place * CHUNK_BYTES : (place + 1) * CHUNK_BYTES]
