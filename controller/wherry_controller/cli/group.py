"""`wherry group`: named sets of devices."""

from __future__ import annotations

from typing import Annotated

import typer

from wherry_controller.cli import show
from wherry_controller.cli.remote import connect
from wherry_controller.cli.replies import Group, Page, read

app = typer.Typer(no_args_is_help=True, help="Named sets of devices.")


@app.command("set")
def set_group(
    group: str,
    devices: Annotated[list[str], typer.Argument(metavar="DEVICE...")],
    *,
    json: show.Json = False,
) -> None:
    """Make a group hold exactly these devices."""
    body = connect().put(f"/groups/{group}", {"devices": devices})
    if json:
        show.raw(body)
    else:
        size = len(read(Group, body).devices)
        show.line(f"group {group} holds {size} device{'' if size == 1 else 's'}.")


@app.command("list")
def list_groups(
    *, json: show.Json = False, limit: show.Limit = 100, cursor: show.Cursor = None
) -> None:
    """List the groups with their devices."""
    body = connect().get("/groups", limit=limit, cursor=cursor)
    if json:
        show.raw(body)
        return
    page = read(Page[Group], body)
    rows = [(one.name, str(len(one.devices)), ", ".join(one.devices)) for one in page.items]
    show.table(("group", "size", "devices"), rows, more=page.next_cursor)
