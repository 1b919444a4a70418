"""Candidates timed in quiet, interleaved with float, on hardware of their profile or not at all.

The machine that builds says nothing of other hardware, so a profile that is not of this machine
has no latency here; its devices may be asked instead.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from wherry.cpuinfo import features_in, lines_of
from wherry.profile import Facts, Profile, find_wrong_processor
from wherry_controller.builder.jobs import Say
from wherry_controller.builder.running.place import this_arch
from wherry_controller.builder.running.runners import Runners
from wherry_controller.builder.running.server import RunFailed
from wherry_controller.builder.stages import Explored, Task
from wherry_controller.builder.workshop import Workshop, fault_of, open_workshop, variant_of
from wherry_controller.core.build import BuildStep
from wherry_controller.core.choice import Candidate, Latency, judge
from wherry_controller.core.fault import Fault

CPUINFO = Path("/proc/cpuinfo")


class Timings(msgspec.Struct, frozen=True):
    """The latencies of some model files, in the order of those files."""

    latencies: tuple[Latency, ...]


def time_all(tasks: Sequence[Task], explored: Sequence[Explored], say: Say) -> list[Explored]:
    """Return what was explored with the latencies of what may be chosen."""
    found = []
    for task, one in zip(tasks, explored, strict=True):
        say(BuildStep.TIMING)
        with Runners(Path(task.request.runtimes)) as runners:
            is_measured = any(task.profile.name == each.profile for each in task.request.measured)
            if is_here(task.profile, CPUINFO.read_text()) and not is_measured:
                found.append(_timed(open_workshop(task, runners), one))
            else:
                found.append(one)
    return found


def is_here(profile: Profile, cpuinfo: str) -> bool:
    """Say whether this machine is of the profile's hardware, as far as it can be seen."""
    facts = Facts(arch=this_arch().value, cpu_features=features_in(cpuinfo))
    return profile.verified and find_wrong_processor(profile, facts) is None


def processor(cpuinfo: str) -> str:
    """Return the processor's name as Linux gives it; ARM kernels give none."""
    names = (words for key, words in lines_of(cpuinfo) if key == "model name")
    return next(names, "unnamed processor")


def _timed(shop: Workshop, explored: Explored) -> Explored:
    base = explored.candidates[0]
    worth = [base] + [
        one for one in explored.candidates[1:] if judge(one, base, shop.goals) is None
    ]
    try:
        found = _latencies(shop, explored, worth)
    except RunFailed as error:  # No other profile's candidates were in that process.
        return _failed(explored, fault_of(error))
    latencies = dict(zip((one.name for one in worth), found, strict=True))
    return replace(
        explored,
        candidates=tuple(
            replace(one, latency=latencies.get(one.name)) for one in explored.candidates
        ),
    )


def _failed(explored: Explored, fault: Fault) -> Explored:
    """Return what was explored with no candidate that may be chosen."""
    candidates = (
        one if one.fault is not None else replace(one, fault=fault.reason, problem=fault.problem)
        for one in explored.candidates
    )
    return replace(explored, candidates=tuple(candidates))


def _latencies(
    shop: Workshop, explored: Explored, candidates: Sequence[Candidate]
) -> tuple[Latency, ...]:
    name = processor(CPUINFO.read_text())
    profile = shop.profile
    settings = (
        *(shop.place, profile.provider),
        *(profile.threads, profile.spinning, profile.affinity),
    )
    facts = ([one.digest for one in candidates], name, settings)

    def find() -> Timings:
        variants = [variant_of(shop, Path(explored.files[one.name])) for one in candidates]
        timings = shop.runners.time(shop.place, variants, profile, shop.loaded.data.search)
        base_ms = timings[0].p50_ms
        threads = "1 thread" if profile.threads == 1 else f"{profile.threads} threads"
        return Timings(
            tuple(
                Latency(
                    p50_ms=round(one.p50_ms, 4),
                    p99_ms=round(one.p99_ms, 4),
                    measured_on=f"{name} ({platform.machine()}), {one.on}, {threads}",
                    speed_ratio=round(base_ms / one.p50_ms, 3),
                )
                for one in timings
            )
        )

    return shop.cache.value("timing", facts, Timings, find).latencies
