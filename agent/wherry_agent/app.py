"""The agent's loop: one thread decides, and this is where its decisions meet the world.

Other threads (the two connections, the engine) only put what they saw on the queue. For each
event the machines in `core` say what follows; the new state and what is to be told are saved in
one write (`memory`), then the effects are performed, each of which may be performed twice. What
performing brings about is taken up when all effects of the step before were performed.
"""

from __future__ import annotations

import logging
import queue
import random
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from typing_extensions import assert_never

from wherry import __version__, codec, topics
from wherry.measures import Traffic
from wherry.messages import Flip, Wants
from wherry.names import AliasName, Digest
from wherry.reasons import Reason
from wherry.trust.device import CERTIFICATE, now_of, proved_by_certificates, report_of
from wherry_agent import detect, engine, host, sources
from wherry_agent.core import acceptance, download, install, session, trial
from wherry_agent.core import agent as machine
from wherry_agent.core.dates import Verdict
from wherry_agent.core.proposal import telling
from wherry_agent.core.renewal import Renewed
from wherry_agent.core.suitability import Machine
from wherry_agent.delivery import Delivery, Rebuilt, Seen
from wherry_agent.gauge import Gauge
from wherry_agent.inbox import Inbox, News, Refused
from wherry_agent.lines import (
    BrokerShown,
    Control,
    ControlDown,
    ControlUp,
    FetchLink,
    Message,
    OnLine,
    Puback,
    fetch_line,
    securing,
)
from wherry_agent.memory import Enrolment, Memory
from wherry_agent.outbox import Outbox
from wherry_agent.performing import perform_install, perform_trial, read_engine
from wherry_agent.renewer import Upkeep
from wherry_agent.serving import ListenSettings, Server
from wherry_agent.settings import (
    Settings,
    read_identity,
    read_root,
    socket_of,
)
from wherry_agent.shelf import Shelf
from wherry_agent.sources import source_context
from wherry_agent.store import Store
from wherry_agent.telemetry import Recorder
from wherry_agent.telling import Teller
from wherry_agent.ways import Ways
from wherry_agent.windows import Windows

TICK_S = 0.25
WANT_JITTER_S = 1.0

# What a broker's dates say of this device, or of the broker; nothing installs by them.
_DEGRADED: dict[Verdict, tuple[Reason, ...]] = {
    Verdict.SOUND: (),
    Verdict.CLOCK_AHEAD: (Reason.CLOCK_AHEAD,),
    Verdict.EXPIRED: (Reason.CERTIFICATE_EXPIRED,),
}

log = logging.getLogger("wherry_agent")


# What the other threads put on the queue


@dataclass(frozen=True, slots=True)
class Stop:
    pass


Item: TypeAlias = OnLine | Stop | Seen | engine.EngineEvent | trial.Ran | Renewed


class App:
    """One agent on one home; made, run once, stopped from any thread."""

    def __init__(self, home: Path, settings: Settings) -> None:
        self._settings = settings
        enrolment = _enrolment_of(home, settings)
        self._broker_dates = Verdict.SOUND
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._store = Store(home / "state")
        self._outbox = Outbox(
            self._store.database,
            keep_windows=settings.telemetry.keep_windows,
            keep_bytes=settings.telemetry.keep_bytes,
        )
        self._host = host.Host(self._store.folder)
        recorder = Recorder()
        self._engine = engine.Engine(on_event=self._queue.put, settings=engine.EngineSettings())
        self._gauge = Gauge(self._queue.put)
        serving = ListenSettings(socket_path=socket_of(home, settings), port=settings.api.port)
        self._api = Server(self._engine, recorder, serving)
        runtimes = host.runtimes()
        this = _machine_of(settings, runtimes)
        ways = Ways(self._store)
        reserve_bytes = settings.fetch.reserve_bytes
        self._shelf = Shelf(self._store, this, ways=ways, reserve_bytes=reserve_bytes)
        self._inbox = Inbox(self._store, self._shelf)
        self._teller = Teller(
            store_id=self._store.store_id,
            profile=settings.profile,
            simulated=settings.simulate,
            versions={"wherry-agent": __version__, **runtimes},
            facts=telling(this.facts),
        )
        self._certificate = Upkeep(home, read_identity(home), self._queue.put)
        self._memory = Memory(self._store, self._outbox, self._teller, enrolment)
        self._windows = Windows(
            recorder,
            self._teller,
            store=self._store,
            outbox=self._outbox,
            settings=settings.telemetry,
        )
        put = self._queue.put
        secured = securing(home, put, lambda: proved_by_certificates(self._memory.acceptance.trust))
        gone = codec.encode(self._teller.presence(online=False))
        self._control = Control(settings, put, gone=gone, secured=secured)
        self._delivery = Delivery(
            fetch_line(settings, put, secured),
            self._store,
            self._shelf,
            ways,
            settings=settings.fetch,
            put=self._queue.put,
            context=lambda source: source_context(home, source, own=settings.blobs),
        )
        self._over_budget: tuple[Reason, ...] = ()
        self._wants: list[tuple[float, tuple[Digest, ...]]] = []
        self._ticked_s = 0.0

    def run(self) -> None:
        """Serve what was confirmed, then follow the controller until `stop`."""
        self._engine.start()
        try:
            self._wake()
            self._api.start()  # From its first answer on it knows every alias.
            while self._turn():
                pass
        finally:
            self._close()

    def stop(self) -> None:
        self._queue.put(Stop())

    @property
    def _agent(self) -> machine.Agent:
        return self._memory.agent

    # The loop

    def _wake(self) -> None:
        limit_bytes_per_s = self._settings.fetch.max_bytes_per_s
        effects = self._memory.wake(limit_bytes_per_s=limit_bytes_per_s)
        log.info("agent.woke", extra={"device": self._settings.id})
        self._take(self._delivery.tick())
        self._take(event for effect in effects for event in self._perform(effect))

    def _turn(self) -> bool:
        """Take what came, or a tick; say whether to go on."""
        try:
            item = self._queue.get(timeout=TICK_S)
        except queue.Empty:
            self._tick()
            return True
        if isinstance(item, Stop):
            return False
        self._take(self._read(item))
        if time.monotonic() - self._ticked_s >= TICK_S:
            self._tick()
        return True

    def _tick(self) -> None:
        self._ticked_s = now_s = time.monotonic()
        self._take([*self._delivery.tick(), machine.Tick(), acceptance.Tick(now_s)])
        self._keep_certificate(now_s)
        self._tell_budget()
        due = [digests for at_s, digests in self._wants if at_s <= now_s]
        self._wants = [want for want in self._wants if want[0] > now_s]
        for digests in due:
            topic = topics.WantsTopic(self._settings.id)
            self._control.publish(topic, codec.encode(Wants(digests=digests)))
        if self._windows.is_over(now_s):
            self._take(self._end_window(now_s))
        if self._agent.session.connected:
            own = topics.TelemetryTopic(self._settings.id)
            self._windows.send(lambda body: self._control.publish(own, body))

    def _keep_certificate(self, now_s: float) -> None:
        if self._settings.controller is not None:
            trust = self._memory.acceptance.trust
            floor = proved_by_certificates(trust)
            self._certificate.tick(now_s, now=now_of(trust, time.time()), floor=floor)

    def _take(self, came: Iterable[News]) -> None:
        """Step through what came and what that brings about, first come first served."""
        news = deque(came)
        while news:
            event = news.popleft()
            if isinstance(event, Refused):
                news.extend(self._note_refusal(event.reason, event.detail))
            elif isinstance(event, acceptance.Event):
                news.extend(self._judge(event))
            else:
                for effect in self._memory.step(event):
                    news.extend(self._perform(effect))

    def _judge(self, event: acceptance.Event) -> Iterator[News]:
        """Hold an order or metadata against what is trusted, and do what follows."""
        before = self._memory.acceptance.trust.root
        judged, ordered = self._memory.judge(event)
        if self._memory.acceptance.trust.root != before and self._agent.session.connected:
            self._announce()  # Until then the controller sends the roots that it misses again.
        for verdict in judged:
            yield from self._perform_acceptance(verdict)
        for effect in ordered:
            yield from self._perform(effect)
        if isinstance(event, acceptance.Joined):
            self._control.listen()  # After the next root: it comes before what its keys sign.

    # Reading what came

    def _read(self, item: Item) -> Iterator[News]:
        """Turn what another thread saw into events."""
        match item:
            case ControlUp():
                yield acceptance.Joined()
                yield session.Connected(time.monotonic())
            case ControlDown():
                self._windows.disconnect()
                yield session.Lost(time.monotonic(), random.random())
            case FetchLink(online):
                yield machine.FetchLink(online, random.random())
            case BrokerShown(dates, verdict):
                self._broker_dates = verdict
                yield acceptance.Vouched(CERTIFICATE, dates.begins)
            case Message(topic, payload):
                yield from self._inbox.read(topic, payload, self._agent.download)
            case Puback(mid):
                self._windows.acknowledge(mid)
            case trial.Ran():
                yield item
            case Renewed():
                self._certificate.read(item, time.monotonic())
                yield acceptance.Vouched(CERTIFICATE, item.proved_s)
            case Stop():
                pass
            case sources.Answer() | Rebuilt():
                yield from self._delivery.read(item, self._agent.download)
            case engine.Flipped(alias, bundle, replaced, in_flight):
                flip = Flip(bundle=bundle, replaced=replaced, in_flight=in_flight)
                yield self._note_flip(alias, flip)
            case _:
                state = self._agent.aliases.get(item.alias, install.Idle())
                yield from read_engine(item, state, time.monotonic())

    # Performing effects

    def _perform(self, effect: machine.Effect) -> Iterator[News]:
        """Do what the machine ordered; yield what came of it at once."""
        match effect:
            case machine.For(alias, change):
                yield from self._perform_install(alias, change)
            case trial.Clear():
                self._collect()
            case machine.Tell() | trial.Answer():
                _, last = self._outbox.span()
                yield session.Stored(last, time.monotonic())
                if self._agent.session.connected:
                    self._announce()
            case (
                machine.OpenFetch()
                | machine.CloseFetch()
                | machine.Assemble()
                | download.AskManifest()
                | download.DropManifest()
                | download.AskChunks()
                | download.DropChunks()
                | download.AskSource()
            ):
                yield from self._delivery.perform(effect, self._agent.download)
            case download.Want(digests):
                jitter_s = random.random() * WANT_JITTER_S
                self._wants.append((time.monotonic() + jitter_s, digests))
            case trial.Run() | trial.Stop():
                yield from perform_trial(effect, self._gauge, self._shelf)
            case _:
                self._perform_session(effect)

    def _perform_install(
        self, alias: AliasName, effect: install.Serve | install.Retire | install.Keep | install.Load
    ) -> Iterator[machine.Event]:
        if isinstance(effect, install.Keep):
            self._collect()
        else:
            yield from perform_install(effect, alias, self._engine, self._shelf)

    def _perform_acceptance(self, effect: acceptance.Effect) -> Iterator[News]:
        match effect:
            case acceptance.AskTrust(names):
                self._control.ask(names)
            case acceptance.DropTrust(names):
                self._control.drop(names)
            case acceptance.Refuse(reason, why):
                yield Refused(reason, why)
            case acceptance.Advise(desired):
                yield from self._delivery.advise(desired)
            case acceptance.Accept(order):
                log.info("order.accepted", extra={"generation": order.generation})
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
                    self._control.publish(topics.EventsTopic(self._settings.id), body)
            case session.Forget(until):
                self._outbox.forget_events(until)
            case _:
                assert_never(effect)

    def _collect(self) -> None:
        """Delete from the disk what no alias keeps or is on its way to, and no trial needs."""
        tried = trial.bundle_of(self._agent.trials)
        bundles = {tried} if tried else set[Digest]()
        for state in self._agent.aliases.values():
            bundles.update(state.confirmed)
            if not isinstance(state, install.Idle):
                bundles.add(state.wanted.bundle)
        self._shelf.keep(bundles)

    # Telling

    def _note_refusal(self, reason: Reason, why: str) -> Iterator[News]:
        log.warning("bytes.refused", extra={"reason": reason.value, "why": why})
        yield from self._memory.note_refusal(self._teller.refusal(reason, why, at=time.time()))

    def _note_flip(self, alias: AliasName, flip: Flip) -> machine.Event:
        extra = {"bundle": flip.bundle, "replaced": flip.replaced, "in_flight": flip.in_flight}
        log.info("bundle.flipped", extra=extra)
        return self._memory.note(self._teller.flip(alias, flip, at=time.time()))

    def _tell_budget(self) -> None:
        """Say that a download waits for the next day, and that it goes on."""
        current = self._agent.download
        waits = current is not None and download.is_held_up(current)
        before = self._over_budget
        self._over_budget = (Reason.OVER_BYTE_BUDGET,) if waits else ()
        if self._over_budget != before and self._agent.session.connected:
            self._announce()

    def _announce(self) -> None:
        device = self._settings.id
        presence = codec.encode(self._teller.presence(online=True))
        self._control.publish(topics.PresenceTopic(device), presence, retain=True)
        trust = self._memory.acceptance.trust
        fault = self._certificate.find_fault(proved_by_certificates(trust))
        reported = self._teller.reported(
            self._agent.aliases,
            generation=trust.generation,
            seq=self._store.next_report_seq(),
            oldest_event=self._outbox.span()[0],
            trust=report_of(trust, time.time()),
            degraded=(
                *_DEGRADED[self._broker_dates],
                *([fault] if fault else []),
                *self._over_budget,
            ),
        )
        self._control.publish(topics.ReportedTopic(device), codec.encode(reported), retain=True)

    def _end_window(self, now_s: float) -> list[machine.Event]:
        traffic = self._traffic()
        return [
            machine.Measured(
                alias=window.alias,
                bundle=window.bundle,
                requests=window.requests,
                errors=window.errors,
                compute=window.compute,
            )
            for window in self._windows.end(now_s, self._host.facts(), traffic, {})
        ]

    def _traffic(self) -> Traffic:
        return self._control.traffic() + self._delivery.traffic()

    # The end

    def _close(self) -> None:
        self._control.leave()
        self._delivery.close()
        self._api.close()
        self._gauge.stop()
        self._engine.close()
        # What was counted since the last window is told next time.
        self._windows.close(time.monotonic(), self._host.facts(), self._traffic(), {})
        self._store.close()
        log.info("agent.stopped", extra={"device": self._settings.id})


def _machine_of(settings: Settings, runtimes: Mapping[str, str]) -> Machine:
    return Machine(
        profile=settings.profile,
        facts=detect.facts(),
        runtimes=runtimes,
        simulates=settings.simulate,
    )


def _enrolment_of(home: Path, settings: Settings) -> Enrolment:
    identity = read_identity(home)
    return Enrolment(identity.device, settings.profile, identity.epoch, read_root(home))
