"""What a command prints: the API's own JSON, or a table for people, on stdout and nothing else.

Progress goes to stderr, so that stdout can be piped while a person watches.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.table import Table
from rich.text import Text

Json = Annotated[bool, typer.Option("--json", help="Print the API's JSON and nothing else.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many to list.")]
Cursor = Annotated[str | None, typer.Option("--cursor", help="List what comes after this one.")]


def stderr() -> Console:
    return Console(stderr=True, emoji=False, highlight=False)


def bars(*columns: ProgressColumn) -> Progress:
    """Return bars on stderr; they are drawn for a person only, so not into a file or a pipe."""
    console = stderr()
    return Progress(*columns, console=console, disable=not console.is_terminal)


def raw(body: bytes) -> None:
    """Print a document as it came."""
    sys.stdout.buffer.write(body.rstrip(b"\n") + b"\n")
    sys.stdout.buffer.flush()


def line(text: str) -> None:
    Console(emoji=False, highlight=False, soft_wrap=True).print(
        _harmless(text, keep="\n"), markup=False
    )


def text(body: bytes) -> None:
    """Print a log as it came, without what would steer a terminal."""
    plain = body.decode(errors="replace").rstrip("\n")
    shown = _harmless(plain, keep="\n\t")
    sys.stdout.write(shown + "\n" if shown else "")


Rows = Iterable[Sequence[str]]


def table(columns: Sequence[str], rows: Rows, *, more: str | None = None) -> None:
    """Print a table, and how to list what follows `more`, the next page's cursor."""
    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(_plain(cell) for cell in row))
    Console(emoji=False, highlight=False).print(drawn)
    if more is not None:
        stderr().print(f"there are more: --cursor {more}", markup=False)


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names with their values, one a line however long; leave out what has no value."""
    known = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in known), default=0)
    console = Console(emoji=False, highlight=False, soft_wrap=True)
    for name, value in known:
        console.print(Text.assemble((name.ljust(width), "bold"), "  ", _harmless(value)))


def moment(at: float | None) -> str:
    """Return UNIX seconds as local time, for people."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def share(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def size(value: int) -> str:
    return f"{value / 1e6:.2f} MB"


def short(digest: str | None) -> str:
    return "" if digest is None else digest[:12]


def _plain(text: str) -> str:
    # A cell is data: brackets in it are no markup.
    return _harmless(text, keep="\n").replace("[", r"\[")


def _harmless(text: str, *, keep: str = "") -> str:
    """Return `text` without what steers a terminal: strangers name their own machines."""
    return "".join(c for c in text if c in keep or c.isprintable())
