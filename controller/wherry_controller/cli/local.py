"""`wherry init`, `wherry serve`: a controller on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from wherry import journal
from wherry.logs import log_to, log_to_stderr
from wherry.trust import documents
from wherry_controller import foundation, key_files
from wherry_controller.cli import passphrases, show
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.settings import Settings, read_settings

Folder = Annotated[Path, typer.Argument(help="The controller's folder.")]


def init(
    folder: Folder = Path("wherry-controller"),
    *,
    broker: Annotated[
        str, typer.Option(help="mqtt://HOST:PORT, or `embedded` for the one that comes along.")
    ] = Settings().broker.url,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Its first line is the passphrase of the offline keys.")
    ] = None,
    ask_passphrase: Annotated[
        bool, typer.Option("--ask-passphrase", help="Ask for it; else one is generated.")
    ] = False,
    bundle_key: Annotated[
        Path | None, typer.Option(help="The public file of a bundle key that is kept apart.")
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(help="A copy of the first root, signed elsewhere (`wherry keys found`)."),
    ] = None,
    targets: Annotated[
        list[Path] | None, typer.Option(help="A copy of the first targets, signed elsewhere.")
    ] = None,
) -> None:
    """Make a folder a controller's: keys, a root of trust, a token, settings."""
    founded = foundation.found(
        folder,
        broker=broker,
        passphrase=(
            passphrases.new(passphrase_file) if passphrase_file or ask_passphrase else None
        ),
        trust=_given_trust(root or [], targets or []),
        bundle=None if bundle_key is None else key_files.read_public(bundle_key),
    )
    http = Settings().http
    if founded.token is None:
        show.line(f"{founded.folder} has a root of trust now; its token stays.")
    else:
        show.line(f"{founded.folder} is founded. Its token is shown this once:")
        show.line(founded.token)
    _say_offline(founded)
    show.line(f"Next: wherry serve {folder}")
    show.line(f"Then: wherry login http://{http.host}:{http.port}")


def _given_trust(root: list[Path], targets: list[Path]) -> foundation.FirstTrust | None:
    """Return what was signed elsewhere, its copies merged; both or neither are to be given."""
    if not root and not targets:
        return None
    if not root or not targets:
        raise Ended(Exit.USAGE, "root and targets go together: give --root and --targets.")
    return foundation.FirstTrust(_merged(root), _merged(targets))


def _merged(copies: list[Path]) -> bytes:
    first, *others = [key_files.read_file(path) for path in copies]
    for other in others:
        first = documents.merge_signatures(first, other)
    return first


def _say_offline(founded: foundation.Founded) -> None:
    if founded.offline is None:
        return
    show.line(f"The root and targets keys are in {founded.offline}: move it to another machine,")
    show.line("and keep a copy of it elsewhere. Without them no key can ever be replaced.")
    if founded.passphrase is not None:
        show.line("Their passphrase is shown this once:")
        show.line(founded.passphrase)


def serve(folder: Folder = Path("wherry-controller")) -> None:
    """Serve a controller: its API, and the fleet behind its broker, until a signal ends it."""
    # What serves is heavy, and every other command starts without it.
    from wherry_controller.cli.serving import serve_forever

    settings = read_settings(folder, os.environ)
    if journal.is_listening():
        log_to(journal.JournalHandler("wherry-controller"))
    else:
        log_to_stderr()
    serve_forever(settings)
