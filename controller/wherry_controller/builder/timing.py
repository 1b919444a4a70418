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

from wherry.profile import Profile
from wherry_controller.builder.explore import Workshop, open_workshop, variant_of
from wherry_controller.builder.jobs import Say
from wherry_controller.builder.running.runners import Runners
from wherry_controller.builder.stages import Explored, Task
from wherry_controller.core.build import BuildStep
from wherry_controller.core.choice import Candidate, Latency, judge

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
    words = set(cpuinfo.split())
    has_features = all(words & set(feature.split("|")) for feature in profile.cpu_features)
    return platform.machine() == profile.arch.value and has_features and profile.verified


def processor(cpuinfo: str) -> str:
    """Return the processor's name as Linux gives it; ARM kernels give none."""
    names = (
        line.partition(":")[2].strip()
        for line in cpuinfo.splitlines()
        if line.startswith("model name")
    )
    return next(names, "unnamed processor")


def _timed(shop: Workshop, explored: Explored) -> Explored:
    base = explored.candidates[0]
    worth = [base] + [
        one for one in explored.candidates[1:] if judge(one, base, shop.goals) is None
    ]
    latencies = dict(
        zip((one.name for one in worth), _latencies(shop, explored, worth), strict=True)
    )
    return replace(
        explored,
        candidates=tuple(
            replace(one, latency=latencies.get(one.name)) for one in explored.candidates
        ),
    )


def _latencies(
    shop: Workshop, explored: Explored, candidates: Sequence[Candidate]
) -> tuple[Latency, ...]:
    name = processor(CPUINFO.read_text())
    profile = shop.profile
    settings = (profile.provider, profile.threads, profile.spinning)
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
