"""A simulated device: the real agent machine over a disk that survives and an engine that is said.

Every effect may be the last one before a kill. What is on `Disk` was written whole and stays;
everything else is gone, and `wake` makes it anew. A broken law raises `BrokenLaw`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import assert_never

from wherry import codec
from wherry.errors import Malformed, Untrusted
from wherry.measures import Feedback
from wherry.messages import Ack, Wanted, Wants
from wherry.names import DeviceId, Digest, parse_role_name
from wherry.reasons import Reason
from wherry.topics import (
    AcksTopic,
    BlobTopic,
    BundleTopic,
    DesiredTopic,
    EventsTopic,
    MetadataTopic,
    ReportedTopic,
    TelemetryTopic,
    TimestampTopic,
    Topic,
    WantsTopic,
)
from wherry.trust import device
from wherry.trust.keeping import Trust
from wherry_agent.core import acceptance, download, install, receipts, session, trial
from wherry_agent.core import agent as core
from wherry_sim import said
from wherry_sim.bundles import PROFILE
from wherry_sim.engine import REQUESTS_A_WINDOW, Disk, Engine, World
from wherry_sim.network import Link
from wherry_sim.said import WINDOW_S
from wherry_sim.timeline import Action
from wherry_sim.trust import BEGAN_AT

TICK_S = 1.0
LABELS_A_WINDOW = 60
LOAD_S = 2.0
BOOT_S = 5.0
CONNECT_S = 1.5  # Longer than a tick: an impatient machine would connect twice.


@dataclass(slots=True)
class Device:
    """`kills` numbers the effects, over its whole life, before which it loses power."""

    name: DeviceId
    world: World
    disk: Disk
    kills: frozenset[int] = frozenset()
    spoils: float = 0.0
    has_network: bool = True
    engine: Engine = field(init=False)
    asked: int = 0
    performed: int = 0
    killed: int = 0
    _life: int = 0
    _began_s: float = 0.0
    _agent: core.Agent | None = None
    _accepting: acceptance.Acceptance | None = None
    _main: Link | None = None
    _fetch: Link | None = None
    _news: deque[core.Event | acceptance.Event] = field(default_factory=deque)
    _busy: bool = False

    def __post_init__(self) -> None:
        self.engine = Engine(self.name, self.world, self.disk)

    def start(self) -> None:
        """Come up with what is on the disk."""
        self._life += 1
        self._began_s = self.world.timeline.now_s - 1.0  # The monotonic clock begins at boot.
        saved = codec.decode(core.Saved, self.disk.saved)
        trust = codec.decode(Trust, self.disk.trust)
        self._accepting = acceptance.Acceptance(device=self.name, profile=PROFILE.name, trust=trust)
        first = min(self.disk.outbox, default=self.disk.events + 1)
        self._agent, effects = core.wake(
            saved, self._now_s, outbox_first=first, outbox_last=self.disk.events
        )
        self._write(saved.aliases != self._agent.aliases, effects)
        self._later(TICK_S, self._tick)
        self._later(WINDOW_S, self._close_window)
        self._busy = True
        self._perform_all(effects)
        self._drain()

    def die(self) -> None:
        """Lose power; come up again a while later."""
        self.killed += 1
        self._life += 1
        self._news.clear()
        self._busy, self._agent = False, None
        self.engine.serve(None)
        self._accepting = None
        for link in (self._main, self._fetch):
            if link is not None:
                self.world.broker.close(link)
        self._main = self._fetch = None
        self.world.timeline.after(self.world.chance.uniform(0.5, BOOT_S), self.start)

    def go_offline(self) -> None:
        self.has_network = False
        for link in (self._main, self._fetch):
            if link is not None:
                self.world.broker.cut(link)

    def go_online(self) -> None:
        self.has_network = True

    def state(self) -> install.State | None:
        """Return where the alias stands, or None while the device is down."""
        return self._agent.aliases.get(self.world.alias) if self._agent else None

    @property
    def is_told(self) -> bool:
        """Say whether the controller has acknowledged everything that happened here."""
        return self._agent is not None and not self.disk.outbox

    @property
    def _now_s(self) -> float:
        return self.world.timeline.now_s - self._began_s

    def _later(self, seconds: float, action: Action) -> None:
        """Plan `action` for this life of the process."""
        life = self._life

        def act() -> None:
            if self._life == life:
                action()

        self.world.timeline.after(seconds, act)

    # One thread decides: news waits in line, effects are performed in order.

    def _hear(self, event: core.Event | acceptance.Event) -> None:
        self._news.append(event)
        if not self._busy:
            self._drain()

    def _drain(self) -> None:
        self._busy = True
        while self._news and self._agent is not None:
            news = self._news.popleft()
            if isinstance(news, acceptance.Event):
                self._accept(news)
            else:
                self._step(news)
        self._busy = False

    def _step(self, event: core.Event) -> None:
        assert self._agent is not None
        before = self._agent
        self._agent, effects = core.step(before, event, self._now_s)
        is_new = core.must_save(before, self._agent) or isinstance(event, core.OrderCame)
        self._write(is_new, effects)
        self._perform_all(effects)

    def _accept(self, event: acceptance.Event) -> None:
        """Step through what vouches for an order; what is followed is saved with what it does."""
        assert self._accepting is not None
        life, clock = self._life, BEGAN_AT + self.world.timeline.now_s
        self._accepting, effects = acceptance.step(self._accepting, event, clock, device)
        for effect in effects:
            if self._life != life:
                return
            match effect:
                case acceptance.Accept(order, verdicts, trials):
                    self._step(core.OrderCame(order, verdicts, trials))
                case acceptance.AskTrust(names):
                    if self._main is not None:
                        self.world.broker.subscribe(self._main, *map(_topic_of, names))
                case acceptance.Refuse(reason, why):
                    raise self.engine.broken(f"it refuses what is sound: {reason.value}, {why}")
                case acceptance.Advise() | acceptance.DropTrust():
                    pass
                case _:
                    assert_never(effect)

    def _write(self, is_new: bool, effects: core.Effects) -> None:
        """Save the state and put what is told into the outbox, in one write."""
        if self._agent is None or self._accepting is None:
            return
        told = [effect for effect in effects if isinstance(effect, said.Told)]
        for tell in told:
            said.tell(self.disk, tell, at_s=self.world.timeline.now_s)
        if is_new:
            self.disk.saved = codec.encode(core.saved_of(self._agent))
            self.disk.trust = codec.encode(self._accepting.trust)
        if told:
            self._news.append(session.Stored(self.disk.events, self._now_s))

    def _perform_all(self, effects: core.Effects) -> None:
        life = self._life
        for effect in effects:
            self.performed += 1
            if self.performed in self.kills:
                self.die()
            if self._life != life:
                return
            self._perform(effect)
        self._check()

    def _perform(self, effect: core.Effect) -> None:
        match effect:
            case core.For(_, change):
                self._install(change)
            case core.Tell() | trial.Answer() | receipts.TellReceipt() | session.Announce():
                self._announce()
            case receipts.Attest(claim):
                self._later(0.1, lambda: self._hear(said.attested(self.name, claim)))
            case core.OpenFetch():
                self._later(CONNECT_S, self._open_fetch)
            case core.CloseFetch():
                if self._fetch is not None:
                    self.world.broker.close(self._fetch)
                    self._fetch = None
                self._hear(core.FetchLink(False, 0.0))
            case core.Assemble(bundle):
                self.engine.assemble(bundle)
                self._later(0.1, lambda: self._hear(core.Assembled(bundle)))
            case session.Connect() | session.Send() | session.Forget():
                self._speak(effect)
            case trial.Run(wanted, _):
                simulated = "it is simulated: nothing can be measured here"
                self._hear(trial.Ran(wanted.trial, None, Reason.MISSING_RUNTIME, simulated))
            case trial.Stop() | trial.Clear():
                pass
            case _:
                self._ask(effect)

    def _speak(self, effect: session.Connect | session.Send | session.Forget) -> None:
        match effect:
            case session.Connect():
                self._later(CONNECT_S, self._connect)
            case session.Send(after, until):
                for seq in range(after + 1, until + 1):
                    self._publish(EventsTopic(self.name), self.disk.outbox[seq])
            case session.Forget(until):
                for seq in [seq for seq in self.disk.outbox if seq <= until]:
                    del self.disk.outbox[seq]
            case _:
                assert_never(effect)

    def _ask(
        self,
        effect: download.AskManifest
        | download.DropManifest
        | download.AskChunks
        | download.DropChunks
        | download.AskSource
        | download.Want,
    ) -> None:
        match effect:
            case download.AskManifest(bundle):
                self._subscribe(BundleTopic(bundle))
            case download.DropManifest(bundle):
                self._unsubscribe(BundleTopic(bundle))
            case download.AskChunks(chunks):
                self.asked += len(chunks)
                if self.disk.chunks.keys() & set(chunks):
                    raise self.engine.broken("it asks for a chunk that is on its disk")
                self._subscribe(*map(BlobTopic, chunks))
            case download.DropChunks(chunks):
                self._unsubscribe(*map(BlobTopic, chunks))
            case download.AskSource():
                raise self.engine.broken("it asks a source though it was told of none")
            case download.Want(digests):
                self._publish(WantsTopic(self.name), codec.encode(Wants(digests=digests)))
            case _:
                assert_never(effect)

    def _check(self) -> None:
        """Check the laws once everything that was ordered is performed."""
        state = self.state()
        if state is not None and not self._news:
            self.engine.check(state)

    # The engine

    def _install(self, effect: install.EngineEffect | install.Keep) -> None:
        match effect:
            case install.Load(wanted):
                self._later(LOAD_S, lambda: self._answer(wanted))
            case install.Serve(bundle):
                self.engine.serve(bundle)
                self._suffer(bundle)
            case install.Share(bundle, _):
                self.engine.share(bundle)
                self._suffer(bundle)
            case install.Shadow(bundle, _):
                self.engine.shadow(bundle)
            case install.Keep(kept):
                self.engine.keep(kept)
            case install.Retire():
                pass
            case _:
                assert_never(effect)

    def _answer(self, wanted: Wanted) -> None:
        self._hear(core.Installed(self.world.alias, self.engine.load(wanted, self._now_s)))

    def _suffer(self, bundle: Digest | None) -> None:
        """Lose power a while after a bundle answers that kills the device."""
        if bundle and self.world.behaviours[bundle].kills_the_device:
            self._later(self.world.chance.uniform(0.5, 4 * WINDOW_S), self.die)

    def _close_window(self) -> None:
        """Measure a window of each bundle that answers, and of what is compared."""
        self._later(WINDOW_S, self._close_window)
        for bundle in (self.engine.serving, self.engine.sharing):
            if bundle is not None:
                self._measure(bundle)
        shadowing = self.engine.shadowing
        if shadowing is not None and self.engine.serving is not None:
            counts = self.engine.compare(shadowing)
            self._hear(core.Measured(self.world.alias, shadowing, core.Window(shadow=counts)))

    def _measure(self, bundle: Digest) -> None:
        """Tell the machine of a window, and the controller."""
        behaviour = self.world.behaviours[bundle]
        compute = self.engine.compute(behaviour.median_ms)
        failed = round(behaviour.error_share * REQUESTS_A_WINDOW)
        errors = {"runtime": failed} if failed else {}
        alias, now_s = self.world.alias, self.world.timeline.now_s
        window = said.window(
            self.disk,
            alias,
            bundle,
            at_s=now_s,
            requests=REQUESTS_A_WINDOW,
            errors=errors,
            compute=compute,
        )
        self._publish(TelemetryTopic(self.name), window)
        right = sum(self.world.chance.random() < behaviour.accuracy for _ in range(LABELS_A_WINDOW))
        labels = Feedback(labelled=LABELS_A_WINDOW, right=right)
        self._later(self.world.labels_after_s, lambda: self._say_labels(bundle, labels))
        measured = core.Window(requests=REQUESTS_A_WINDOW, errors=errors, compute=compute)
        self._hear(core.Measured(alias, bundle, measured))

    def _say_labels(self, bundle: Digest, labels: Feedback) -> None:
        """Publish the labels of earlier answers in a window of their own."""
        alias, now_s = self.world.alias, self.world.timeline.now_s
        window = said.window(self.disk, alias, bundle, at_s=now_s, labels=labels)
        self._publish(TelemetryTopic(self.name), window)

    # The connections

    def _connect(self) -> None:
        if not self.has_network:
            self._lost()
            return
        if self._main is not None:
            raise self.engine.broken("it connects while it is connected")
        broker = self.world.broker
        self._main = broker.connect(self._receive, self._lost)
        own = (DesiredTopic(self.name), AcksTopic(self.name), TimestampTopic())
        broker.subscribe(self._main, *own)
        self._hear(acceptance.Joined())
        self._hear(session.Connected(self._now_s))

    def _lost(self) -> None:
        self._main = None
        self._hear(session.Lost(self._now_s, self.world.chance.random()))

    def _open_fetch(self) -> None:
        if self._agent is None or self._agent.download is None or self._fetch is not None:
            return
        if not self.has_network:
            self._fetch_lost()
            return
        self._fetch = self.world.broker.connect(self._receive, self._fetch_lost)
        self._hear(core.FetchLink(True))

    def _fetch_lost(self) -> None:
        self._fetch = None
        self._hear(core.FetchLink(False, self.world.chance.random()))

    def _publish(self, topic: Topic, payload: bytes) -> None:
        if self._main is not None:
            self.world.broker.publish(self._main, topic, payload)

    def _subscribe(self, *topics: Topic) -> None:
        if self._fetch is not None:
            self.world.broker.subscribe(self._fetch, *topics)

    def _unsubscribe(self, *topics: Topic) -> None:
        if self._fetch is not None:
            self.world.broker.unsubscribe(self._fetch, *topics)

    def _announce(self) -> None:
        if self._agent is None or self._accepting is None or self._main is None:
            return
        payload = said.report(self.disk, self._agent, self._accepting.trust)
        topic = ReportedTopic(self.name)
        self.world.broker.publish_retained(self._main, topic, payload)

    def _receive(self, topic: Topic, payload: bytes) -> None:
        match topic:
            case DesiredTopic():
                self._hear(acceptance.DesiredCame(payload))
            case TimestampTopic():
                self._hear(acceptance.TimestampCame(payload))
            case MetadataTopic(role, version):
                self._hear(acceptance.PieceCame(f"{role}/{version}", payload))
            case AcksTopic():
                ack = codec.decode(Ack, payload)
                if ack.store_id == self.disk.store_id:
                    self._hear(session.Acked(ack.seq, self._now_s))
            case BundleTopic(digest):
                self._take_manifest(digest, payload)
            case BlobTopic(digest):
                self._take_chunk(digest, payload)
            case _:
                raise self.engine.broken("a message came that it did not ask for")

    def _take_manifest(self, digest: Digest, envelope: bytes) -> None:
        try:
            missing = self.engine.accept(digest, envelope)
        except (Malformed, Untrusted) as refusal:
            refused = core.BundleRefused(digest, Reason.UNTRUSTED_SIGNATURE, str(refusal))
            self._hear(refused)
            return
        self._hear(core.ManifestAccepted(digest, missing))

    def _take_chunk(self, digest: Digest, data: bytes) -> None:
        if self.world.chance.random() < self.spoils:
            self._hear(download.ChunkSpoiled(digest, self._now_s))
            return
        self.engine.store(digest, data)
        self._hear(download.ChunkCame(digest, self._now_s))

    def _tick(self) -> None:
        self._later(TICK_S, self._tick)
        self._hear(acceptance.Tick(self._now_s))
        self._hear(core.Tick())


def _topic_of(name: str) -> MetadataTopic:
    role, _, version = name.partition("/")
    return MetadataTopic(parse_role_name(role), int(version))
