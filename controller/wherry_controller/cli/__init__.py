"""The `wherry` command: one file a noun; everything but a few goes through the HTTP API.

Commands of other packages are found by the entry point group `wherry.commands`, a Typer app
each, and loaded only when they are called.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata

import typer

from wherry.errors import REFUSALS
from wherry_controller.cli import (
    audit,
    broker,
    bundle,
    device,
    group,
    keys,
    local,
    model,
    profile,
    rollout,
    session,
    token,
)
from wherry_controller.cli.building import build
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
    for command in (local.init, local.serve, session.login, build):
        app.command()(command)
    for noun in (model, profile, bundle, broker, device, token, group, rollout, keys, audit):
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
    except OSError as error:
        _end(f"{error}: check the path and its rights.", Exit.USAGE)


def _add_commands_of_others(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Add the commands that other packages register; only the one that is called is loaded."""
    for found in metadata.entry_points(group=COMMANDS):
        if arguments[:1] == [found.name]:
            _add(app, found.name, _load(found))
        else:
            text = f"Comes with {found.module.partition('.')[0]}: `wherry {found.name} --help`."
            app.command(found.name, help=text)(_named_in_help_only)


def _add(app: typer.Typer, name: str, other: typer.Typer) -> None:
    """Add another's app under a name; one with a single command is that command."""
    commands = other.registered_commands
    is_single = len(commands) == 1 and not other.registered_groups
    if is_single and other.registered_callback is None and commands[0].callback is not None:
        app.command(name)(commands[0].callback)
    else:
        app.add_typer(other, name=name)


def _load(found: metadata.EntryPoint) -> typer.Typer:
    try:
        app = found.load()
    except ModuleNotFoundError as error:
        problem = f"`wherry {found.name}` needs {error.name}, which is not installed"
        step = "install wherry-controller with its extras"
        raise Ended(Exit.UNAVAILABLE, f"{problem}: {step}.") from error
    assert isinstance(app, typer.Typer)
    return app


def _named_in_help_only() -> None:
    """Stand for a command that another call loads."""


def _end(sentence: str, code: int) -> None:
    sys.stderr.write(f"wherry: {' '.join(sentence.split())}\n")
    raise SystemExit(code)
