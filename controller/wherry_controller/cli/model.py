"""`wherry model`: versions, what was built of them, and their builds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wherry_controller.cli import show
from wherry_controller.cli.add import add
from wherry_controller.cli.building import Reference, show_variants
from wherry_controller.cli.remote import connect
from wherry_controller.cli.replies import Build, Model, Page, Version, read, reference
from wherry_controller.core.report import (
    BRIEF,
    ProfilePart,
    VersionReport,
    brief_of,
    mark_of,
)

app = typer.Typer(no_args_is_help=True, help="Models and their immutable versions.")

app.command()(add)
BuildId = Annotated[str, typer.Argument(metavar="BUILD")]


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
            (f"claimed {found.card.task.metric}", show.share(found.card.task.claimed)),
            ("reference", found.reference or ""),
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


@app.command()
def cancel(build: BuildId, *, json: show.Json = False) -> None:
    """End a build, or let it never begin; what it built so far stands."""
    body = connect().post(f"/builds/{build}/cancel")
    if json:
        show.raw(body)
    else:
        show.line(f"build {read(Build, body).id} is canceled.")


@app.command()
def log(
    build: BuildId,
    *,
    profile: Annotated[
        str | None,
        typer.Option("--profile", "-p", help="Of this profile; else what all of them share."),
    ] = None,
) -> None:
    """Print the end of a build's log."""
    path = f"/builds/{build}/log" if profile is None else f"/builds/{build}/logs/{profile}"
    show.text(connect().get(path))


@app.command()
def report(
    version: Reference,
    *,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write it as a page into this file instead.")
    ] = None,
    json: show.Json = False,
) -> None:
    """Show all that was tried of a version for each profile, what was chosen and why."""
    model, name = reference(version)
    path = f"/models/{model}/versions/{name}/report"
    if html is not None:
        html.write_bytes(connect().get(f"{path}.html"))
        show.line(f"{html} is written.")
        return
    body = connect().get(path)
    if json:
        show.raw(body)
        return
    for part in read(VersionReport, body).profiles:
        _show_part(part)


def _show_part(part: ProfilePart) -> None:
    tried = part.report
    show.line(f"{tried.profile} ({tried.runtime}, {tried.metric})")
    rows = [(one.name, *brief_of(one), mark_of(one, tried)) for one in tried.candidates]
    show.table(("candidate", *BRIEF, "verdict"), rows)
    for one in tried.candidates:
        if one.fault is not None:
            show.line(f"{one.name}: {one.problem}")
    show.line(f"chosen: {tried.chosen or 'none'}. {tried.why}")
    for place in sorted({one.latency.measured_on for one in tried.candidates if one.latency}):
        show.line(f"timed on {place}")
    show.line("")
