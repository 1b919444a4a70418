"""`make bench-build`: real nets built for six profiles, what it costs and what comes of it.

    nets --> each of the four for six profiles        --> variants
         --> the 10 MB one: by hand, pipeline, in turn --> pipeline_over_bare
             one build a profile, each with nothing kept --> six_cold_over_six
             the same build again                     --> rebuild_s, rebuild_over_first
             calibrated with 100 and 2,000 rows       --> calibration_memory_growth

Every build is the builder's own process, as a controller starts it; its cost is that of the whole
tree of processes, also of those that outlive their parents. The cost of the pipeline is taken on
profiles without emulated processors and without an older runtime to load on: emulation is slow
enough to hide everything else. The figures go to `build/bench/build.json`, and a table to stdout.
"""

from __future__ import annotations

import ctypes
import functools
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec.structs import replace

from tests.bench import nets
from tests.bench.calibrate import Peak
from tests.controller.builder.versions import REPOSITORY, Build, run_build
from wherry.profile import Precision, Profile, Runtime
from wherry_controller.builder.running.environments import installed_version
from wherry_controller.core.card import Card
from wherry_controller.core.choice import Candidate, ProfileReport
from wherry_controller.core.written import parse_profile

OUTPUT = REPOSITORY / "build" / "bench"
SHIPPED = REPOSITORY / "controller" / "wherry_controller" / "profiles"
OWN = Path(__file__).with_name("profiles")
# Both kinds of runtime; x86 with VNNI and without, and ARM, which is not timed here.
SIX = (
    "generic-x86-64",
    "x86-64-vnni",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "litert-x86-64",
    "litert-aarch64",
)
TURNS = 3
CHILD_SUBREAPER = 36  # prctl(2)
SMALLER, FASTER = 3.0, 1.5
INT8 = frozenset({Precision.INT8, Precision.INT8_DYNAMIC, Precision.INT8_WEIGHTS})


class Shipped(msgspec.Struct, frozen=True, kw_only=True):
    """What was shipped for a profile; `speed_ratio` is None where this machine is not of it."""

    model: str
    profile: str
    precision: str
    size_ratio: float
    speed_ratio: float | None
    metric_drop: float
    float_layers: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `build.json`; shares and growth are fractions."""

    pipeline_over_bare: float
    six_cold_over_six: float
    rebuild_s: float
    rebuild_over_first: float
    calibration_memory_growth: float
    variants: tuple[Shipped, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What something took: time on the clock, and of all processors."""

    wall_s: float
    cpu_s: float

    def over(self, other: Cost) -> float:
        """Return the larger one of the two ratios."""
        return max(self.wall_s / other.wall_s, self.cpu_s / other.cpu_s)

    def least_over(self, other: Cost) -> float:
        return min(self.wall_s / other.wall_s, self.cpu_s / other.cpu_s)


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of the table."""

    what: str
    figure: str
    bar: str
    holds: bool


def main() -> int:
    _adopt_orphans()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    versions = _versions()
    scratch = OUTPUT / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    variants = tuple(_variants(versions, scratch))
    plain = [_plain(a_profile(name)) for name in SIX]
    figures = _cost_figures(versions, scratch, plain, variants)
    (OUTPUT / "build.json").write_bytes(msgspec.json.format(msgspec.json.encode(figures)))
    bars = list(_bars(figures))
    _print(figures, bars)
    shutil.rmtree(scratch, ignore_errors=True)
    return 0 if all(bar.holds for bar in bars) else 1


def a_profile(name: str) -> Profile:
    """Return one of the profiles that Wherry brings, or else one of the bench's own."""
    file = SHIPPED / f"{name}.toml"
    return parse_profile((file if file.exists() else OWN / f"{name}.toml").read_bytes())


def _plain(profile: Profile) -> Profile:
    """Return the profile on this interpreter's runtime alone."""
    version = installed_version(profile.runtime)
    assert version is not None
    return replace(profile, emulated_cpus=(), runtime_floor=version, runtime_version=version)


def _adopt_orphans() -> None:
    """Let a process that outlives its parent become a child of this one, which is told its cost."""
    ctypes.CDLL(None).prctl(CHILD_SUBREAPER, 1, 0, 0, 0)


def _versions() -> Path:
    """Return the folder of the trained nets, made where none is there of the same source."""
    folder = OUTPUT / f"versions-{nets.source_digest()[:12]}"
    if not folder.is_dir():
        making = folder.with_suffix(".making")
        shutil.rmtree(making, ignore_errors=True)
        _say("training the nets")
        _run([sys.executable, "-m", "tests.bench.nets", str(making)])
        making.rename(folder)
    return folder


def _variants(versions: Path, scratch: Path) -> Iterator[Shipped]:
    profiles = [a_profile(name) for name in SIX]
    for net in nets.JUDGED:
        _say(f"building {net} for {len(profiles)} profiles")
        made = _built(nets.a_card(net), versions / net, scratch / net, profiles)
        for name, built in made.built.items():
            yield _shipped(net, name, built.report)


def _shipped(net: str, profile: str, report: ProfileReport) -> Shipped:
    chosen = next(one for one in report.candidates if one.name == report.chosen)
    base = report.candidates[0]
    assert base.size_bytes and chosen.size_bytes and chosen.judged is not None
    return Shipped(
        model=net,
        profile=profile,
        precision=chosen.recipe.precision.value,
        size_ratio=round(base.size_bytes / chosen.size_bytes, 3),
        speed_ratio=_speed(chosen),
        metric_drop=round(chosen.judged.drop, 5),
        float_layers=len(chosen.recipe.kept_float),
    )


def _speed(chosen: Candidate) -> float | None:
    return None if chosen.latency is None else chosen.latency.speed_ratio


def _built(card: Card, folder: Path, output: Path, profiles: Sequence[Profile]) -> Build:
    """Build with nothing kept from before; every profile must come out."""
    made = run_build(card, folder, output, profiles)
    refused = [f"{one.profile}: {one.detail}" for one in made.refused]
    assert not refused, "; ".join(refused)
    return made


def _cost_figures(
    versions: Path, scratch: Path, profiles: Sequence[Profile], variants: tuple[Shipped, ...]
) -> Figures:
    bare, pipeline = _in_turn(versions, scratch, profiles)
    card, folder = nets.a_card(nets.LARGE), versions / nets.LARGE
    last = scratch / f"six-{TURNS - 1}"
    _say("building it again, unchanged")
    again = _cost(
        lambda: run_build(
            card, folder, scratch / "again", profiles, cache=last.with_name(f"{last.name}-cache")
        )
    )
    cold = _all_cold(card, folder, scratch, profiles)
    growth = _growth(versions, scratch)
    _say(f"by hand {bare}, pipeline {pipeline}, six cold {cold}, again {again}")
    return Figures(
        pipeline_over_bare=round(pipeline.over(bare), 3),
        six_cold_over_six=round(cold.least_over(pipeline), 3),
        rebuild_s=round(again.wall_s, 3),
        rebuild_over_first=round(again.over(pipeline), 4),
        calibration_memory_growth=round(growth, 4),
        variants=variants,
    )


def _in_turn(versions: Path, scratch: Path, profiles: Sequence[Profile]) -> tuple[Cost, Cost]:
    """Return the median costs of the work by hand and by the pipeline, done in turn."""
    bare, pipeline = [], []
    card, folder = nets.a_card(nets.LARGE), versions / nets.LARGE
    wanted = scratch / "profiles.json"
    wanted.write_bytes(msgspec.json.encode(profiles))
    for turn in range(TURNS):
        _say(f"six profiles by hand, {turn + 1} of {TURNS}")
        by_hand = scratch / f"bare-{turn}"
        by_hand.mkdir()
        what = [str(folder), nets.LARGE, str(wanted), str(by_hand)]
        bare.append(
            _cost(functools.partial(_run, [sys.executable, "-m", "tests.bench.bare", *what]))
        )
        _say(f"{bare[-1]}; six profiles by the pipeline, {turn + 1} of {TURNS}")
        output = scratch / f"six-{turn}"
        pipeline.append(_cost(functools.partial(_built, card, folder, output, profiles)))
        _say(f"{pipeline[-1]}")
    return _median(bare), _median(pipeline)


def _all_cold(card: Card, folder: Path, scratch: Path, profiles: Sequence[Profile]) -> Cost:
    """Return what the profiles cost one by one, with nothing kept between them."""
    costs = []
    for profile in profiles:
        _say(f"{profile.name} alone, with nothing kept")
        output = scratch / f"cold-{profile.name}"
        costs.append(_cost(functools.partial(_built, card, folder, output, [profile])))
    return Cost(sum(one.wall_s for one in costs), sum(one.cpu_s for one in costs))


def _growth(versions: Path, scratch: Path) -> float:
    """Return how much the peak of a calibrating process grows, at worst of the two runtimes."""
    growths = []
    for runtime in (Runtime.ONNXRUNTIME, Runtime.LITERT):
        few, many = (_peak(versions, scratch, runtime, name) for name in ("few", "many"))
        _say(f"calibration for {runtime.value}: {few >> 20} and {many >> 20} MiB at most")
        growths.append(many / few - 1)
    return max(growths)


def _peak(versions: Path, scratch: Path, runtime: Runtime, rows: str) -> int:
    export = scratch / f"six-{TURNS - 1}-cache"
    place = scratch / f"calibrate-{runtime.value}-{rows}"
    place.mkdir()
    what = [str(versions / nets.LARGE), f"{rows}.npz", str(export), runtime.value, str(place)]
    said = _run([sys.executable, "-m", "tests.bench.calibrate", *what])
    return msgspec.json.decode(said.splitlines()[-1], type=Peak).peak_bytes


def _median(costs: Sequence[Cost]) -> Cost:
    return Cost(
        statistics.median(one.wall_s for one in costs),
        statistics.median(one.cpu_s for one in costs),
    )


def _cost(work: Callable[[], object]) -> Cost:
    """Do the work and return what it took, all processes that it started together."""
    _await_orphans()  # Of the work before: what they took is no part of this.
    started, before = time.monotonic(), _cpu_of_children_s()
    work()
    wall_s = time.monotonic() - started
    _await_orphans()
    return Cost(round(wall_s, 2), round(_cpu_of_children_s() - before, 2))


def _await_orphans() -> None:
    """Wait for every process that is left: only then is it known what it took."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _cpu_of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(command: Sequence[str]) -> bytes:
    done = subprocess.run(command, check=False, capture_output=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout


def _bars(figures: Figures) -> Iterator[Bar]:
    """Yield the figures beside their bars."""
    for what, figure, most in (
        ("pipeline over bare calls (the worse of wall and CPU)", figures.pipeline_over_bare, 1.15),
        ("unchanged rebuild, seconds", figures.rebuild_s, 2.0),
        ("unchanged rebuild over the first build", figures.rebuild_over_first, 0.05),
        (
            "growth of calibration's memory, 100 to 2,000 rows",
            figures.calibration_memory_growth,
            0.10,
        ),
    ):
        yield Bar(what, f"{figure:.3f}", f"<= {most}", figure <= most)
    ratio = figures.six_cold_over_six
    yield Bar("six cold builds over one of six", f"{ratio:.3f}", ">= 2.5", ratio >= 2.5)
    yield from _variant_bars(figures.variants)


def _variant_bars(variants: Sequence[Shipped]) -> Iterator[Bar]:
    slowest = min((one.speed_ratio for one in variants if one.speed_ratio), default=1.0)
    yield Bar("speed of the slowest shipped variant", f"{slowest:.2f}", ">= 1", slowest >= 1)
    worst = max(one.metric_drop for one in variants)
    most = nets.HALF_A_POINT
    yield Bar("largest drop of a shipped variant", f"{worst:.4f}", f"<= {most}", worst <= most)
    gaining = {one.model for one in variants if _gains(one)}
    what = f"nets with int8 {FASTER} times faster or {SMALLER:g} times smaller, within half a point"
    yield Bar(what, f"{len(gaining)} of {len(nets.JUDGED)}", ">= 3", len(gaining) >= 3)


def _gains(one: Shipped) -> bool:
    is_better = one.size_ratio >= SMALLER or (one.speed_ratio or 0) >= FASTER
    is_int8 = one.precision in {precision.value for precision in INT8}
    return is_int8 and is_better and one.metric_drop <= nets.HALF_A_POINT


def _print(figures: Figures, bars: Sequence[Bar]) -> None:
    row = "{:14} {:16} {:13} {:>8} {:>8} {:>8} {:>6}"
    _say(row.format("net", "profile", "precision", "smaller", "faster", "drop", "float"))
    for one in figures.variants:
        speed = "-" if one.speed_ratio is None else f"{one.speed_ratio:.2f}"
        size, drop = f"{one.size_ratio:.2f}", f"{one.metric_drop:.4f}"
        names = (one.model, one.profile, one.precision)
        _say(row.format(*names, size, speed, drop, one.float_layers))
    for bar in bars:
        holds = "holds" if bar.holds else "MISSED"
        _say(f"{bar.what:68} {bar.figure:>8}  {bar.bar:8} {holds}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
