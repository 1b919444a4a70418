"""The choice among a profile's candidates, proved and packed.

choose --> golden set: holds on every processor, misses every damage --> pack
   ^            `- fails: the candidate is out, and the next best is chosen
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from wherry_controller.builder.jobs import Say
from wherry_controller.builder.pack import pack, pack_for_measuring
from wherry_controller.builder.proving import Proved, prove
from wherry_controller.builder.running.runners import Runners
from wherry_controller.builder.running.server import RunFailed
from wherry_controller.builder.stages import Explored, Offer, Outcome, Task
from wherry_controller.builder.workshop import Workshop, fault_of, open_workshop, variant_of
from wherry_controller.core.build import BuildStep
from wherry_controller.core.choice import (
    Candidate,
    DeviceFigures,
    Latency,
    ProfileReport,
    choose,
    eligible,
    judge,
    pareto,
)
from wherry_controller.core.fault import BuildReason, BuildRefused, Fault


def finish(task: Task, explored: Explored, say: Say) -> Outcome:
    """Choose, prove and pack; an `Outcome` without a bundle says what the nearest ones miss."""
    with Runners(Path(task.request.runtimes)) as runners:
        shop = open_workshop(task, runners)
        found = on_devices(explored.candidates, task)
        while True:
            chosen, why = choose(found, shop.goals)
            if chosen is None:
                return _outcome(shop, explored, found, None, why, ())
            say(BuildStep.PROVING)
            try:
                proof = _prove(shop, explored, chosen)
            except BuildRefused as refusal:
                found = [_out(one, refusal.fault) if one == chosen else one for one in found]
                continue
            proved = replace(chosen, emulated_on=proof.emulated_on)
            found = [proved if one == chosen else one for one in found]
            say(BuildStep.PACKING)
            bundle = pack(shop, proved, Path(explored.files[chosen.name]), proof)
            outcome = _outcome(shop, explored, found, proved, why, proof.not_emulated)
            return replace(outcome, bundle=bundle)


def offer(task: Task, explored: Explored, say: Say) -> tuple[Offer, ...]:
    """Pack float and every candidate that may yet be chosen as bundles for measuring."""
    with Runners(Path(task.request.runtimes)) as runners:
        shop = open_workshop(task, runners)
        base = explored.candidates[0]
        untimed = [replace(one, latency=None) for one in explored.candidates]
        good = [
            one for one in untimed if judge(one, replace(base, latency=None), shop.goals) is None
        ]
        front = pareto(good)
        offered = [one for one in untimed if one.name in front or one.name == base.name]
        say(BuildStep.PROVING)
        return tuple(_offers(shop, explored, offered))


def _offers(shop: Workshop, explored: Explored, offered: Sequence[Candidate]) -> Iterator[Offer]:
    """Yield float, without which nothing can be compared, and the others that can be proved."""
    base, *others = offered
    yield _offer(shop, explored, base)
    for one in others:
        try:
            yield _offer(shop, explored, one)
        except BuildRefused as refusal:
            traceback.print_exception(refusal)


def _offer(shop: Workshop, explored: Explored, candidate: Candidate) -> Offer:
    proof = _prove(shop, explored, candidate)
    file = Path(explored.files[candidate.name])
    return Offer(candidate.name, pack_for_measuring(shop, candidate, file, proof))


def _prove(shop: Workshop, explored: Explored, candidate: Candidate) -> Proved:
    try:
        return prove(shop, candidate, variant_of(shop, Path(explored.files[candidate.name])))
    except RunFailed as error:
        raise BuildRefused(fault_of(error)) from error


def _out(candidate: Candidate, fault: Fault) -> Candidate:
    return replace(candidate, fault=fault.reason, problem=fault.problem)


def on_devices(candidates: Sequence[Candidate], task: Task) -> list[Candidate]:
    """Return the candidates with the figures that devices of the profile found of them, if any."""
    mine = {one.recipe: one for one in task.request.measured if one.profile == task.profile.name}
    base = mine.get(candidates[0].name)
    if base is None:
        return list(candidates)
    return [_with_figures(one, mine.get(one.name), base) for one in candidates]


def _with_figures(
    candidate: Candidate, figures: DeviceFigures | None, base: DeviceFigures
) -> Candidate:
    if figures is None:
        return candidate
    if not figures.faithful:
        problem = "devices of the profile do not give its golden outputs"
        return _out(candidate, Fault(BuildReason.DIFFERS_ON_CPU, problem))
    devices = "1 device" if figures.devices == 1 else f"{figures.devices} devices"
    latency = Latency(
        p50_ms=figures.p50_ms,
        p99_ms=figures.p99_ms,
        measured_on=f"{devices} of {figures.profile}",
        speed_ratio=base.p50_ms / figures.p50_ms,
    )
    return replace(candidate, latency=latency, memory_bytes=figures.memory_bytes)


def _outcome(
    shop: Workshop,
    explored: Explored,
    candidates: Sequence[Candidate],
    chosen: Candidate | None,
    why: str,
    not_emulated: tuple[str, ...],
) -> Outcome:
    base = candidates[0]
    front = pareto([one for one in candidates if judge(one, base, shop.goals) is None])
    verdicts = [(one, judge(one, base, shop.goals)) for one in candidates]
    report = ProfileReport(
        profile=shop.profile.name,
        runtime=f"{shop.place.runtime.value} {shop.place.version}",
        metric=shop.task.request.card.task.metric.value,
        candidates=tuple(_judged(one, fault, front) for one, fault in verdicts),
        chosen=chosen.name if chosen else None,
        why=why,
        sensitivities=explored.sensitivities,
        verified=shop.profile.verified,
        not_emulated=not_emulated,
    )
    if chosen is not None:
        return Outcome(report=report)
    taken = eligible(candidates, shop.goals)
    reasons = {fault.reason for one, fault in verdicts if fault is not None and one in taken}
    reason = reasons.pop() if len(reasons) == 1 else BuildReason.NO_CANDIDATE
    return Outcome(report=report, fault=Fault(reason, why))


def _judged(candidate: Candidate, fault: Fault | None, front: frozenset[str]) -> Candidate:
    if fault is None:
        return replace(candidate, on_pareto=candidate.name in front)
    return _out(candidate, fault)
