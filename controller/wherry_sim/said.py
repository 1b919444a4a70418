"""What a simulated device says: documents as an agent writes them, numbered by its disk."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from wherry import codec
from wherry.histogram import Histogram
from wherry.measures import Feedback, HostFacts, Traffic
from wherry.messages import Event, EventKind, Reported, Telemetry
from wherry.names import AliasName, Digest
from wherry.trust.keeping import Trust
from wherry_agent.core import install
from wherry_agent.core.agent import Agent, Tell
from wherry_agent.core.trial import Answer
from wherry_sim.bundles import PROFILE
from wherry_sim.engine import Disk

WINDOW_S = 5.0
NOTHING, NO_LABELS = Histogram(), Feedback()


def tell(disk: Disk, told: Tell | Answer, *, at_s: float) -> None:
    """Put an event into the outbox."""
    disk.events += 1
    event = _trial(disk, told, at_s) if isinstance(told, Answer) else _step(disk, told, at_s)
    disk.outbox[disk.events] = codec.encode(event)


def _trial(disk: Disk, told: Answer, at_s: float) -> Event:
    return Event(
        store_id=disk.store_id,
        seq=disk.events,
        at=at_s,
        kind=EventKind.TRIAL,
        trial=told.result,
    )


def _step(disk: Disk, told: Tell, at_s: float) -> Event:
    final = told.deployment.status.is_final
    return Event(
        store_id=disk.store_id,
        seq=disk.events,
        at=at_s,
        kind=EventKind.OUTCOME if final else EventKind.PROGRESS,
        alias=told.alias,
        deployment=told.deployment,
    )


def window(
    disk: Disk,
    alias: AliasName,
    bundle: Digest,
    *,
    at_s: float,
    requests: int = 0,
    errors: Mapping[str, int] = MappingProxyType({}),
    compute: Histogram = NOTHING,
    labels: Feedback = NO_LABELS,
) -> bytes:
    """Return the next window of telemetry; what was computed took all of a request's time."""
    disk.windows += 1
    telemetry = Telemetry(
        store_id=disk.store_id,
        seq=disk.windows,
        at=at_s,
        window_s=WINDOW_S,
        alias=alias,
        bundle=bundle,
        requests=requests,
        errors=dict(errors),
        latency=compute,
        compute=compute,
        feedback=labels,
        host=HostFacts(),
        traffic=Traffic(),
    )
    return codec.encode(telemetry)


def report(disk: Disk, agent: Agent, trust: Trust) -> bytes:
    """Return the next report of all that the device has."""
    disk.reports += 1
    states = agent.aliases
    deployments = {alias: install.deployment_of(state) for alias, state in states.items()}
    reported = Reported(
        store_id=disk.store_id,
        report_seq=disk.reports,
        generation=trust.generation,
        profile=PROFILE.name,
        simulated=True,
        slots={alias: install.slots_of(state) for alias, state in states.items()},
        deployments={alias: said for alias, said in deployments.items() if said},
        versions={},
    )
    return codec.encode(reported)
