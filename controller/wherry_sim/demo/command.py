"""`wherry demo`: the main job, end to end, on this machine, in about four minutes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from wherry.errors import REFUSALS
from wherry_controller.cli.outcome import Ended
from wherry_sim.demo.report import Report, judge
from wherry_sim.demo.story import Story

PAPER_WIDTH = 110  # Of a log or a pipe, where no terminal says its own.

app = typer.Typer(help="Play the main job end to end on this machine.")


@app.callback(invoke_without_command=True)
def demo(
    output: Annotated[Path, typer.Option(help="Where report.json and every log go.")] = Path(
        "build/demo"
    ),
) -> None:
    """Train, build, roll out, break and heal: a true story with a checked report."""
    console = Console() if sys.stdout.isatty() else Console(width=PAPER_WIDTH)
    output.mkdir(parents=True, exist_ok=True)
    try:
        report = judge(Story(output.resolve() / "run", console).tell())
    except (*REFUSALS, Ended) as error:
        console.print(f"[red]the demo broke off[/]: {error}")
        raise typer.Exit(1) from error
    path = output / "report.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    _show(report, console)
    console.print(f"\n{path} has it all; it took {report.seconds:.0f} s.")
    raise typer.Exit(0 if report.ok else 1)


def _show(report: Report, console: Console) -> None:
    table = Table(title="what the demo claims, checked")
    for column in ("", "claim", "seen"):
        table.add_column(column)
    for claim in report.claims:
        table.add_row("[green]ok[/]" if claim.holds else "[red]NO[/]", claim.claim, claim.seen)
    console.print(table)
