"""The `wherry` command: one file a noun; everything but a few goes through the HTTP API.

Commands of other packages are found by the entry point group `wherry.commands`, a Typer app
each, and loaded only when they are called for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata

import typer

from wherry.errors import REFUSALS
from wherry_controller.cli import bundle, device, group, local, model, profile, rollout, session
from wherry_controller.cli.outcome import Ended, Exit, of_refusal

COMMANDS = "wherry.commands"


def make_app(arguments: Sequence[str]) -> typer.Typer:
    """Return the command line that can run `arguments`."""
    app = typer.Typer(
        name="wherry",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Carry trained models to fleets of edge devices.",
        epilog=(
            "Exit status: 0 done, 1 what was asked for failed, 2 not understood, 3 not there, "
            "4 refused, 5 not available now."
        ),
    )
    for command in (local.init, local.serve, session.login, model.build):
        app.command()(command)
    for noun in (model, profile, bundle, device, group, rollout):
        app.add_typer(noun.app, name=noun.__name__.rpartition(".")[2])
    _add_commands_of_others(app, arguments)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command, the process's own by default; it ends with a status of `outcome`."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        make_app(given)(given, prog_name="wherry")
    except Ended as ended:
        _end(ended.sentence, ended.code)
    except REFUSALS as error:
        _end(str(error), of_refusal(error))


def _add_commands_of_others(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Add what other packages register; they may be heavy, so only for help and for their own.

    In the help a command whose packages are not installed is left out.
    """
    for found in metadata.entry_points(group=COMMANDS):
        is_help = not arguments or arguments[0] == "--help"
        if not is_help and arguments[0] != found.name:
            continue
        try:
            app.add_typer(found.load(), name=found.name)
        except ModuleNotFoundError as error:
            if not is_help:
                problem = f"`wherry {found.name}` needs {error.name}, which is not installed"
                step = "install wherry-controller with its extras"
                raise Ended(Exit.UNAVAILABLE, f"{problem}: {step}.") from error


def _end(sentence: str, code: int) -> None:
    sys.stderr.write(f"wherry: {' '.join(sentence.split())}\n")
    raise SystemExit(code)
