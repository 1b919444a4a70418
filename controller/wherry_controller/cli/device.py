"""`wherry device`: the machines that run the agent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wherry.files import make_folder, write_whole
from wherry.messages import Event
from wherry_controller.cli import show
from wherry_controller.cli.remote import connect
from wherry_controller.cli.replies import Device, Enrolment, Happened, Page, Registered, read

app = typer.Typer(no_args_is_help=True, help="Machines that run the agent.")

DIRECTOR, BUNDLES = "director.pub.pem", "bundles.pub.pem"
Id = Annotated[str, typer.Argument(metavar="DEVICE")]


@app.command()
def add(
    device: Id,
    *,
    profile: Annotated[str, typer.Option("--profile", "-p", help="Its hardware class.")],
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="Repeatable.")
    ] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="Write the trusted public keys into this folder.")
    ] = None,
    json: show.Json = False,
) -> None:
    """Add a device, and say what `wherry-agent enrol` needs on it."""
    pairs = dict(tag.partition("=")[::2] for tag in tags or [])
    body = connect().post("/devices", {"id": device, "profile": profile, "tags": pairs})
    enrolment = read(Registered, body).enrolment
    if keys is not None:
        _write_keys(enrolment, keys)
    if json:
        show.raw(body)
        return
    show.line(f"device {enrolment.id} is added.")
    if keys is not None:
        _say_how(enrolment, keys)
    else:
        show.line(f"Next, what it is enrolled with: wherry device enrolment {device} --keys FOLDER")


@app.command()
def enrolment(
    device: Id,
    keys: Annotated[
        Path, typer.Option("--keys", help="Write the trusted public keys into this folder.")
    ],
    *,
    json: show.Json = False,
) -> None:
    """Say again what `wherry-agent enrol` needs on a device, and write its keys."""
    body = connect().get(f"/devices/{device}/enrolment")
    found = read(Enrolment, body)
    _write_keys(found, keys)
    if json:
        show.raw(body)
    else:
        _say_how(found, keys)


@app.command("list")
def list_devices(
    *, json: show.Json = False, limit: show.Limit = 100, cursor: show.Cursor = None
) -> None:
    """List the devices with what they serve."""
    body = connect().get("/devices", limit=limit, cursor=cursor)
    if json:
        show.raw(body)
        return
    page = read(Page[Device], body)
    rows = [
        (one.id, one.profile, _presence(one), show.moment(one.last_seen_at), _serving(one))
        for one in page.items
    ]
    columns = ("device", "profile", "presence", "last seen", "serves")
    show.table(columns, rows, more=page.next_cursor)


@app.command("show")
def show_device(device: Id, *, json: show.Json = False) -> None:
    """Show a device with its deployments."""
    body = connect().get(f"/devices/{device}")
    if json:
        show.raw(body)
        return
    found = read(Device, body)
    show.facts(
        [
            ("device", found.id),
            ("profile", found.profile),
            ("presence", _presence(found)),
            ("last seen", show.moment(found.last_seen_at)),
            ("serves", _serving(found)),
            *((found.reported.versions if found.reported else {}).items()),
        ]
    )
    rows = [
        (one.id, one.alias, show.short(one.bundle), one.status, one.reason or "")
        for one in found.deployments
    ]
    show.table(("deployment", "alias", "bundle", "status", "reason"), rows)


@app.command()
def events(device: Id, *, json: show.Json = False) -> None:
    """List what lately happened on a device, the newest first."""
    body = connect().get(f"/devices/{device}/events")
    if json:
        show.raw(body)
        return
    rows = [
        (
            show.moment(one.received_at),
            one.event.kind.value,
            one.event.alias or "",
            _told(one.event),
        )
        for one in read(tuple[Happened, ...], body)
    ]
    show.table(("received", "kind", "alias", "what"), rows)


@app.command()
def remove(device: Id) -> None:
    """Remove a device and everything that is known of it."""
    connect().delete(f"/devices/{device}")
    show.line(f"device {device} is removed.")


def _presence(device: Device) -> str:
    return "online" if device.online else "offline"


def _told(event: Event) -> str:
    """Say in a line what an event tells."""
    deployment, flip = event.deployment, event.flip
    if flip is not None:
        return f"{show.short(flip.bundle)} answers, {flip.in_flight} were in flight"
    if deployment is None:
        return f"{event.reason.value if event.reason else ''}: {event.detail}"
    facts = (deployment.status, deployment.phase, deployment.reason)
    words = [fact.value for fact in facts if fact]
    return f"{deployment.deployment} {' '.join(words)} {deployment.detail}".rstrip()


def _serving(device: Device) -> str:
    slots = device.reported.slots if device.reported else {}
    return ", ".join(f"{alias}={show.short(slot.active)}" for alias, slot in slots.items())


def _write_keys(enrolment: Enrolment, folder: Path) -> None:
    make_folder(folder)
    write_whole(folder / DIRECTOR, enrolment.director_pem.encode())
    write_whole(folder / BUNDLES, enrolment.bundles_pem.encode())


def _say_how(enrolment: Enrolment, keys: Path) -> None:
    show.line(f"Copy {keys} to it, and run there:")
    show.line(
        f"wherry-agent enrol --id {enrolment.id} --profile {enrolment.profile} "
        f"--broker {enrolment.broker} "
        f"--director-key {keys / DIRECTOR} --bundles-key {keys / BUNDLES}"
    )
