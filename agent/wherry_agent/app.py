"""The agent's loop: one thread decides, and this is where its decisions meet the world.

Other threads (the two connections, the engine) only put what they saw on the queue. For each
event the machines in `core` say what follows; the new state and what is to be told are saved in
one write (`memory`), then the effects are performed, each of which may be performed twice. What
performing brings about is taken up when all effects of the step before were performed.
"""

from __future__ import annotations

import gc
import logging
import queue
import random
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec.structs import replace
from typing_extensions import assert_never

from wherry import codec, topics
from wherry.measures import Traffic
from wherry.messages import Flip, Wants
from wherry.names import AliasName, Digest
from wherry.reasons import Reason
from wherry.systemd import Notifier
from wherry.trust.keeping import CERTIFICATE, now_of, proved_by_certificates
from wherry_agent import engine, probing, sources
from wherry_agent.announcing import Announcer
from wherry_agent.core import acceptance, download, install, receipts, session, trial
from wherry_agent.core import agent as machine
from wherry_agent.core.renewal import Renewed
from wherry_agent.core.standing import slots_of
from wherry_agent.delivery import Rebuilt
from wherry_agent.inbox import News, Refused
from wherry_agent.lines import BrokerShown, ControlDown, ControlUp, FetchLink, Message, Puback
from wherry_agent.parts import Item, Stop, put_together
from wherry_agent.performing import perform_trial
from wherry_agent.serving import UNBOUND, Bound
from wherry_agent.settings import Settings

TICK_S, IDLE_TICK_S = 0.25, 1.0
WANT_JITTER_S = 1.0

log = logging.getLogger("wherry_agent")


class App:
    """One agent on one home; made, run once, stopped from any thread."""

    def __init__(
        self,
        home: Path,
        settings: Settings,
        notifier: Notifier | None = None,
        bound: Bound = UNBOUND,
    ) -> None:
        self._settings, self._notifier = settings, notifier or Notifier({})
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._parts = put_together(home, settings, self._queue.put, bound)
        self._announcer = Announcer(settings.id, self._parts, self._parts.control.publish)
        self._wants: list[tuple[float, tuple[Digest, ...]]] = []
        self._ticked_s = 0.0

    def run(self) -> None:
        """Serve what was confirmed, then follow the controller until `stop`."""
        self._parts.engine.start()
        folder, put = self._parts.store.folder, self._queue.put
        probing.start_probing(self._parts.machine.runtimes, self._parts.machine.facts, folder, put)
        try:
            self._wake()
            gc.freeze()  # What is here now stays: a request need not wait while it is searched.
            self._parts.api.start()  # From its first answer on it knows every alias.
            self._notifier.ready(self._status())
            while self._turn():
                pass
        finally:
            self._close()

    def stop(self) -> None:
        self._queue.put(Stop())

    @property
    def _agent(self) -> machine.Agent:
        return self._parts.memory.agent

    # The loop

    def _wake(self) -> None:
        effects = self._parts.memory.wake(
            limit_bytes_per_s=self._settings.fetch.max_bytes_per_s,
            bounds=self._settings.probation,
        )
        log.info("agent.woke", extra={"device": self._settings.id})
        if fault := self._parts.store.fault:
            log.error("store.volatile", extra={"reason": fault.value})
        self._take(self._parts.delivery.tick())
        self._take(event for effect in effects for event in self._perform(effect))

    def _turn(self) -> bool:
        """Take what came, or a tick; say whether to go on."""
        pace_s = self._pace_s()
        self._notifier.live()
        try:
            item = self._queue.get(timeout=pace_s)
        except queue.Empty:
            self._tick()
            return True
        if isinstance(item, Stop):
            return False
        self._take(self._read(item))
        if time.monotonic() - self._ticked_s >= pace_s:
            self._tick()
        return True

    def _pace_s(self) -> float:
        """Return how long to sleep: a device that only serves looks up once a second."""
        agent = self._agent
        is_busy = (
            agent.download is not None
            or agent.trials.current is not None
            or any(not isinstance(state, install.Idle) for state in agent.aliases.values())
        )
        return TICK_S if is_busy else min(IDLE_TICK_S, self._settings.telemetry.window_s)

    def _tick(self) -> None:
        self._ticked_s = now_s = time.monotonic()
        if machine.concludes(self._agent, now_s) or self._parts.windows.is_over(now_s):
            self._take(self._end_window(now_s))
        self._take([*self._parts.delivery.tick(), machine.Tick(), acceptance.Tick(now_s)])
        self._keep_certificate(now_s)
        self._parts.verifier.rest(now_s)
        self._announcer.tick(now_s)
        due = [digests for at_s, digests in self._wants if at_s <= now_s]
        self._wants = [want for want in self._wants if want[0] > now_s]
        for digests in due:
            topic = topics.WantsTopic(self._settings.id)
            self._parts.control.publish(topic, codec.encode(Wants(digests=digests)))
        if self._agent.session.connected:
            own = topics.TelemetryTopic(self._settings.id)
            self._parts.windows.send(lambda body: self._parts.control.publish(own, body))

    def _keep_certificate(self, now_s: float) -> None:
        if self._settings.controller is not None:
            trust = self._parts.memory.acceptance.trust
            floor = proved_by_certificates(trust)
            self._parts.certificate.tick(now_s, now=now_of(trust, time.time()), floor=floor)

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
                for effect in self._parts.memory.step(event):
                    news.extend(self._perform(effect))

    def _judge(self, event: acceptance.Event) -> Iterator[News]:
        """Hold an order or metadata against what is trusted, and do what follows."""
        before = self._parts.memory.acceptance.trust.root
        judged, ordered = self._parts.memory.judge(event)
        if self._parts.memory.acceptance.trust.root != before:
            # Until then the controller sends the roots that it misses again.
            self._announcer.announce()
        for verdict in judged:
            yield from self._perform_acceptance(verdict)
        for effect in ordered:
            yield from self._perform(effect)
        if isinstance(event, acceptance.Joined):
            self._parts.control.listen()  # After the next root: it comes before what its keys sign.

    # Reading what came

    def _read(self, item: Item) -> Iterator[News]:
        """Turn what another thread saw into events."""
        match item:
            case ControlUp():
                yield acceptance.Joined()
                yield session.Connected(time.monotonic())
            case ControlDown():
                self._parts.windows.disconnect()
                yield session.Lost(time.monotonic(), random.random())
            case FetchLink(online):
                yield machine.FetchLink(online, random.random())
            case BrokerShown(dates, verdict):
                self._announcer.note_broker(verdict)
                yield acceptance.Vouched(CERTIFICATE, dates.begins)
            case Message(topic, payload):
                yield from self._parts.inbox.read(topic, payload, self._agent.download)
            case Puback(mid):
                self._parts.windows.acknowledge(mid)
            case Stop():
                pass
            case sources.Answer() | Rebuilt():
                yield from self._parts.delivery.read(item, self._agent.download)
            case trial.Ran() | receipts.Attested() | Renewed() | probing.RuntimesProbed():
                yield from self._read_child(item)
            case engine.Flipped():
                yield from self._note_flip(item)
            case engine.CameBack():
                self._parts.installer.note_return(item)
            case _:
                state = self._agent.aliases.get(item.alias, install.Idle())
                yield from self._parts.installer.read(item, state, time.monotonic())

    def _read_child(
        self, item: trial.Ran | receipts.Attested | Renewed | probing.RuntimesProbed
    ) -> Iterator[News]:
        """Take what came of a child that measured, signed, renewed or tried something."""
        match item:
            case trial.Ran():
                yield item
            case receipts.Attested(deployment, receipt, why):
                if receipt is None:
                    log.warning("receipt.unsigned", extra={"deployment": deployment, "why": why})
                yield item
            case Renewed():
                self._parts.certificate.read(item, time.monotonic())
                yield acceptance.Vouched(CERTIFICATE, item.proved_s)
            case probing.RuntimesProbed(bad):
                for runtime, why in bad.items():
                    log.error("runtime.bad", extra={"runtime": runtime, "why": why})
                self._parts.shelf.judge_by(replace(self._parts.machine, bad_runtimes=bad))
                yield from self._parts.installer.note_probes(item)
            case _:
                assert_never(item)

    # Performing effects

    def _perform(self, effect: machine.Effect) -> Iterator[News]:
        """Do what the machine ordered; yield what came of it at once."""
        match effect:
            case machine.For(alias, change):
                yield from self._perform_install(alias, change)
            case trial.Clear():
                self._collect()
            case receipts.Attest(claim):
                now = now_of(self._parts.memory.acceptance.trust, time.time())
                self._parts.attester.sign(claim, at=now)
            case machine.Tell() | trial.Answer() | receipts.TellReceipt():
                _, last = self._parts.outbox.span()
                yield session.Stored(last, time.monotonic())
                self._announcer.announce()
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
                yield from self._parts.delivery.perform(effect, self._agent.download)
            case download.Want(digests):
                jitter_s = random.random() * WANT_JITTER_S
                self._wants.append((time.monotonic() + jitter_s, digests))
            case trial.Run() | trial.Stop():
                yield from perform_trial(effect, self._parts.gauge, self._parts.shelf)
            case _:
                self._perform_session(effect)

    def _perform_install(
        self, alias: AliasName, effect: install.EngineEffect | install.Keep
    ) -> Iterator[machine.Event]:
        if isinstance(effect, install.Keep):
            self._collect()
        else:
            yield from self._parts.installer.perform(effect, alias, time.monotonic())

    def _perform_acceptance(self, effect: acceptance.Effect) -> Iterator[News]:
        match effect:
            case acceptance.AskTrust(names):
                self._parts.control.ask(names)
            case acceptance.DropTrust(names):
                self._parts.control.drop(names)
            case acceptance.Refuse(reason, why):
                yield Refused(reason, why)
            case acceptance.Advise(desired):
                yield from self._parts.delivery.advise(desired)
                yield session.Advised(desired.spread_s or 0.0)
            case acceptance.Accept(order):
                log.info("order.accepted", extra={"generation": order.generation})
            case _:
                assert_never(effect)

    def _perform_session(self, effect: session.Effect) -> None:
        match effect:
            case session.Connect():
                self._parts.control.connect()
            case session.Announce():
                self._announcer.announce()
            case session.Send(after, until):
                for body in self._parts.outbox.events(after, until):
                    self._parts.control.publish(topics.EventsTopic(self._settings.id), body)
            case session.Forget(until):
                self._parts.memory.forget(until)
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
        self._parts.shelf.keep(bundles)

    # Telling

    def _note_refusal(self, reason: Reason, why: str) -> Iterator[News]:
        log.warning("bytes.refused", extra={"reason": reason.value, "why": why})
        yield from self._parts.memory.note_refusal(
            self._parts.teller.refusal(reason, why, at=time.time())
        )

    def _note_flip(self, flipped: engine.Flipped) -> tuple[machine.Event, ...]:
        flip = Flip(
            bundle=flipped.bundle,
            replaced=flipped.replaced,
            in_flight=flipped.in_flight,
            share=flipped.share,
            policy=flipped.policy,
        )
        extra = {"bundle": flip.bundle, "replaced": flip.replaced, "in_flight": flip.in_flight}
        log.info("bundle.flipped", extra=extra)
        self._parts.installer.note_flip(flipped)
        self._notifier.show(self._status())
        noted = self._parts.memory.note(
            self._parts.teller.flip(flipped.alias, flip, at=time.time())
        )
        self._announcer.catch_up()
        return noted

    def _end_window(self, now_s: float) -> list[machine.Event]:
        facts, workers = self._parts.host.facts(), self._parts.engine.memory()
        return [
            machine.Measured(
                window.alias,
                window.bundle,
                machine.Window(
                    requests=window.requests,
                    errors=dict(window.errors),
                    compute=window.compute,
                    feedback=window.feedback,
                    shadow=window.shadow,
                    worker_bytes=window.worker_bytes,
                    temperature_c=facts.temperature_c,
                ),
            )
            for window in self._parts.windows.end(now_s, facts, self._traffic(), workers)
        ]

    def _traffic(self) -> Traffic:
        return self._parts.control.traffic() + self._parts.delivery.traffic()

    def _status(self) -> str:
        """Return one line on what serves."""
        served = [
            f"{alias} {bundle[:12]}"
            for alias, state in sorted(self._agent.aliases.items())
            if (bundle := slots_of(state).active)
        ]
        return f"serves {', '.join(served)}" if served else "serves nothing yet"

    # The end

    def _close(self) -> None:
        self._notifier.stop()
        self._parts.control.leave()
        self._parts.delivery.close()
        drain_s = self._settings.serving.drain_timeout_s
        self._parts.engine.drain(drain_s)
        self._parts.api.close(drain_s)
        self._parts.gauge.stop()
        workers = self._parts.engine.memory()
        self._parts.engine.close()
        # What was counted since the last window is told next time.
        self._parts.windows.close(
            time.monotonic(), self._parts.host.facts(), self._traffic(), workers
        )
        self._parts.verifier.close()
        self._parts.store.close()
        log.info("agent.stopped", extra={"device": self._settings.id})
