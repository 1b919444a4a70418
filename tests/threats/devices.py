"""A whole device without its engine: the agent's machines, store and shelf, on a line of its own.

What the broker retains stands in `retained`; the engine takes what it is given. Kills leave the
disk. The clocks move only when a test moves them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.agent.machines import some_facts
from tests.agent.stores import chunks_of
from tests.builders import A_TIME, a_device_id, a_profile
from wherry import codec
from wherry.bundle import Bundle
from wherry.messages import Deployment, Event
from wherry.names import AliasName, Digest
from wherry.reasons import Reason
from wherry.trust import device
from wherry.trust.repository import Repository, pieces_for
from wherry_agent.core import acceptance, download, install, session
from wherry_agent.core import agent as machine
from wherry_agent.core.suitability import Machine
from wherry_agent.memory import Clocks, Enrolment, Memory
from wherry_agent.outbox import Outbox
from wherry_agent.shelf import Shelf
from wherry_agent.store import Store
from wherry_agent.telling import Teller, degraded_of

ME = a_device_id("pi-1")
PROFILE = a_profile()
RUNTIMES = {PROFILE.runtime.value: PROFILE.runtime_floor}
PROBATION_S = 60.0

News = machine.Event | acceptance.Event


@dataclass
class Broker:
    """What the broker retains of trust and bundles; `drops` names metadata that it swallows."""

    pieces: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[Digest, bytes] = field(default_factory=dict)
    chunks: dict[Digest, bytes] = field(default_factory=dict)
    drops: set[str] = field(default_factory=set)

    def retain(self, repository: Repository, *bundles: Bundle) -> None:
        self.pieces |= pieces_for(repository, [bundle.digest for bundle in bundles])
        for bundle in bundles:
            self.manifests[bundle.digest] = bundle.envelope
            self.chunks |= chunks_of(bundle)


@dataclass
class Device:
    """Plays the agent's loop; `serving`, `fetched` and `refused` are what came of it."""

    folder: Path
    root: bytes
    broker: Broker
    epoch: int = 1
    clock: float = A_TIME + 60.0
    now_s: float = 1000.0
    serving: dict[AliasName, Digest | None] = field(default_factory=dict)
    fetched: list[Digest] = field(default_factory=list)
    refused: list[Reason] = field(default_factory=list)
    _asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Come up with what is on the disk."""
        self.serving = {}
        self.store = Store(self.folder)
        outbox = Outbox(self.store.database, keep_windows=10)
        teller = Teller(
            store_id=self.store.store_id, profile=PROFILE.name, simulated=False, versions={}
        )
        clocks = Clocks(lambda: self.clock, lambda: self.now_s)
        enrolment = Enrolment(ME, PROFILE.name, self.epoch, self.root)
        self.memory = Memory(self.store, outbox, teller, enrolment, device, clocks)
        this = Machine(profile=PROFILE.name, facts=some_facts(PROFILE), runtimes=RUNTIMES)
        self.shelf = Shelf(self.store, this, clock=lambda: self.now_s)
        first = self.memory.wake(limit_bytes_per_s=None)
        self._play(deque(event for effect in first for event in self._perform(effect)))

    def kill(self) -> None:
        self.store.close()

    def connect(self) -> None:
        self._asked.clear()
        self.hear(acceptance.Joined(), session.Connected(self.now_s))

    def hear(self, *news: News) -> None:
        self._play(deque(news))

    def wait(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.clock += seconds
        self.now_s += seconds
        self.hear(machine.Tick(), acceptance.Tick(self.now_s))

    def outcome(self, alias: AliasName) -> Deployment | None:
        return install.deployment_of(self.memory.agent.aliases.get(alias, install.Idle()))

    def told(self, deployment: str) -> list[Event]:
        """Return the events in the outbox that tell of a deployment."""
        return [e for e in self.events() if e.deployment and e.deployment.deployment == deployment]

    def events(self) -> list[Event]:
        outbox = Outbox(self.store.database, keep_windows=10)
        return [codec.decode(Event, body) for body in outbox.events(0, 1 << 40)]

    def asks(self) -> set[str]:
        """Return the metadata that it has asked the broker for since it connected."""
        return set(self._asked)

    def degraded(self) -> list[Reason]:
        return list(degraded_of(self.memory.agent.aliases))

    def keeps(self) -> dict[str, object]:
        """Return what a refusal must not change."""
        states = self.memory.agent.aliases
        return {
            "serving": dict(self.serving),
            "confirmed": {a: s.confirmed for a, s in states.items() if s.confirmed},
            "disk": {place.name for place in self.store.blobs.iterdir()},
            "generation": self.memory.acceptance.trust.generation,
        }

    def _play(self, news: deque[News]) -> None:
        while news:
            event = news.popleft()
            if isinstance(event, acceptance.Event):
                judged, ordered = self.memory.judge(event)
                for one in judged:
                    news.extend(self._perform_trust(one))
            else:
                ordered = self.memory.step(event)
            for effect in ordered:
                news.extend(self._perform(effect))

    def _perform_trust(self, effect: acceptance.Effect) -> Iterable[News]:
        if isinstance(effect, acceptance.Refuse):
            self.refused.append(effect.reason)
        if not isinstance(effect, acceptance.AskTrust):
            return ()
        self._asked += effect.names
        there = [n for n in effect.names if n in self.broker.pieces and n not in self.broker.drops]
        return [acceptance.PieceCame(name, self.broker.pieces[name]) for name in there]

    def _perform(self, effect: machine.Effect) -> Iterator[machine.Event]:
        match effect:
            case machine.For(alias, install.Serve(bundle)):
                self.serving[alias] = bundle
            case machine.For(alias, install.Load(wanted)):
                loaded = install.Loaded(wanted.deployment, self.now_s, shown_by(wanted.bundle))
                gone = install.Sickened(wanted.deployment, Reason.LOAD_FAILED)
                is_there = self.shelf.place(wanted.bundle) is not None
                yield machine.Installed(alias, loaded if is_there else gone)
            case machine.OpenFetch() | machine.CloseFetch():
                yield machine.FetchLink(isinstance(effect, machine.OpenFetch))
            case download.AskManifest(bundle):
                if known := self.shelf.accept_again(bundle):
                    yield known
                elif envelope := self.broker.manifests.get(bundle):
                    yield self.shelf.accept(bundle, envelope)
            case download.AskChunks(chunks):
                for chunk in chunks:
                    self.store.put_chunk(chunk, self.broker.chunks[chunk])
                    self.fetched.append(chunk)
                    yield download.ChunkCame(chunk, self.now_s)
            case machine.Assemble(bundle):
                made = self.shelf.assemble(bundle)
                assert isinstance(made, machine.Assembled)
                yield made
            case _:
                pass


def shown_by(bundle: Digest) -> install.Shown:
    return install.Shown(
        runtime=PROFILE.runtime.value,
        runtime_version=PROFILE.runtime_floor,
        outputs=bundle,
        memory_bytes=60_000_000,
    )


@contextmanager
def a_device(folder: Path, repository: Repository, broker: Broker) -> Iterator[Device]:
    """Give a device that was enrolled under the repository's first root and is connected."""
    device = Device(folder, repository.roots[0].data, broker)
    try:
        device.connect()
        yield device
    finally:
        device.kill()
