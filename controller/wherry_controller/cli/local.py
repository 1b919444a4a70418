"""`wherry init`, `wherry serve`: a controller on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from wherry.logs import log_to_stderr
from wherry_controller import foundation
from wherry_controller.cli import show
from wherry_controller.settings import Settings, read_settings

Folder = Annotated[Path, typer.Argument(help="The controller's folder.")]


def init(
    folder: Folder = Path("wherry-controller"),
    *,
    broker: Annotated[
        str, typer.Option(help="mqtt://HOST:PORT, or `embedded` for the one that comes along.")
    ] = Settings().broker.url,
) -> None:
    """Make a folder a controller's: keys, a token, settings."""
    founded = foundation.found(folder, broker=broker)
    http = Settings().http
    show.line(f"{founded.folder} is founded. Its token is shown this once:")
    show.line(founded.token)
    show.line(f"Next: wherry serve {folder}")
    show.line(f"Then: wherry login http://{http.host}:{http.port}")


def serve(folder: Folder = Path("wherry-controller")) -> None:
    """Serve a controller: its API, and the fleet behind its broker, until a signal ends it."""
    # What serves is heavy, and every other command starts without it.
    from wherry_controller.cli.serving import serve_forever

    settings = read_settings(folder, os.environ)
    log_to_stderr()
    serve_forever(settings)
