"""`wherry build`: versions made into variants, followed to their ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated

import msgspec
import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from wherry_controller.cli import show
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.cli.remote import Remote, connect
from wherry_controller.cli.replies import Build, Page, Variant, read, reference
from wherry_controller.store.records import BuildStatus

POLL_S = 0.5
ASKED_AT_ONCE = 4  # Builds run in the order they were queued in, so later ones stand still.
Reference = Annotated[str, typer.Argument(metavar="MODEL:VERSION")]


def build(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL:VERSION... | --all [MODEL...]",
            help="The versions to build; with --all the models, and all if none is named.",
            show_default=False,
        ),
    ] = None,
    profiles: Annotated[
        list[str] | None,
        typer.Option(
            "--profile",
            "-p",
            help="A profile to build for; repeatable. All that are declared if none is named.",
        ),
    ] = None,
    *,
    measure_on: Annotated[
        str | None,
        typer.Option(
            "--measure-on",
            metavar="GROUP|DEVICE",
            help="Idle devices of each profile there measure the candidates, which then judge.",
            show_default=False,
        ),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Build each model's newest version that no build refused."),
    ] = False,
    every_version: Annotated[
        bool, typer.Option("--every-version", help="With --all: every such version of a model.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    json: show.Json = False,
) -> None:
    """Build versions for profiles, and wait; exit status 1 if one is refused or fails.

    Ctrl-C ends the waiting only: `wherry model cancel` ends a build.
    """
    if every_version and not everything:
        raise Ended(Exit.USAGE, "--every-version has no meaning by itself: add --all.")
    remote = connect()
    if everything:
        scope = "every" if every_version else "newest"
        bodies = _order_all(remote, names or [], profiles or [], scope, measure_on)
    else:
        bodies = _order(remote, names or [], profiles or [], measure_on)
    if not detach:
        bodies = follow(remote, bodies)
    builds = [read(Build, body) for body in bodies]
    if json:
        is_list = everything or len(bodies) > 1
        show.raw(b'{"items":[' + b",".join(bodies) + b"]}" if is_list else bodies[0])
    elif detach:
        for one in builds:
            show.line(f"build {one.id} of {one.model}:{one.version} is queued.")
    else:
        _show(builds)
    _judge(builds)


def follow(
    remote: Remote, bodies: Sequence[bytes], pause: Callable[[float], None] = time.sleep
) -> list[bytes]:
    """Return the builds' last states, drawing how far they are until then."""
    latest = {read(Build, body).id: body for body in bodies}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with show.bars(*columns, TimeElapsedColumn()) as bars:
        drawn = {build: bars.add_task("queued", total=None) for build in latest}
        waiting = _draw(bars, drawn, latest)
        try:
            while waiting:
                pause(POLL_S)
                for one in waiting[:ASKED_AT_ONCE]:
                    latest[one] = remote.get(f"/builds/{one}")
                waiting = _draw(bars, drawn, latest)
        except KeyboardInterrupt as interrupt:
            raise _detached(waiting) from interrupt
    return list(latest.values())


def show_variants(variants: Sequence[Variant]) -> None:
    """Print a table that fits 80 columns, and below it what the latencies were measured on."""
    if not variants:
        return
    metrics = {variant.report.metric for variant in variants}
    metric = metrics.pop() if len(metrics) == 1 else "metric"
    columns = ("profile", "precision", "size", f"{metric} / fp32", "p50 ms", "bundle")
    show.table(columns, [_variant_row(variant) for variant in variants])
    for place in sorted({one.latency.measured_on for one in variants if one.latency}):
        show.line(f"measured on {place}")


def _order(
    remote: Remote, names: Sequence[str], profiles: Sequence[str], measure_on: str | None
) -> list[bytes]:
    """Order a build of each version that is named; all names are read before the first order.

    Where one is refused, the end says that those before it go on.
    """
    if not names:
        raise Ended(Exit.USAGE, "no version is named: write MODEL:VERSION, or --all.")
    wanted = [reference(name) for name in names]
    what = {"profiles": profiles, "measure_on": measure_on}
    bodies: list[bytes] = []
    for model, version in wanted:
        order = {"model": model, "version": version, **what}
        try:
            bodies.append(remote.post("/builds", order))
        except Ended as ended:
            raise _after(bodies, ended) from ended
    return bodies


def _order_all(
    remote: Remote,
    models: Sequence[str],
    profiles: Sequence[str],
    scope: str,
    measure_on: str | None,
) -> list[bytes]:
    order = {"models": models, "profiles": profiles, "scope": scope, "measure_on": measure_on}
    body = remote.post("/builds/batch", order)
    return [bytes(item) for item in read(Page[msgspec.Raw], body).items]


def _draw(bars: Progress, drawn: Mapping[str, TaskID], latest: Mapping[str, bytes]) -> list[str]:
    """Draw how far each build is; return those that are not over, in their order."""
    builds = [read(Build, body) for body in latest.values()]
    for one in builds:
        done, total = one.progress.done, one.progress.total or None
        if one.is_over:
            done, total = 1, 1
        bars.update(drawn[one.id], description=_described(one), completed=done, total=total)
    return [one.id for one in builds if not one.is_over]


def _described(build: Build) -> str:
    """Return what a build is at, each of its profiles if they are at different steps."""
    steps = {profile: one.step for profile, one in build.progress.profiles.items()}
    at = build.progress.step or build.status.value
    if len(steps) > 1:
        at = ", ".join(f"{profile} {step}" for profile, step in steps.items())
    if build.is_over:
        at = build.status.value
    return escape(f"{build.model}:{build.version} {at}")


def _show(builds: Sequence[Build]) -> None:
    if len(builds) == 1:
        show_variants(builds[0].variants)
    else:
        _show_outcomes(builds)
    for one in builds:
        if one.status is BuildStatus.SUCCEEDED and one.detail:
            show.line(one.detail)


def _show_outcomes(builds: Sequence[Build]) -> None:
    columns = ("version", "profile", "outcome", "size", "metric / fp32", "p50 ms", "bundle")
    show.table(columns, [row for one in builds for row in _rows(one)])


def _rows(build: Build) -> Iterator[tuple[str, ...]]:
    """Return a row for each profile of a build: its variant, or how the build ended without."""
    variants = {variant.profile: variant for variant in build.variants}
    for profile in build.profiles:
        variant = variants.get(profile)
        cells = _variant_row(variant)[1:] if variant else (build.status.value, "", "", "", "")
        yield (f"{build.model}:{build.version}", profile, *cells)


def _judge(builds: Sequence[Build]) -> None:
    """End as a failed outcome where a build that is over did not succeed."""
    bad = [one for one in builds if one.is_over and one.status is not BuildStatus.SUCCEEDED]
    if not bad:
        return
    sentences = [
        f"build {one.id} of {one.model}:{one.version} ended as {one.status} "
        f"({one.reason}): {one.detail}"
        for one in bad
    ]
    raise Ended(Exit.FAILED, " ".join(sentences))


def _detached(builds: Sequence[str]) -> Ended:
    which = ", ".join(builds)
    return Ended(
        Exit.UNAVAILABLE,
        f"nobody waits any more for {which}, which go on: see `wherry model builds`, "
        "or end one with `wherry model cancel`.",
    )


def _after(ordered: Sequence[bytes], ended: Ended) -> Ended:
    """Return the end of a command that has ordered some builds before."""
    if not ordered:
        return ended
    which = ", ".join(read(Build, body).id for body in ordered)
    going = f"Ordered before it and going on: {which}, see `wherry model builds`."
    return Ended(ended.code, f"{ended.sentence} {going}")


def _variant_row(variant: Variant) -> tuple[str, ...]:
    return (
        variant.profile,
        variant.precision,
        show.size(variant.size_bytes),
        f"{show.share(variant.report.value)} / {show.share(variant.report.reference_value)}",
        show.milliseconds(variant.latency.p50_ms if variant.latency else None),
        show.short(variant.bundle),
    )
