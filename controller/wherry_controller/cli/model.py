"""`wherry model`, `wherry build`: versions, and making variants of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

from wherry_controller.cli import show
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.cli.remote import Remote, connect
from wherry_controller.cli.replies import Build, Model, Page, Variant, Version, read, reference
from wherry_controller.core.card import files_of, parse_card
from wherry_controller.store.records import BuildStatus

app = typer.Typer(no_args_is_help=True, help="Models and their immutable versions.")

POLL_S = 0.5
CARD = "model.toml"
Reference = Annotated[str, typer.Argument(metavar="MODEL:VERSION")]


@app.command()
def add(
    folder: Annotated[Path, typer.Argument(help=f"Holds {CARD} and the files that it names.")],
    *,
    json: show.Json = False,
) -> None:
    """Register the version that a folder holds."""
    card = folder if folder.is_file() else folder / CARD
    body = connect().upload("/versions", card, _files_beside(card))
    if json:
        show.raw(body)
    else:
        version = read(Version, body)
        show.line(f"{version.model}:{version.name} is registered ({show.short(version.lineage)}).")


@app.command("list")
def list_models(
    *, json: show.Json = False, limit: show.Limit = 100, cursor: show.Cursor = None
) -> None:
    """List the models with their versions."""
    body = connect().get("/models", limit=limit, cursor=cursor)
    if json:
        show.raw(body)
        return
    page = read(Page[Model], body)
    rows = [(model.name, ", ".join(model.versions)) for model in page.items]
    show.table(("model", "versions"), rows, more=page.next_cursor)


@app.command("show")
def show_version(version: Reference, *, json: show.Json = False) -> None:
    """Show a version with its variants."""
    model, name = reference(version)
    body = connect().get(f"/models/{model}/versions/{name}")
    if json:
        show.raw(body)
        return
    found = read(Version, body)
    show.facts(
        [
            ("version", f"{found.model}:{found.name}"),
            ("status", f"{found.status} {found.reason}".strip()),
            ("lineage", found.lineage),
            ("claimed accuracy", show.share(found.claimed_accuracy)),
            ("registered", show.moment(found.created_at)),
        ]
    )
    show_variants(found.variants)


@app.command("builds")
def list_builds(
    model: Annotated[str | None, typer.Argument(help="Only of this model.")] = None,
    *,
    json: show.Json = False,
    limit: show.Limit = 100,
    cursor: show.Cursor = None,
) -> None:
    """List builds, the newest first."""
    body = connect().get("/builds", model=model, limit=limit, cursor=cursor)
    if json:
        show.raw(body)
        return
    page = read(Page[Build], body)
    rows = [
        (
            build.id,
            f"{build.model}:{build.version}",
            ", ".join(build.profiles),
            build.status,
            build.reason,
            show.moment(build.created_at),
        )
        for build in page.items
    ]
    columns = ("build", "version", "profiles", "status", "reason", "ordered")
    show.table(columns, rows, more=page.next_cursor)


def build(
    version: Reference,
    profiles: Annotated[
        list[str], typer.Option("--profile", "-p", help="A profile to build for; repeatable.")
    ],
    *,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")] = False,
    json: show.Json = False,
) -> None:
    """Build a version for profiles, and wait for it; exit status 1 if it is refused or fails."""
    remote = connect()
    model, name = reference(version)
    body = remote.post("/builds", {"model": model, "version": name, "profiles": profiles})
    if not detach:
        body = _follow(remote, body)
    ended = read(Build, body)
    if json:
        show.raw(body)
    elif detach:
        show.line(f"build {ended.id} is queued.")
    else:
        show_variants(ended.variants)
    if ended.is_over and ended.status is not BuildStatus.SUCCEEDED:
        problem = f"build {ended.id} ended as {ended.status} ({ended.reason})"
        raise Ended(Exit.FAILED, f"{problem}: {ended.detail}")


def show_variants(variants: tuple[Variant, ...]) -> None:
    """Print a table that fits 80 columns, and below it what the latencies were measured on."""
    if not variants:
        return
    rows = [
        (
            variant.profile,
            variant.precision,
            show.size(variant.size_bytes),
            f"{show.share(variant.report.accuracy)} / "
            f"{show.share(variant.report.reference_accuracy)}",
            show.milliseconds(variant.latency.p50_ms),
            show.short(variant.bundle),
        )
        for variant in variants
    ]
    show.table(("profile", "precision", "size", "accuracy / fp32", "p50 ms", "bundle"), rows)
    for place in sorted({variant.latency.measured_on for variant in variants}):
        show.line(f"measured on {place}")


def _files_beside(card: Path) -> list[Path]:
    """Return the files that the card names; a missing one is said before anything is sent."""
    try:
        names = files_of(parse_card(card.read_bytes()))
    except OSError as error:
        problem = f"{card} cannot be read ({error.strerror}): give the folder that holds {CARD}."
        raise Ended(Exit.USAGE, problem) from error
    files = [card.parent / name for name in names]
    for file in files:
        if not file.is_file():
            problem = f"{card} names {file.name}, which is not beside it: put it there."
            raise Ended(Exit.USAGE, problem)
    return files


def _follow(remote: Remote, body: bytes) -> bytes:
    """Return the build's last state, drawing how far it is until then."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with show.bars(*columns, TimeElapsedColumn()) as bars:
        bar = bars.add_task("queued", total=None)
        while not (build := read(Build, body)).is_over:
            done, total = build.progress.done, build.progress.total or None
            step = build.progress.step or build.status
            bars.update(bar, description=step, completed=done, total=total)
            time.sleep(POLL_S)
            body = remote.get(f"/builds/{build.id}")
    return body
