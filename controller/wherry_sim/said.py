"""What a simulated device says: documents as an agent writes them, numbered by its disk."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias, assert_never

import msgspec

from wherry import codec
from wherry.histogram import Histogram
from wherry.measures import Feedback, HostFacts, Traffic
from wherry.messages import Event, EventKind, Reported, SignedReceipt, Telemetry
from wherry.names import AliasName, DeviceId, Digest
from wherry.trust.keeping import Trust
from wherry_agent.core import install
from wherry_agent.core.agent import Agent, Tell
from wherry_agent.core.receipts import Attested, Claim, TellReceipt
from wherry_agent.core.trial import Answer
from wherry_sim.bundles import PROFILE
from wherry_sim.engine import Disk

WINDOW_S = 5.0
NOTHING, NO_LABELS = Histogram(), Feedback()

Told: TypeAlias = Tell | Answer | TellReceipt


def tell(disk: Disk, told: Told, *, at_s: float) -> None:
    """Put an event into the outbox."""
    disk.events += 1
    disk.outbox[disk.events] = codec.encode(_event(disk, told, at_s))


def attested(device: DeviceId, claim: Claim) -> Attested:
    """Return a claim with what stands for a signature here: a simulated device has no key."""
    signed = msgspec.Raw(codec.encode(claim))
    return Attested(claim.deployment, SignedReceipt(signed=signed, keyid=device, sig=""))


def _event(disk: Disk, told: Told, at_s: float) -> Event:
    match told:
        case Answer():
            return _trial(disk, told, at_s)
        case TellReceipt():
            return _receipt(disk, told, at_s)
        case Tell():
            return _step(disk, told, at_s)
        case _:
            assert_never(told)


def _receipt(disk: Disk, told: TellReceipt, at_s: float) -> Event:
    return Event(
        store_id=disk.store_id,
        seq=disk.events,
        at=at_s,
        kind=EventKind.RECEIPT,
        alias=told.alias,
        receipt=told.receipt,
    )


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
        receipts=agent.receipts.signed,
    )
    return codec.encode(reported)
