"""Turns what the processes left behind into the rows of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from wherry.blobs import Blob
from wherry.histogram import merge, quantile_ms
from wherry.reasons import Reason
from wherry_sim.demo.operator import Journey, Operator, Rollout, Side, Stage, Variant
from wherry_sim.demo.processes import Agent, LogLine
from wherry_sim.demo.report import (
    Bytes,
    Deltas,
    KillRow,
    Requests,
    Resume,
    RolloutRow,
    ShadowRow,
    StageRow,
    Swap,
    VariantRow,
)
from wherry_sim.demo.traffic import Seen
from wherry_sim.demo.watch import Kill

SLACK_S = 0.3  # Between an agent's log line and its being read.


def variants(found: Sequence[Variant]) -> list[VariantRow]:
    return [
        VariantRow(
            version=one.version,
            profile=one.profile,
            runtime=one.runtime,
            precision=one.precision.value,
            size_bytes=one.size_bytes,
            accuracy=one.report.value,
            reference_accuracy=one.report.reference_value,
            p50_ms=one.latency.p50_ms,
            measured_on=one.latency.measured_on,
        )
        for one in found
    ]


def rollout(seen: Rollout) -> RolloutRow:
    halted = [stage for stage in seen.stages if stage.status == "halted" and stage.verdict]
    verdict = halted[0].verdict if halted else None
    return RolloutRow(
        version=seen.version,
        status=seen.status,
        stopped_by=seen.stopped_by,
        reason=_reason(seen, verdict) if verdict else "",
        stages=[_stage(stage) for stage in seen.stages],
    )


def _reason(seen: Rollout, verdict: Mapping[str, object]) -> str:
    """Return the gate's reason, or the devices' own where they decided first."""
    if seen.stopped_by != "device":
        return str(verdict["reason"])
    own = {j.reason for s in seen.stages for j in s.devices if j.status in ("reverted", "failed")}
    return ", ".join(sorted(reason for reason in own if reason))


def _stage(stage: Stage) -> StageRow:
    ran = stage.began_at is not None and stage.ended_at is not None
    return StageRow(
        name=stage.name,
        devices=[journey.device for journey in stage.devices],
        verdict=str(stage.verdict["decision"]) if stage.verdict else None,
        evidence=stage.verdict,
        seconds=round((stage.ended_at or 0) - (stage.began_at or 0), 2) if ran else None,
    )


def requests(
    seen: Mapping[str, Seen], kills: Sequence[Kill], known: Mapping[str, Variant]
) -> Requests:
    """Add up what the programs saw; a failure while a killed agent was away is cut by the kill."""
    cut = sum(_was_cut(at, device, kills) for device, one in seen.items() for at in one.failures)
    answers: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    inconsistent = 0
    for one in seen.values():
        for bundle, tally in one.tallies.items():
            answers[known[bundle].version] += tally.answers
            wrong[known[bundle].version] += tally.wrong
            inconsistent += tally.inconsistent
    return Requests(
        sent=sum(one.sent for one in seen.values()),
        failed=sum(len(one.failures) for one in seen.values()) - cut,
        cut_by_kill=cut,
        inconsistent=inconsistent,
        wrong_fraction={v: round(wrong[v] / answers[v], 4) for v in sorted(answers)},
    )


def _was_cut(at: float, device: str, kills: Sequence[Kill]) -> bool:
    return any(
        kill.agent == device and kill.at - SLACK_S <= at <= (kill.again_at or kill.at) + SLACK_S
        for kill in kills
    )


def swap(agents: Sequence[Agent], seen: Mapping[str, Seen]) -> Swap:
    """Count at each flip the requests that the local program had sent and no answer had come to."""
    in_flight = [
        _under_way(spans, line.at)
        for agent in agents
        for spans in [np.load(agent.spans)]
        for line in agent.lines
        if line.event == "bundle.flipped" and line.fields["replaced"] != "None"
    ]
    return Swap(
        flips=len(in_flight),
        in_flight_at_flips=min(in_flight, default=0),
        steady_p99_ms=quantile_ms(merge(one.steady for one in seen.values()), 0.99),
        during_p99_ms=quantile_ms(merge(one.burst for one in seen.values()), 0.99),
    )


def _under_way(spans: NDArray[np.float64], at: float) -> int:
    return int(((spans[:, 0] <= at) & (at < spans[:, 1])).sum())


def reverted(agents: Sequence[Agent]) -> list[str]:
    """Return the devices that went back by themselves."""
    return [
        agent.id
        for agent in agents
        if any(line.event == "deployment.reverted" for line in agent.lines)
    ]


def touched(field: Sequence[Agent], seen: Mapping[str, Seen], sick: set[str]) -> int:
    """Count the devices that answered with a sick bundle, or were even told of one."""
    return sum(
        bool(sick & seen[agent.id].tallies.keys())
        or any(line.fields.get("bundle") in sick for line in agent.lines)
        for agent in field
    )


def traffic(
    operator: Operator,
    agents: Sequence[Agent],
    *,
    blobs: set[Blob],
    envelopes_bytes: int,
    deltas_bytes: int,
) -> Bytes:
    return Bytes(
        bundles=sum(blob.size_bytes for blob in blobs) + envelopes_bytes,
        deltas=deltas_bytes,
        controller_sent=operator.broker().sent_bytes,
        received_total=sum(operator.received_bytes(agent.id) for agent in agents),
    )


def deltas(agents: Sequence[Agent], told: Iterable[LogLine], models: Mapping[str, Blob]) -> Deltas:
    """Add up the models that devices made of others; `told` is what the controller logged."""
    made = {line.fields["blob"]: int(line.fields["bytes"]) for line in told}
    rebuilt = [
        line.fields["blob"]
        for agent in agents
        for line in agent.lines
        if line.event == "blob.rebuilt" and line.fields["blob"] in models
    ]
    return Deltas(
        rebuilt=len(rebuilt),
        delta_bytes=sum(made[blob] for blob in rebuilt),
        whole_bytes=sum(models[blob].size_bytes for blob in rebuilt),
    )


def shadowed(sides: Sequence[Side]) -> list[ShadowRow]:
    """Return what each device's candidate showed while it got copies."""
    return [
        ShadowRow(device=side.device, rows=seen.rows, agreement=seen.agreement)
        for side in sides
        if (seen := side.sides.shadowing) is not None
    ]


def confirmed(rollouts: Sequence[Rollout]) -> list[Journey]:
    """Return each deployment that a device confirmed."""
    return [
        journey
        for rollout in rollouts
        for stage in rollout.stages
        for journey in stage.devices
        if journey.reason == Reason.CONFIRMED.value
    ]


def kills(seen: Sequence[Kill]) -> list[KillRow]:
    return [
        KillRow(
            agent=kill.agent,
            away_s=round(kill.again_at - kill.at, 2) if kill.again_at else None,
        )
        for kill in seen
    ]


def resume(agent: Agent, bundle: str, kills: Sequence[Kill]) -> Resume:
    """Count the chunks of one bundle that an agent had stored at its kill, and any stored twice."""
    killed_at = next((kill.at for kill in kills if kill.agent == agent.id), 0.0)
    stored: Counter[str] = Counter()
    before = 0
    current = ""
    for line in agent.lines:
        if line.event == "deployment.in_progress":
            current = line.fields["bundle"]
        if line.event == "chunk.stored" and current == bundle:
            stored[line.fields["chunk"]] += 1
            before += line.at <= killed_at
    return Resume(
        chunks_before_kill=before,
        chunks_fetched_again=sum(count - 1 for count in stored.values()),
    )


def serving(agents: Sequence[Agent], known: Mapping[str, Variant]) -> dict[str, str]:
    """Return the version that each device answers with, by its own status."""
    versions: dict[str, str] = {}
    for agent in agents:
        aliases = agent.status()["aliases"]
        slots = aliases["default"]["slots"] if isinstance(aliases, dict) else {}
        active = str(slots.get("active"))
        versions[agent.id] = known[active].version if active in known else "none"
    return versions
