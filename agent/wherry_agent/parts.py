"""The parts of one agent, put together by hand: who is given what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from wherry import __version__, codec
from wherry.trust.keeping import proved_by_certificates
from wherry_agent import detect, engine, host, metrics, probing
from wherry_agent.attest import Attester
from wherry_agent.core import receipts, trial
from wherry_agent.core.proposal import telling
from wherry_agent.core.renewal import Renewed
from wherry_agent.core.suitability import Machine
from wherry_agent.delivery import Delivery, Seen
from wherry_agent.gauge import Gauge
from wherry_agent.inbox import Inbox
from wherry_agent.lines import Control, OnLine, fetch_line, securing
from wherry_agent.memory import Enrolment, Memory
from wherry_agent.outbox import Outbox
from wherry_agent.performing import Installer
from wherry_agent.renewer import Upkeep
from wherry_agent.serving import UNBOUND, Bound, Server, listen_settings
from wherry_agent.settings import Settings, read_identity, read_root
from wherry_agent.shelf import Shelf
from wherry_agent.sources import source_context
from wherry_agent.store import Store
from wherry_agent.telemetry import Recorder
from wherry_agent.telling import Teller
from wherry_agent.verifying import Child, Verifying
from wherry_agent.ways import Ways
from wherry_agent.windows import Windows


@dataclass(frozen=True, slots=True)
class Stop:
    """The agent is to end."""


# What the other threads put on the queue.
Item: TypeAlias = (
    OnLine
    | Stop
    | Seen
    | engine.EngineEvent
    | trial.Ran
    | Renewed
    | receipts.Attested
    | probing.RuntimesProbed
)
Put: TypeAlias = Callable[[Item], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Used by the deciding thread, but for the engine and the API, which have their own."""

    machine: Machine
    store: Store
    outbox: Outbox
    memory: Memory
    verifier: Child
    host: host.Host
    engine: engine.Engine
    api: Server
    gauge: Gauge
    shelf: Shelf
    inbox: Inbox
    installer: Installer
    attester: Attester
    teller: Teller
    windows: Windows
    certificate: Upkeep
    control: Control
    delivery: Delivery


def put_together(home: Path, settings: Settings, put: Put, bound: Bound = UNBOUND) -> Parts:
    """Return the parts of the agent of `home`; none of them has begun to do anything."""
    enrolment = _enrolment_of(home, settings)
    store = Store(home / "state")
    telemetry = settings.telemetry
    outbox = Outbox(
        store.database, keep_windows=telemetry.keep_windows, keep_bytes=telemetry.keep_bytes
    )
    recorder, runtimes, ways = Recorder(), host.runtimes(), Ways(store)
    this = _machine_of(settings, runtimes)
    shelf = Shelf(store, this, ways=ways, reserve_bytes=settings.fetch.reserve_bytes)
    teller = Teller(
        store_id=store.store_id,
        profile=settings.profile,
        simulated=settings.simulate,
        versions={"wherry-agent": __version__, **runtimes},
        facts=telling(this.facts),
    )
    verifier = Child()
    memory = Memory(store, outbox, teller, enrolment, Verifying(verifier.exchange))
    windows = Windows(recorder, teller, store=store, outbox=outbox, settings=telemetry)
    serving = _engine_of(settings, home, recorder, put)
    secured = securing(home, put, lambda: proved_by_certificates(memory.acceptance.trust))
    return Parts(
        machine=this,
        store=store,
        outbox=outbox,
        memory=memory,
        verifier=verifier,
        host=host.Host(store.folder),
        engine=serving,
        api=_api_of(settings, home, bound, serving, recorder, windows),
        gauge=Gauge(put),
        shelf=shelf,
        inbox=Inbox(store, shelf),
        installer=Installer(serving, shelf),
        attester=Attester(home, put),
        teller=teller,
        windows=windows,
        certificate=Upkeep(home, read_identity(home), put),
        control=Control(
            settings, put, gone=codec.encode(teller.presence(online=False)), secured=secured
        ),
        delivery=Delivery(
            fetch_line(settings, put, secured),
            store,
            shelf,
            ways,
            settings=settings.fetch,
            put=put,
            context=lambda source: source_context(home, source, own=settings.blobs),
        ),
    )


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


def _engine_of(settings: Settings, home: Path, recorder: Recorder, put: Put) -> engine.Engine:
    return engine.Engine(
        on_event=put,
        settings=engine.settings_of(
            settings.serving,
            seen_share=settings.telemetry.seen_share,
            optimized_folder=home / "state" / "optimized",
        ),
        recorder=recorder,
        memory_available_bytes=host.memory_available_bytes,
        temperature_c=host.temperature_c,
    )


def _api_of(
    settings: Settings,
    home: Path,
    bound: Bound,
    serving: engine.Engine,
    recorder: Recorder,
    windows: Windows,
) -> Server:
    """Return the local API; as Prometheus text it shows, by setting, what was counted."""
    listening = listen_settings(home, settings, bound)
    if not settings.api.metrics:
        return Server(serving, recorder, listening)
    looks = host.Host(home / "state")

    def shown() -> str:
        return metrics.render(
            metrics.Snapshot(
                version=__version__,
                totals=recorder.totals(),
                host=looks.facts(),
                workers=serving.memory(),
                dropped_windows=windows.dropped,
            )
        )

    return Server(serving, recorder, listening, shown)
