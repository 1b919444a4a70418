"""`wherry device`: the machines that run the agent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from wherry.messages import Event
from wherry_controller.cli import show, telemetry
from wherry_controller.cli.remote import connect
from wherry_controller.cli.replies import (
    Certificate,
    Device,
    Happened,
    Health,
    Page,
    PendingKey,
    Receipt,
    Revoked,
    read,
)

app = typer.Typer(no_args_is_help=True, help="Machines that run the agent.")
app.command("telemetry")(telemetry.show_telemetry)
app.command("drift")(telemetry.show_drift)

Id = Annotated[str, typer.Argument(metavar="DEVICE")]
Fingerprint = Annotated[
    str, typer.Argument(metavar="FINGERPRINT", help="All of it, or at least 16 digits.")
]


@app.command()
def add(
    device: Id,
    *,
    profile: Annotated[str, typer.Option("--profile", "-p", help="Its hardware class.")],
    tags: Annotated[
        list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="Repeatable.")
    ] = None,
    json: show.Json = False,
) -> None:
    """Add a device; a token lets it enrol."""
    pairs = dict(tag.partition("=")[::2] for tag in tags or [])
    body = connect().post("/devices", {"id": device, "profile": profile, "tags": pairs})
    if json:
        show.raw(body)
        return
    show.line(f"device {read(Device, body).id} is added.")
    show.line(f"Next, on this machine: wherry token create {device}")


@app.command("list")
def list_devices(
    *, json: show.Json = False, limit: show.Limit = 100, cursor: show.Cursor = None
) -> None:
    """List the devices with what they serve."""
    remote = connect()
    body = remote.get("/devices", limit=limit, cursor=cursor)
    if json:
        show.raw(body)
        return
    for warning in read(Health, remote.get("/health")).warnings:
        show.stderr().print(f"warning: {warning}", markup=False)
    page = read(Page[Device], body)
    rows = [
        (
            one.id,
            one.profile,
            one.agent,
            _presence(one),
            show.moment(one.last_seen_at),
            _serving(one),
        )
        for one in page.items
    ]
    columns = ("device", "profile", "agent", "presence", "last seen", "serves")
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
            ("order", _order(found)),
            ("trust", _trust(found)),
            ("certificate", _certificate(found)),
            ("degraded", ", ".join(found.reported.degraded) if found.reported else ""),
            ("flagged", _flagged(found)),
            *((found.reported.versions if found.reported else {}).items()),
        ]
    )
    rows = [
        (one.id, one.alias, show.short(one.bundle), one.status, one.reason or "")
        for one in found.deployments
    ]
    show.table(("deployment", "alias", "bundle", "status", "reason"), rows)
    if found.receipts:
        show.line("")
        _show_receipts(found.receipts)


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


@app.command()
def pending(*, json: show.Json = False) -> None:
    """List the keys that wait to become devices, with what they say of themselves."""
    body = connect().get("/pending")
    if json:
        show.raw(body)
        return
    keys = read(tuple[PendingKey, ...], body)
    for one in keys:
        show.facts(_facts_of(one))
        show.line("")
    if keys:
        show.line("Compare the fingerprint with what the device shows, then:")
        show.line("wherry device approve FINGERPRINT --device DEVICE --profile PROFILE")
    else:
        show.line("no key waits.")


@app.command()
def approve(
    fingerprint: Fingerprint,
    *,
    device: Annotated[str, typer.Option("--device", "-d", help="What it is to be called.")],
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="Add the device, of this hardware class.")
    ] = None,
    json: show.Json = False,
) -> None:
    """Let a key that waits become a device: compare its fingerprint with the device's own first."""
    wish = {"device": device, "profile": profile}
    body = connect().post(f"/pending/{fingerprint}/approval", wish)
    if json:
        show.raw(body)
    else:
        show.line(f"{device} is approved: it enrols when it asks next.")


@app.command()
def reject(fingerprint: Fingerprint, *, json: show.Json = False) -> None:
    """Let a key that waits become no device."""
    body = connect().delete(f"/pending/{fingerprint}")
    if json:
        show.raw(body)
    else:
        show.line(f"the key {show.short(read(PendingKey, body).fingerprint)} is rejected.")


@app.command()
def revoke(device: Id, *, json: show.Json = False) -> None:
    """Revoke a device's identity: it is cut off until it is enrolled again."""
    body = connect().post(f"/devices/{device}/revocation")
    if json:
        show.raw(body)
        return
    count = read(Revoked, body).certificates
    show.line(f"{device} is revoked ({count} certificate{'' if count == 1 else 's'}).")
    show.line(f"To let it back in: wherry token create {device}")


@app.command()
def certificates(device: Id, *, json: show.Json = False) -> None:
    """List the certificates that a device was issued, the newest first."""
    body = connect().get(f"/devices/{device}/certificates")
    if json:
        show.raw(body)
        return
    rows = [
        (
            one.serial[:16],
            str(one.epoch),
            show.moment(one.not_before),
            show.moment(one.not_after),
            show.moment(one.revoked_at),
        )
        for one in read(tuple[Certificate, ...], body)
    ]
    show.table(("serial", "epoch", "from", "until", "revoked"), rows)


def _show_receipts(receipts: Sequence[Receipt]) -> None:
    rows = [
        (
            one.deployment,
            show.moment(one.at),
            str(one.requests),
            f"{show.milliseconds(one.p50_ms)} / {show.milliseconds(one.p99_ms)}",
            show.size(one.memory_bytes),
            f"{one.runtime} {one.runtime_version}",
        )
        for one in receipts
    ]
    columns = ("attested", "at", "requests", "p50 / p99 ms", "memory", "runtime")
    show.table(columns, rows)


def _presence(device: Device) -> str:
    return "online" if device.online else "offline"


def _order(device: Device) -> str:
    """Say which order the device was given last, and how far it has followed."""
    if device.order_ends_at is None:
        return ""
    said = device.reported
    followed = f", it follows {said.generation}" if said is not None else ""
    return f"generation {device.generation} to {show.moment(device.order_ends_at)}{followed}"


def _trust(device: Device) -> str:
    """Say how far the device's trust has come, in the versions of what it has accepted."""
    trust = device.reported.trust if device.reported else None
    if trust is None:
        return ""
    return (
        f"epoch {trust.epoch}, root {trust.root}, timestamp {trust.timestamp}, "
        f"snapshot {trust.snapshot}, targets {trust.targets}"
    )


def _certificate(device: Device) -> str:
    if device.revoked_at is not None:
        again = f"`wherry token create {device.id}` lets it back in"
        return f"revoked {show.moment(device.revoked_at)}: {again}"
    if device.certificate_ends_at is None:
        return f"none yet: `wherry token create {device.id}` lets it enrol"
    return f"until {show.moment(device.certificate_ends_at)}"


def _flagged(device: Device) -> str:
    if device.flagged is None:
        return ""
    return f"{device.flagged}: revoke it with `wherry device revoke {device.id}` and enrol it again"


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


def _facts_of(key: PendingKey) -> list[tuple[str, str]]:
    facts = key.facts
    return [
        ("fingerprint", key.fingerprint),
        ("asks as", f"{key.device or ''} {key.profile or ''}".strip()),
        ("from", key.address),
        ("since", show.moment(key.asked_at)),
        ("last asked", show.moment(key.seen_at)),
        ("machine", f"{facts.model} {facts.arch}".strip() if facts else ""),
        ("memory", show.size(facts.memory_bytes) if facts and facts.memory_bytes else ""),
    ]
