"""`wherry login`: where the controller is, kept for the next commands."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from wherry_controller.cli import show
from wherry_controller.cli.login import Login, save
from wherry_controller.cli.remote import Remote


def login(
    url: Annotated[str, typer.Argument(help="The controller, as http://HOST:PORT.")],
    *,
    token: Annotated[
        str,
        typer.Option(
            envvar="WHERRY_TOKEN",
            prompt=True,
            hide_input=True,
            help="The token that `wherry init` printed.",
        ),
    ],
) -> None:
    """Keep a controller's address and token, once they have proved right."""
    found = Login(url, token)
    Remote(found).get("/models", limit=1)
    show.line(f"logged in to {url}; kept in {save(found, os.environ)}.")
