"""Passphrases of key files: from a file's first line, or asked for at the terminal."""

from __future__ import annotations

from pathlib import Path

import typer

from wherry_controller import key_files
from wherry_controller.key_files import Passphrase


def known(file: Path | None) -> str:
    """Return the passphrase of a key that is there."""
    if file is None:
        return str(typer.prompt("Passphrase", hide_input=True, err=True))
    return _first_line(file)


def new(file: Path | None) -> Passphrase:
    """Return one for keys to be made, asked for twice; raise `WeakPassphrase`."""
    if file is not None:
        return key_files.chosen(_first_line(file))
    text = typer.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True)
    return key_files.chosen(str(text))


def _first_line(file: Path) -> str:
    lines = key_files.read_file(file).decode(errors="replace").splitlines()
    return lines[0] if lines else ""
