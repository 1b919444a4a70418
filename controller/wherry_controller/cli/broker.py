"""`wherry broker config mosquitto`: what a broker on this machine runs from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from wherry_controller.cli import show
from wherry_controller.cli.local import Folder
from wherry_controller.settings import read_settings

app = typer.Typer(no_args_is_help=True, help="Prepare the broker between controller and devices.")
config = typer.Typer(no_args_is_help=True, help="Write what a broker runs from.")
app.add_typer(config, name="config")


@config.callback()
def of_a_broker() -> None:
    """Write what a broker runs from."""


@config.command(name="mosquitto")
def of_mosquitto(
    folder: Folder = Path("wherry-controller"),
    *,
    to: Annotated[
        Path | None, typer.Option("--folder", help="Where to write; default: broker/ in FOLDER.")
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(help="A name or address that the broker is reached by; may be repeated."),
    ] = None,
    listen: Annotated[str, typer.Option(help="The address to listen on.")] = "0.0.0.0",
    control_port: Annotated[int | None, typer.Option(help="Of orders and reports.")] = None,
    fetch_port: Annotated[int | None, typer.Option(help="Of chunks and manifests.")] = None,
    devices: Annotated[
        int, typer.Option(min=1, help="How many devices to have memory for.")
    ] = 10_000,
    user: Annotated[str | None, typer.Option(help="Whom mosquitto runs as.")] = None,
    plugin: Annotated[Path | None, typer.Option(help="mosquitto_dynamic_security.so.")] = None,
    reload: Annotated[
        str | None,
        typer.Option(help="Then have it read that: its pid file, or its systemd service."),
    ] = None,
    as_json: show.Json = False,
) -> None:
    """Write mosquitto's configuration, certificates and rights; again changes only what differs."""
    # What writes it is heavy, and every other command starts without it.
    from wherry_controller.cli.preparing import Wish, prepare

    wish = Wish(
        folder=to,
        hosts=tuple(host or ()),
        listen=listen,
        control_port=control_port,
        fetch_port=fetch_port,
        devices=devices,
        user=user,
        plugin=plugin,
        reload=reload,
        as_json=as_json,
    )
    prepare(read_settings(folder, os.environ), wish)
