"""`wherry token`: what lets a device enrol."""

from __future__ import annotations

from typing import Annotated

import typer

from wherry_controller.cli import show
from wherry_controller.cli.remote import connect
from wherry_controller.cli.replies import Authority, EnrolmentToken, read

app = typer.Typer(no_args_is_help=True, help="What lets a device enrol, once.")


@app.command()
def create(
    device: Annotated[str, typer.Argument(metavar="DEVICE")],
    *,
    profile: Annotated[
        str | None, typer.Option("--profile", "-p", help="Add the device, of this hardware class.")
    ] = None,
    lifetime_s: Annotated[
        float | None, typer.Option("--lifetime-s", help="How long it lasts; an hour by default.")
    ] = None,
    json: show.Json = False,
) -> None:
    """Make a token for one device: it serves one enrolment, and is shown this once."""
    wish = {"device": device, "profile": profile, "lifetime_s": lifetime_s}
    body = connect().post("/tokens", wish)
    if json:
        show.raw(body)
        return
    made = read(EnrolmentToken, body)
    show.line(f"{made.device} may enrol until {show.moment(made.expires_at)}. On the device:")
    show.line(f"wherry-agent enrol --controller {made.controller} --token {made.token}")


@app.command("list")
def list_tokens(*, json: show.Json = False) -> None:
    """List the tokens, the newest first; none shows its secret."""
    body = connect().get("/tokens")
    if json:
        show.raw(body)
        return
    rows = [
        (one.id, one.device, show.moment(one.expires_at), one.state)
        for one in read(tuple[EnrolmentToken, ...], body)
    ]
    show.table(("token", "device", "until", "state"), rows)


@app.command()
def revoke(token: Annotated[str, typer.Argument(metavar="TOKEN")]) -> None:
    """Take a token back, by the name that `wherry token list` shows."""
    connect().delete(f"/tokens/{token}")
    show.line(f"token {token} is revoked.")


@app.command()
def ca(*, json: show.Json = False) -> None:
    """Show the fingerprint of the controller's CA, for enrolling without a token."""
    body = connect().get("/authority")
    if json:
        show.raw(body)
        return
    found = read(Authority, body)
    show.facts(
        [
            ("fingerprint", found.fingerprint),
            ("controller", found.controller),
            (
                "revocations",
                f"list {found.crl_number}, good until {show.moment(found.crl_ends_at)}",
            ),
        ]
    )
