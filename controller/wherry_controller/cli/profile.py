"""`wherry profile`: the hardware classes that bundles are built for."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from wherry import codec
from wherry import profile as shared
from wherry.names import ProfileName
from wherry_controller import profiles
from wherry_controller.cli import show
from wherry_controller.cli.checking import Wish, ask_builder
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.cli.remote import connect
from wherry_controller.cli.replies import Fact, Page, Profile, read
from wherry_controller.core.profiles import Checked, differing, fitting
from wherry_controller.core.written import parse_profile
from wherry_controller.settings import read_settings

app = typer.Typer(no_args_is_help=True, help="Hardware classes that bundles are built for.")

DETECTED = "  (detected)"
RUNTIMES = "runtimes"


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """What `check` found; `fits` is for a profile that was read off a device."""

    profile: ProfileName
    fits: tuple[ProfileName, ...]
    changed: tuple[str, ...]
    places: tuple[Checked, ...]
    is_ready: bool


@app.command()
def add(
    file: Annotated[
        Path, typer.Argument(help="A profile in TOML, or the name of one that comes along.")
    ],
    *,
    json: show.Json = False,
) -> None:
    """Declare a profile, or replace it."""
    toml = _toml_of(file)
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
    """Show every fact of a profile, and which of them were detected on a device."""
    body = connect().get(f"/profiles/{profile}")
    if json:
        show.raw(body)
        return
    facts = read(dict[str, Fact | list[Fact]], body)
    detected = facts.pop("detected", None)
    known = detected if isinstance(detected, list) else []
    show.facts(
        (name, _text(value) + DETECTED if name in known else _text(value))
        for name, value in facts.items()
    )


@app.command()
def check(
    profile: Annotated[str, typer.Argument(help="A profile in TOML, or the name of a known one.")],
    *,
    install: Annotated[
        bool, typer.Option("--install", help="Make the runtimes that can be made.")
    ] = False,
    folder: Annotated[
        Path, typer.Option(help="The controller's folder, where runtimes are kept.")
    ] = Path("wherry-controller"),
    json: show.Json = False,
) -> None:
    """Say whether a controller on this machine can build for a profile."""
    one = _profile_of(profile)
    runtimes = Path(read_settings(folder, os.environ).folder) / RUNTIMES
    places = ask_builder(one, runtimes, Wish.INSTALL if install else Wish.LOOK)
    if json:
        looked = _looked(one, tuple(places))
        show.raw(codec.encode(looked))
    else:
        _show_likeness(one)
        looked = _looked(one, _shown(places))
    if not looked.is_ready:
        sentence = f"a build for {one.name} is not ready here: mend what is missing above."
        raise Ended(Exit.FAILED, sentence)


def read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        problem = f"{file} cannot be read ({error.strerror}): give the path of a file."
        raise Ended(Exit.USAGE, problem) from error


def _toml_of(file: Path) -> bytes:
    """Return the file's bytes, or those of the profile that comes along under this name."""
    is_shipped = not file.exists() and str(file) in profiles.names()
    return profiles.toml_of(str(file)) if is_shipped else read_file(file)


def _profile_of(given: str) -> shared.Profile:
    """Return the profile in the file of this name, or the one that the controller knows by it."""
    if Path(given).is_file():
        return parse_profile(read_file(Path(given)))
    return codec.decode(shared.Profile, connect().get(f"/profiles/{given}"))


def _looked(one: shared.Profile, places: tuple[Checked, ...]) -> Looked:
    return Looked(
        profile=one.name,
        fits=_fits(one),
        changed=_changed(one),
        places=places,
        is_ready=not any(place.problem for place in places),
    )


def _fits(one: shared.Profile) -> tuple[ProfileName, ...]:
    return fitting(one, profiles.shipped()) if one.detected else ()


def _changed(one: shared.Profile) -> tuple[str, ...]:
    namesakes = [other for other in profiles.shipped() if other.name == one.name]
    return differing(one, namesakes[0]) if namesakes else ()


def _show_likeness(one: shared.Profile) -> None:
    if _fits(one):
        show.line(f"{one.name} fits {', '.join(_fits(one))}, which come along")
    if _changed(one):
        show.line(f"{one.name} is not as it comes along in {', '.join(_changed(one))}")


def _shown(places: Iterable[Checked]) -> tuple[Checked, ...]:
    """Show each place as soon as it is known."""
    known: list[Checked] = []
    for place in places:
        known.append(place)
        show.line(f"{place.use.value:<10} {place.place:<36} {place.problem or 'ready'}")
    return tuple(known)


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
