"""What this device says: its events, what it reports, its telemetry and its presence."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from wherry.measures import HostFacts, Traffic
from wherry.messages import (
    Deployment,
    Event,
    EventKind,
    Flip,
    Presence,
    Reported,
    SignedReceipt,
    Telemetry,
    TrialResult,
    TrustReport,
    detail,
)
from wherry.names import AliasName, ProfileName, StoreId
from wherry.profile import Facts
from wherry.reasons import Reason
from wherry_agent.core import install
from wherry_agent.telemetry import WindowCounts

UNNUMBERED = 0  # The outbox gives the number.


@dataclass(frozen=True, slots=True, kw_only=True)
class Teller:
    """Knows what stands in every message of this device."""

    store_id: StoreId
    profile: ProfileName
    simulated: bool
    versions: Mapping[str, str]
    facts: Facts | None = None

    def deployment(self, alias: AliasName, deployment: Deployment, *, at: float) -> Event:
        kind = EventKind.OUTCOME if deployment.status.is_final else EventKind.PROGRESS
        return Event(
            store_id=self.store_id,
            seq=UNNUMBERED,
            at=at,
            kind=kind,
            alias=alias,
            deployment=deployment,
        )

    def flip(self, alias: AliasName, flip: Flip, *, at: float) -> Event:
        return Event(
            store_id=self.store_id,
            seq=UNNUMBERED,
            at=at,
            kind=EventKind.FLIP,
            alias=alias,
            flip=flip,
        )

    def trial(self, result: TrialResult, *, at: float) -> Event:
        return Event(
            store_id=self.store_id, seq=UNNUMBERED, at=at, kind=EventKind.TRIAL, trial=result
        )

    def receipt(self, alias: AliasName, receipt: SignedReceipt, *, at: float) -> Event:
        return Event(
            store_id=self.store_id,
            seq=UNNUMBERED,
            at=at,
            kind=EventKind.RECEIPT,
            alias=alias,
            receipt=receipt,
        )

    def refusal(self, reason: Reason, why: str, *, at: float) -> Event:
        return Event(
            store_id=self.store_id,
            seq=UNNUMBERED,
            at=at,
            kind=EventKind.REFUSAL,
            reason=reason,
            detail=detail(why),
        )

    def presence(self, *, online: bool) -> Presence:
        return Presence(online=online, store_id=self.store_id)

    def reported(
        self,
        states: Mapping[AliasName, install.State],
        *,
        generation: int,
        seq: int,
        oldest_event: int,
        trust: TrustReport,
        degraded: Collection[Reason] = (),
        receipts: Mapping[AliasName, SignedReceipt] | None = None,
    ) -> Reported:
        """Say what this device has; `degraded` is what is known beside its states."""
        return Reported(
            store_id=self.store_id,
            report_seq=seq,
            generation=generation,
            profile=self.profile,
            simulated=self.simulated,
            slots={alias: install.slots_of(state) for alias, state in states.items()},
            deployments={
                alias: deployment
                for alias, state in states.items()
                if (deployment := install.deployment_of(state))
            },
            versions=dict(self.versions),
            facts=self.facts,
            oldest_event=oldest_event,
            trust=trust,
            degraded=tuple(sorted({*degraded, *degraded_of(states)}, key=lambda one: one.value)),
            receipts=dict(receipts or {}),
        )

    def telemetry(
        self,
        window: WindowCounts,
        host: HostFacts,
        traffic: Traffic,
        *,
        window_s: float,
        at: float,
    ) -> Telemetry:
        return Telemetry(
            store_id=self.store_id,
            seq=UNNUMBERED,
            at=at,
            window_s=window_s,
            alias=window.alias,
            bundle=window.bundle,
            requests=window.requests,
            errors=dict(window.errors),
            latency=window.latency,
            compute=window.compute,
            feedback=window.feedback,
            host=host,
            traffic=traffic,
            inputs=window.inputs,
            outputs=window.outputs,
            shadow=window.shadow,
            worker_bytes=window.worker_bytes,
            restarts=window.restarts,
        )


def degraded_of(states: Mapping[AliasName, install.State]) -> Iterator[Reason]:
    """Yield what the states alone say is wrong, though everything serves."""
    if any(install.serves_revoked(state) for state in states.values()):
        yield Reason.ALL_REVOKED
