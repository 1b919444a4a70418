"""What the demo writes to `report.json`, and the claims it checks before it says `ok`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec


class VariantRow(msgspec.Struct, frozen=True, kw_only=True):
    """One accepted variant; accuracies are shares from 0 to 1."""

    version: str
    profile: str
    runtime: str
    precision: str
    size_bytes: int
    accuracy: float
    reference_accuracy: float
    p50_ms: float
    measured_on: str


class StageRow(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    devices: list[str]
    verdict: str | None
    evidence: dict[str, object] | None
    seconds: float | None


class RolloutRow(msgspec.Struct, frozen=True, kw_only=True):
    """`stopped_by` is who decided first: `device`, `gate` or null."""

    version: str
    status: str
    stopped_by: str | None
    reason: str
    stages: list[StageRow]


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """`cut_by_kill` failed between a SIGKILL and the agent's next answer; not in `failed`."""

    sent: int
    failed: int
    cut_by_kill: int
    inconsistent: int
    wrong_fraction: dict[str, float]


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """Of the flips that replace a bundle; `in_flight_at_flips` is the smallest of all."""

    flips: int
    in_flight_at_flips: int
    steady_p99_ms: float | None
    during_p99_ms: float | None


class Bytes(msgspec.Struct, frozen=True, kw_only=True):
    """What was published, each bundle and delta once; the others are counted at the sockets."""

    bundles: int
    deltas: int
    controller_sent: int
    received_total: int


class KillRow(msgspec.Struct, frozen=True, kw_only=True):
    """One SIGKILL; `away_s` is None where the agent never served again."""

    agent: str
    away_s: float | None


class Resume(msgspec.Struct, frozen=True, kw_only=True):
    chunks_before_kill: int
    chunks_fetched_again: int


class ShadowRow(msgspec.Struct, frozen=True, kw_only=True):
    """A device's candidate beside its incumbent, on copies of live requests."""

    device: str
    rows: int
    agreement: float | None


class Deltas(msgspec.Struct, frozen=True, kw_only=True):
    """Blobs of v2 that devices made of v1's: what came for them, and what each is in whole."""

    rebuilt: int
    delta_bytes: int
    whole_bytes: int


class RefusalRow(msgspec.Struct, frozen=True, kw_only=True):
    what: str
    by: str
    reason: str


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    claim: str
    holds: bool
    seen: str


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the story saw."""

    variants: list[VariantRow]
    rollouts: list[RolloutRow]
    requests: Requests
    swap: Swap
    reverted_devices: list[str]
    field_devices_touched_by_sick_versions: int
    bytes: Bytes
    deltas: Deltas
    shadowed: list[ShadowRow]
    confirmed: int
    receipts: int
    resume: Resume
    kills: list[KillRow]
    refusals: list[RefusalRow]
    devices_back_on: dict[str, str]
    seconds: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    ok: bool
    claims: list[Claim]
    variants: list[VariantRow]
    rollouts: list[RolloutRow]
    requests: Requests
    swap: Swap
    reverted_devices: list[str]
    field_devices_touched_by_sick_versions: int
    bytes: Bytes
    deltas: Deltas
    shadowed: list[ShadowRow]
    confirmed: int
    receipts: int
    resume: Resume
    kills: list[KillRow]
    refusals: list[RefusalRow]
    seconds: float


FEWEST_REQUESTS = 5000
FEWEST_COMPARED = 40
LEAST_AGREEMENT = 0.85
LARGEST_EGRESS = 1.3
LARGEST_DROP = 0.01
KILLED_IN_DOWNLOAD = 1  # It fetches whole what it had begun, if the kill took its advice away.


def judge(facts: Facts) -> Report:
    """Check every claim of the demo against what was seen."""
    claims = [*_of_rollouts(facts), *_of_answers(facts), *_of_the_way(facts)]
    fields = msgspec.structs.asdict(facts)
    del fields["devices_back_on"]
    return Report(ok=all(claim.holds for claim in claims), claims=claims, **fields)


def _of_rollouts(facts: Facts) -> Sequence[Claim]:
    """Check where each version went, and who stopped it."""
    outcome = {row.version: row for row in facts.rollouts}
    refused = {row.what: row.reason for row in facts.refusals}
    return [
        _claim(
            "v1 and v2 reached every device",
            all(outcome[v].status == "succeeded" for v in ("v1", "v2")),
            ", ".join(f"{v} {outcome[v].status}" for v in ("v1", "v2")),
        ),
        _claim(
            "v3 was stopped by the gate for its accuracy in life",
            outcome["v3"].stopped_by == "gate" and outcome["v3"].reason == "accuracy_drop",
            f"{outcome['v3'].stopped_by}: {outcome['v3'].reason}",
        ),
        _claim(
            "v4 was stopped by the devices, which went back by themselves",
            outcome["v4"].stopped_by == "device" and len(facts.reverted_devices) >= 1,
            f"{outcome['v4'].stopped_by}: {', '.join(facts.reverted_devices)}",
        ),
        _claim(
            "both sick rollouts ended with every device back",
            all(outcome[v].status == "reverted" for v in ("v3", "v4")),
            ", ".join(f"{v} {outcome[v].status}" for v in ("v3", "v4")),
        ),
        _claim(
            "every device ends on v2",
            set(facts.devices_back_on.values()) == {"v2"},
            ", ".join(f"{n} on {v}" for v, n in Counter(facts.devices_back_on.values()).items()),
        ),
        _claim(
            "no device of field saw a sick version",
            facts.field_devices_touched_by_sick_versions == 0,
            str(facts.field_devices_touched_by_sick_versions),
        ),
        _claim(
            "the damaged version, the foreign bundle and the altered chunk were refused by name",
            set(refused) >= {"v5", "foreign bundle", "chunk"} and all(refused.values()),
            ", ".join(f"{what}: {reason}" for what, reason in refused.items()),
        ),
    ]


def _of_answers(facts: Facts) -> Sequence[Claim]:
    """Check what applications were answered, and how well."""
    requests, swap, wrong = facts.requests, facts.swap, facts.requests.wrong_fraction
    worst = max((v.reference_accuracy - v.accuracy for v in facts.variants), default=1.0)
    return [
        _claim(
            f"at least {FEWEST_REQUESTS} requests, and none failed",
            requests.sent >= FEWEST_REQUESTS and requests.failed == 0,
            f"{requests.sent} sent, {requests.failed} failed, {requests.cut_by_kill} cut by kills",
        ),
        _claim(
            "every answer is the one its bundle gives offline",
            requests.inconsistent == 0,
            f"{requests.inconsistent} strayed",
        ),
        _claim(
            "requests were in flight at every flip",
            swap.flips > 0 and swap.in_flight_at_flips >= 1,
            f"at least {swap.in_flight_at_flips} at each of {swap.flips} flips",
        ),
        _claim(
            "int8 is within a point of fp32",
            worst <= LARGEST_DROP + 1e-9,
            f"the largest drop is {worst:.4f}",
        ),
        _claim(
            "the labels from life tell v3 from v2",
            wrong.get("v3", 0.0) > 0.5 > wrong.get("v2", 1.0),
            ", ".join(f"{v} {share:.3f} wrong" for v, share in sorted(wrong.items())),
        ),
        _claim(
            "each device's v2 shadowed its v1 on live requests before it answered any",
            len(facts.shadowed) == len(facts.devices_back_on)
            and all(_is_compared(one) for one in facts.shadowed),
            _spoken(facts.shadowed),
        ),
        _claim(
            "each confirmed deployment has a receipt that its device signed",
            facts.receipts == facts.confirmed > 0,
            f"{facts.receipts} of {facts.confirmed}",
        ),
    ]


def _of_the_way(facts: Facts) -> Sequence[Claim]:
    """Check what bundles cost on the wire, and what kills cost."""
    egress = facts.bytes.controller_sent / max(facts.bytes.bundles + facts.bytes.deltas, 1)
    share = facts.deltas.delta_bytes / max(facts.deltas.whole_bytes, 1)
    return [
        _claim(
            f"the controller sent at most {LARGEST_EGRESS} times what it published",
            0 < egress <= LARGEST_EGRESS,
            f"{egress:.2f} times, to 8 agents",
        ),
        _claim(
            "every device but one that was killed made v2 of v1 and a smaller delta",
            facts.deltas.rebuilt >= len(facts.devices_back_on) - KILLED_IN_DOWNLOAD
            and facts.deltas.delta_bytes < facts.deltas.whole_bytes,
            f"{facts.deltas.rebuilt} devices, {share:.0%} of the bytes",
        ),
        _claim(
            "the agent that was killed in mid-download fetched no chunk again",
            facts.resume.chunks_before_kill >= 2 and facts.resume.chunks_fetched_again == 0,
            f"{facts.resume.chunks_before_kill} before, {facts.resume.chunks_fetched_again} again",
        ),
        _claim(
            "both killed agents came back and served",
            len(facts.kills) == 2 and all(kill.away_s is not None for kill in facts.kills),
            ", ".join(f"{kill.agent} was away {kill.away_s or 0:.1f} s" for kill in facts.kills),
        ),
    ]


def _is_compared(one: ShadowRow) -> bool:
    return one.rows >= FEWEST_COMPARED and (one.agreement or 0.0) >= LEAST_AGREEMENT


def _spoken(shadowed: Sequence[ShadowRow]) -> str:
    rows = sum(one.rows for one in shadowed)
    least = min((one.agreement or 0.0 for one in shadowed), default=0.0)
    return f"{rows} answers compared, at least {least:.3f} agree on each device"


def _claim(claim: str, holds: bool, seen: str) -> Claim:
    return Claim(claim=claim, holds=holds, seen=seen)
