"""What the device attests of deployments that it confirmed, until each is signed and told.

    confirmed --Attest--> a child signs --Attested--> told, and kept as the alias's newest

One claim is signed after the other, so that the newest receipt of an alias is the last that comes.
Claims outlive the process; one that could not be signed is tried again after growing pauses. What
a child signed twice is told once.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from wherry.messages import SignedReceipt
from wherry.names import AliasName, DeploymentId, Digest
from wherry_agent.core.health import Watch, p50_p99_ms
from wherry_agent.core.standing import Probation

MOST_CLAIMS = 64
PAUSE_S, LONGEST_PAUSE_S = 30.0, 3600.0


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a `Receipt` that the device has measured."""

    alias: AliasName
    deployment: DeploymentId
    bundle: Digest
    outputs: Digest
    requests: int
    p50_ms: float | None
    p99_ms: float | None
    memory_bytes: int
    runtime: str
    runtime_version: str


class Receipts(msgspec.Struct, frozen=True, kw_only=True):
    """`claims` wait in the order in which they were confirmed; `signed` are the newest."""

    claims: tuple[Claim, ...] = ()
    signed: dict[AliasName, SignedReceipt] = {}
    failed: int = 0
    again_s: float | None = None


class Attested(msgspec.Struct, frozen=True):
    """A claim was signed, or could not be: `why`."""

    deployment: DeploymentId
    receipt: SignedReceipt | None
    why: str = ""


class Attest(msgspec.Struct, frozen=True):
    """Have a child sign the claim, and answer `Attested`."""

    claim: Claim


class TellReceipt(msgspec.Struct, frozen=True):
    """Put the receipt in the outbox, and say `reported` anew."""

    alias: AliasName
    deployment: DeploymentId
    receipt: SignedReceipt


Effects = tuple[Attest | TellReceipt, ...]


def claim_of(alias: AliasName, probation: Probation, watch: Watch) -> Claim | None:
    """Return what can be attested at a probation's end; None where its proof is not known."""
    shown = probation.shown
    if shown is None:
        return None
    p50_ms, p99_ms = p50_p99_ms(watch.whole)
    return Claim(
        alias=alias,
        deployment=probation.wanted.deployment,
        bundle=probation.wanted.bundle,
        outputs=shown.outputs,
        requests=watch.requests,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        memory_bytes=watch.worker[-1] if watch.worker else shown.memory_bytes,
        runtime=shown.runtime,
        runtime_version=shown.runtime_version,
    )


def add(receipts: Receipts, claim: Claim) -> tuple[Receipts, Effects]:
    """Take a claim in; of too many that wait the oldest go, but for the one that is signed now."""
    first, later = receipts.claims[:1], (*receipts.claims[1:], claim)
    claims = (*first, *later[-(MOST_CLAIMS - 1) :])
    return replace(receipts, claims=claims), () if first else (Attest(claim),)


def take(receipts: Receipts, came: Attested, now_s: float) -> tuple[Receipts, Effects]:
    """Take what came of the first claim; anything else was told before."""
    if not receipts.claims or receipts.claims[0].deployment != came.deployment:
        return receipts, ()
    if came.receipt is None:
        pause_s = min(LONGEST_PAUSE_S, PAUSE_S * 2.0 ** min(receipts.failed, 16))
        return replace(receipts, failed=receipts.failed + 1, again_s=now_s + pause_s), ()
    first, *later = receipts.claims
    signed = {**receipts.signed, first.alias: came.receipt}
    after = Receipts(claims=tuple(later), signed=signed)
    return after, (TellReceipt(first.alias, first.deployment, came.receipt), *begin(after))


def tick(receipts: Receipts, now_s: float) -> tuple[Receipts, Effects]:
    """Try the first claim again where its pause is over."""
    if receipts.again_s is None or now_s < receipts.again_s:
        return receipts, ()
    return replace(receipts, again_s=None), begin(receipts)


def begin(receipts: Receipts) -> tuple[Attest, ...]:
    """Return what is to be signed, as it is at a start of the process too."""
    return tuple(Attest(claim) for claim in receipts.claims[:1])
