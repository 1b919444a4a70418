"""`wherry init`: what acts on this machine and not through the API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wherry_controller import foundation
from wherry_controller.cli import show
from wherry_controller.settings import Settings

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
