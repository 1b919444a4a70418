"""`wherry profile`: the hardware classes that bundles are built for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wherry_controller.cli import show
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.cli.remote import connect
from wherry_controller.cli.replies import Fact, Page, Profile, read
from wherry_controller.core.written import parse_profile

app = typer.Typer(no_args_is_help=True, help="Hardware classes that bundles are built for.")


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="A profile in TOML.")], *, json: show.Json = False
) -> None:
    """Declare a profile, or replace it."""
    toml = read_file(file)
    body = connect().put_toml(f"/profiles/{parse_profile(toml).name}", toml)
    if json:
        show.raw(body)
    else:
        show.line(f"profile {read(Profile, body).name} is declared.")


@app.command("list")
def list_profiles(
    *, json: show.Json = False, limit: show.Limit = 100, cursor: show.Cursor = None
) -> None:
    """List the profiles."""
    body = connect().get("/profiles", limit=limit, cursor=cursor)
    if json:
        show.raw(body)
        return
    page = read(Page[Profile], body)
    rows = [
        (one.name, one.arch, one.runtime, ", ".join(one.precisions), str(one.threads))
        for one in page.items
    ]
    columns = ("profile", "arch", "runtime", "precisions", "threads")
    show.table(columns, rows, more=page.next_cursor)


@app.command("show")
def show_profile(profile: str, *, json: show.Json = False) -> None:
    """Show every fact of a profile."""
    body = connect().get(f"/profiles/{profile}")
    if json:
        show.raw(body)
        return
    facts = read(dict[str, Fact | list[Fact]], body)
    show.facts((name, _text(value)) for name, value in facts.items())


def read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        problem = f"{file} cannot be read ({error.strerror}): give the path of a file."
        raise Ended(Exit.USAGE, problem) from error


def _text(value: Fact | list[Fact]) -> str:
    match value:
        case list():
            return ", ".join(map(str, value))
        case bool():
            return "yes" if value else "no"
        case None:
            return ""
        case _:
            return str(value)
