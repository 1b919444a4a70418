"""The agent's loop: one thread decides, and this is where its decisions meet the world.

Other threads (the two connections, the engine) only put what they saw on the queue. For each
event the machine in `core.agent` says what follows; the new state and what is to be told are
saved in one write, then the effects are performed, each of which may be performed twice.
"""

from __future__ import annotations

import logging
import queue
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from typing_extensions import assert_never

from wherry import __version__, codec, topics
from wherry.errors import REFUSALS, Malformed, Untrusted
from wherry.messages import Ack, Deployment, Event, Flip, Order, Reason, Traffic, Wants, detail
from wherry.names import AliasName, Digest
from wherry.signing import open_envelope
from wherry_agent import engine, host
from wherry_agent.core import agent as machine
from wherry_agent.core import download, install, session
from wherry_agent.core.suitability import Machine
from wherry_agent.fetch import Fetch
from wherry_agent.mqtt import Callbacks, Connection, Will
from wherry_agent.outbox import Outbox
from wherry_agent.serving import Server, ServingSettings
from wherry_agent.settings import (
    BUNDLES_KEY,
    DIRECTOR_KEY,
    Settings,
    parse_broker,
    read_trust,
)
from wherry_agent.shelf import Shelf, reason_of
from wherry_agent.store import Store
from wherry_agent.telemetry import Recorder
from wherry_agent.telling import Teller

TICK_S = 0.25
PRESENCE_DELAY_S = 5
TELEMETRY_IN_FLIGHT = 20
WANT_JITTER_S = 1.0

log = logging.getLogger("wherry_agent")


# What the other threads put on the queue


@dataclass(frozen=True, slots=True)
class ControlUp:
    pass


@dataclass(frozen=True, slots=True)
class ControlDown:
    pass


@dataclass(frozen=True, slots=True)
class FetchLink:
    online: bool


@dataclass(frozen=True, slots=True)
class Message:
    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Puback:
    mid: int


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Item: TypeAlias = ControlUp | ControlDown | FetchLink | Message | Puback | Stop | engine.EngineEvent


class App:
    """One agent on one home; made, run once, stopped from any thread."""

    def __init__(self, home: Path, settings: Settings) -> None:
        self._settings = settings
        self._director = read_trust(home, DIRECTOR_KEY)
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._store = Store(home / "state")
        self._outbox = Outbox(self._store.database, keep_windows=settings.telemetry.keep_windows)
        self._recorder = Recorder()
        self._engine = engine.Engine(on_event=self._queue.put, settings=engine.EngineSettings())
        serving = ServingSettings(socket_path=home / settings.api.socket, port=settings.api.port)
        self._api = Server(self._engine, self._recorder, serving)
        runtimes = host.runtimes()
        this = Machine(
            profile=settings.profile,
            arch=host.arch(),
            runtimes=runtimes,
            simulates=settings.simulate,
        )
        self._shelf = Shelf(self._store, read_trust(home, BUNDLES_KEY), this)
        self._teller = Teller(
            store_id=self._store.store_id,
            profile=settings.profile,
            simulated=settings.simulate,
            versions={"wherry-agent": __version__, **runtimes},
        )
        broker = parse_broker(settings.broker)
        self._control = Connection(
            broker, settings.id, self._callbacks(), window=20, will=self._will()
        )
        self._fetch = Fetch(
            broker,
            f"{settings.id}:fetch",
            on_link=lambda online: self._queue.put(FetchLink(online)),
            on_message=lambda topic, payload: self._queue.put(Message(topic, payload)),
        )
        self._agent = machine.Agent(session=session.Session())
        self._wants: list[tuple[float, tuple[Digest, ...]]] = []
        self._telemetry_sent = 0
        self._awaiting: dict[int, int] = {}
        self._window_began_s = time.monotonic()
        self._ticked_s = 0.0
        self._refused_order = b""

    def run(self) -> None:
        """Serve what was confirmed, then follow the controller until `stop`."""
        self._engine.start()
        self._api.start()
        try:
            self._wake()
            while self._turn():
                pass
        finally:
            self._close()

    def stop(self) -> None:
        self._queue.put(Stop())

    # The loop

    def _wake(self) -> None:
        first, last = self._outbox.span()
        self._agent, effects = machine.wake(
            self._store.load(),
            time.monotonic(),
            outbox_first=first,
            outbox_last=last,
            limit_bytes_per_s=self._settings.fetch.max_bytes_per_s,
        )
        log.info("agent.woke", extra={"device": self._settings.id, "waiting": last - first + 1})
        self._commit(effects, must_save=True)
        for effect in effects:
            self._perform(effect)

    def _turn(self) -> bool:
        """Take what came, or a tick; say whether to go on."""
        try:
            item = self._queue.get(timeout=TICK_S)
        except queue.Empty:
            self._tick()
            return True
        if isinstance(item, Stop):
            return False
        for event in self._read(item):
            self._step(event)
        if time.monotonic() - self._ticked_s >= TICK_S:
            self._tick()
        return True

    def _tick(self) -> None:
        self._ticked_s = now_s = time.monotonic()
        self._step(machine.Tick())
        due = [digests for at_s, digests in self._wants if at_s <= now_s]
        self._wants = [want for want in self._wants if want[0] > now_s]
        for digests in due:
            topic = topics.WantsTopic(self._settings.id)
            self._publish(topic, codec.encode(Wants(digests=digests)))
        if now_s - self._window_began_s >= self._settings.telemetry.window_s:
            self._end_window(now_s)
        self._send_telemetry()

    def _step(self, event: machine.Event) -> None:
        before = self._agent
        self._agent, effects = machine.step(before, event, time.monotonic())
        self._commit(effects, must_save=machine.must_save(before, self._agent))
        for effect in effects:
            self._perform(effect)

    def _commit(self, effects: machine.Effects, *, must_save: bool) -> None:
        """Save the state together with what is to be told of it, in one write."""
        told = [effect for effect in effects if isinstance(effect, machine.Tell)]
        if not must_save and not told:
            return
        with self._store.transaction():
            self._store.save(machine.saved_of(self._agent))
            for tell in told:
                self._outbox.add_event(
                    self._teller.deployment(tell.alias, tell.deployment, at=time.time())
                )
        for tell in told:
            name = "deployment." + tell.deployment.status.value
            log.info(name, extra=_fields(tell.deployment))

    # Reading what came

    def _read(self, item: Item) -> Iterator[machine.Event]:
        """Turn what another thread saw into events; what is refused at the door is noted."""
        match item:
            case ControlUp():
                self._subscribe()
                yield session.Connected(time.monotonic())
            case ControlDown():
                self._awaiting.clear()
                self._telemetry_sent = 0
                yield session.Lost(time.monotonic(), random.random())
            case FetchLink(online):
                yield machine.FetchLink(online, random.random())
            case Message(topic, payload):
                yield from self._read_message(topic, payload)
            case Puback(mid):
                if mid in self._awaiting:
                    self._outbox.forget_telemetry(self._awaiting.pop(mid))
            case Stop():
                pass
            case _:
                yield from self._read_engine(item)

    def _read_engine(self, item: engine.EngineEvent) -> Iterator[machine.Event]:
        match item:
            case engine.Loaded(alias, deployment):
                yield machine.Installed(alias, install.Loaded(deployment, time.monotonic()))
            case engine.LoadFailed(alias, deployment, _, reason, why):
                sickened = install.Sickened(deployment, reason, detail(why))
                yield machine.Installed(alias, sickened)
            case engine.Flipped(alias, bundle, replaced, in_flight):
                self._note_flip(alias, Flip(bundle=bundle, replaced=replaced, in_flight=in_flight))
            case engine.Unservable(alias, bundle, reason, why):
                log.error("bundle.unservable", extra={"bundle": bundle, "reason": reason.value})
                yield machine.Installed(alias, install.Unservable(bundle))
                yield from self._sickened(alias, bundle, reason, why)
            case engine.WorkerDied(alias, bundle, why):
                log.warning("worker.died", extra={"bundle": bundle, "why": why})
                yield from self._sickened(alias, bundle, Reason.WORKER_DIED, why)
            case _:
                assert_never(item)

    def _sickened(
        self, alias: AliasName, bundle: Digest, reason: Reason, why: str
    ) -> Iterator[machine.Event]:
        state = self._agent.aliases.get(alias)
        if isinstance(state, install.Probation) and state.wanted.bundle == bundle:
            sickened = install.Sickened(state.wanted.deployment, reason, detail(why))
            yield machine.Installed(alias, sickened)

    def _read_message(self, topic: str, payload: bytes) -> Iterator[machine.Event]:
        match topics.parse_topic(topic):
            case topics.DesiredTopic() if payload:
                yield from self._read_order(payload)
            case topics.AcksTopic() if payload:
                yield from self._read_ack(payload)
            case topics.BundleTopic(bundle):
                yield self._shelf.accept(bundle, payload)
            case topics.BlobTopic(chunk):
                yield from self._read_chunk(chunk, payload)
            case _:
                log.warning("message.unexpected", extra={"topic": topic})

    def _read_order(self, payload: bytes) -> Iterator[machine.Event]:
        try:
            order = codec.decode(Order, open_envelope(payload, self._director))
        except REFUSALS as error:
            if payload != self._refused_order:
                self._refused_order = payload
                self._note_refusal(reason_of(error), f"the order is refused: {error}")
            return
        if order.device != self._settings.id:
            why = f"the order is for {order.device} and this is {self._settings.id}"
            self._note_refusal(Reason.UNTRUSTED_SIGNATURE, why)
            return
        yield machine.OrderCame(order)

    def _read_ack(self, payload: bytes) -> Iterator[machine.Event]:
        try:
            ack = codec.decode(Ack, payload)
        except Malformed as error:
            log.warning("ack.malformed", extra={"why": str(error)})
            return
        if ack.store_id == self._store.store_id:
            yield session.Acked(ack.seq, time.monotonic())

    def _read_chunk(self, chunk: Digest, payload: bytes) -> Iterator[machine.Event]:
        current = self._agent.download
        if current is None or chunk not in (current.missing or {}):
            return
        try:
            self._store.put_chunk(chunk, payload)
        except Untrusted as error:
            self._note_refusal(Reason.WRONG_BYTES, f"a chunk is refused: {error}")
            yield download.ChunkSpoiled(chunk, time.monotonic())
            return
        log.info("chunk.stored", extra={"chunk": chunk, "bytes": len(payload)})
        yield download.ChunkCame(chunk, time.monotonic())

    # Performing effects

    def _perform(self, effect: machine.Effect) -> None:
        match effect:
            case machine.For(alias, change):
                self._perform_install(alias, change)
            case machine.Tell():
                self._tell()
            case machine.OpenFetch():
                self._fetch.open()
            case machine.CloseFetch():
                self._fetch.close()
            case machine.Assemble(bundle):
                self._step(self._shelf.assemble(bundle))
            case download.AskManifest(bundle):
                known = self._shelf.accept_again(bundle)
                if known is None:
                    self._fetch.perform(effect)
                else:
                    self._step(known)
            case download.DropManifest() | download.AskChunks() | download.DropChunks():
                self._fetch.perform(effect)
            case download.Want(digests):
                jitter_s = random.random() * WANT_JITTER_S
                self._wants.append((time.monotonic() + jitter_s, digests))
            case _:
                self._perform_session(effect)

    def _perform_install(
        self, alias: AliasName, effect: install.Serve | install.Retire | install.Keep | install.Load
    ) -> None:
        match effect:
            case install.Serve(bundle):
                place = self._shelf.place(bundle) if bundle else None
                if bundle and place is None:
                    self._step(machine.Installed(alias, install.Unservable(bundle)))
                else:
                    self._engine.serve(alias, place)
            case install.Retire():
                self._engine.retire(alias)
            case install.Keep():
                self._collect()
            case install.Load(wanted):
                place = self._shelf.place(wanted.bundle)
                if place is None:
                    gone = "its files are gone from the disk"
                    sickened = install.Sickened(wanted.deployment, Reason.LOAD_FAILED, gone)
                    self._step(machine.Installed(alias, sickened))
                else:
                    self._engine.load(alias, wanted.deployment, place)
            case _:
                assert_never(effect)

    def _perform_session(self, effect: session.Effect) -> None:
        match effect:
            case session.Connect():
                self._control.connect()
            case session.Announce():
                self._announce()
            case session.Send(after, until):
                for body in self._outbox.events(after, until):
                    self._publish(topics.EventsTopic(self._settings.id), body)
            case session.Forget(until):
                self._outbox.forget_events(until)
            case session.RefuseOrder(generation):
                known = self._agent.session.generation
                why = f"the order has generation {generation} and {known} was accepted"
                log.warning("order.refused", extra={"why": why})
            case _:
                assert_never(effect)

    def _collect(self) -> None:
        """Delete from the disk what no alias keeps or is on its way to."""
        bundles: set[Digest] = set()
        for state in self._agent.aliases.values():
            bundles.update(state.confirmed)
            if not isinstance(state, install.Idle):
                bundles.add(state.wanted.bundle)
        self._shelf.keep(bundles)

    # Telling

    def _tell(self) -> None:
        """Hand the session what the write before put into the outbox."""
        _, last = self._outbox.span()
        self._step(session.Stored(last, time.monotonic()))
        if self._agent.session.connected:
            self._announce()

    def _note(self, event: Event) -> None:
        with self._store.transaction():
            seq = self._outbox.add_event(event)
        self._step(session.Stored(seq, time.monotonic()))

    def _note_refusal(self, reason: Reason, why: str) -> None:
        log.warning("bytes.refused", extra={"reason": reason.value, "why": why})
        self._note(self._teller.refusal(reason, why, at=time.time()))

    def _note_flip(self, alias: AliasName, flip: Flip) -> None:
        extra = {"bundle": flip.bundle, "replaced": flip.replaced, "in_flight": flip.in_flight}
        log.info("bundle.flipped", extra=extra)
        self._note(self._teller.flip(alias, flip, at=time.time()))

    def _announce(self) -> None:
        device = self._settings.id
        presence = codec.encode(self._teller.presence(online=True))
        self._publish(topics.PresenceTopic(device), presence, retain=True)
        reported = self._teller.reported(
            self._agent.aliases,
            generation=self._agent.session.generation,
            seq=self._store.next_report_seq(),
        )
        self._publish(topics.ReportedTopic(device), codec.encode(reported), retain=True)

    def _end_window(self, now_s: float) -> None:
        window_s, self._window_began_s = now_s - self._window_began_s, now_s
        windows = self._recorder.take()
        facts, traffic = host.facts(self._store.folder), self._traffic()
        for window in windows:
            told = self._teller.telemetry(window, facts, traffic, window_s=window_s, at=time.time())
            self._outbox.add_telemetry(told)
        for window in windows:
            measured = machine.Measured(
                alias=window.alias,
                bundle=window.bundle,
                requests=window.requests,
                errors=window.errors,
                compute=window.compute,
            )
            self._step(measured)

    def _traffic(self) -> Traffic:
        control, fetch = self._control.traffic(), self._fetch.traffic()
        return Traffic(sent_bytes=control[0] + fetch[0], received_bytes=control[1] + fetch[1])

    def _send_telemetry(self) -> None:
        if not self._agent.session.connected:
            return
        room = TELEMETRY_IN_FLIGHT - len(self._awaiting)
        for seq, body in self._outbox.telemetry(self._telemetry_sent, max(room, 0)):
            mid = self._publish(topics.TelemetryTopic(self._settings.id), body)
            if mid is None:
                return
            self._awaiting[mid] = self._telemetry_sent = seq

    # The connections

    def _callbacks(self) -> Callbacks:
        put = self._queue.put
        return Callbacks(
            on_up=lambda: put(ControlUp()),
            on_down=lambda: put(ControlDown()),
            on_message=lambda topic, payload: put(Message(topic, payload)),
            on_puback=lambda mid: put(Puback(mid)),
        )

    def _will(self) -> Will:
        topic = topics.text(topics.PresenceTopic(self._settings.id))
        return Will(topic, codec.encode(self._teller.presence(online=False)), PRESENCE_DELAY_S)

    def _subscribe(self) -> None:
        device = self._settings.id
        own = (topics.DesiredTopic(device), topics.AcksTopic(device))
        self._control.subscribe([topics.text(topic) for topic in own])

    def _publish(self, topic: topics.Topic, payload: bytes, *, retain: bool = False) -> int | None:
        return self._control.publish(topics.text(topic), payload, retain=retain)

    def _close(self) -> None:
        gone = codec.encode(self._teller.presence(online=False))
        self._publish(topics.PresenceTopic(self._settings.id), gone, retain=True)
        self._control.close()
        self._fetch.close()
        self._api.close()
        self._engine.close()
        self._store.close()
        log.info("agent.stopped", extra={"device": self._settings.id})


def _fields(deployment: Deployment) -> dict[str, str]:
    fields = {"deployment": deployment.deployment, "bundle": deployment.bundle}
    if deployment.phase:
        fields["phase"] = deployment.phase.value
    if deployment.reason:
        fields |= {"reason": deployment.reason.value, "why": deployment.detail}
    return fields
