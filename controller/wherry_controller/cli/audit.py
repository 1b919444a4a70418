"""`wherry audit`: what was signed, enrolled, approved, revoked and refused, and by which chain.

`verify` believes nothing that the controller says of its log: it downloads every entry and hashes
it here. Note the head that it prints, on paper or elsewhere; with `--head` it then tells, too,
whether entries at the end were cut off.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from wherry import codec
from wherry.names import parse_digest
from wherry_controller.cli import show
from wherry_controller.cli.remote import connect
from wherry_controller.cli.replies import Entries, read
from wherry_controller.core import audit as core
from wherry_controller.core.audit import Entry, Kind

app = typer.Typer(no_args_is_help=True, help="The log of what was signed, let in and refused.")

PAGE = 1000


@app.command("list")
def list_entries(
    *,
    kind: Annotated[Kind | None, typer.Option(help="Only entries of this kind.")] = None,
    limit: show.Limit = 100,
    json: show.Json = False,
) -> None:
    """List the newest entries, the newest first."""
    body = connect().get("/audit/newest", limit=limit, kind=kind)
    if json:
        show.raw(body)
        return
    entries = [codec.decode(Entry, text.encode()) for text in read(Entries, body).entries]
    rows = [(str(one.seq), show.moment(one.at), one.kind, _told(one.facts)) for one in entries]
    show.table(("entry", "at", "kind", "what"), rows)


@app.command()
def verify(
    *,
    head: Annotated[
        str | None, typer.Option(help="The head that an earlier verify printed.")
    ] = None,
) -> None:
    """Check the whole log, entry by entry, and print its head."""
    noted = None if head is None else parse_digest(head)
    count, last = core.verify(_every_entry(), head=noted)
    if noted is not None:
        show.line("The noted head is in the log: nothing before it was changed or left out.")
    show.line(f"{count} entries follow from one another. The head, to be noted elsewhere:")
    show.line(last)


def _every_entry() -> Iterator[str]:
    remote, seen = connect(), 0
    while True:
        page = read(Entries, remote.get("/audit", after=seen, limit=PAGE)).entries
        yield from page
        seen += len(page)
        if len(page) < PAGE:
            return


def _told(facts: dict[str, str]) -> str:
    return ", ".join(f"{name}: {fact}" for name, fact in facts.items())
