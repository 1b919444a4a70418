"""`wherry model add`: registers a version, and writes its card first where there is none.

A folder with a `model.toml` is sent as it is. Beside a model file without one, what flags and
files leave open is asked, and the card is shown, written and then sent. A card is never replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from wherry.files import write_whole
from wherry_controller.cli import show
from wherry_controller.cli.card_file import write_card
from wherry_controller.cli.drafting import proposing, spelling
from wherry_controller.cli.drafting.asking import Asker, Nobody, Question, Terminal, tell
from wherry_controller.cli.drafting.card import draft_card
from wherry_controller.cli.drafting.given import Draft, Flags
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.cli.replies import Version, read
from wherry_controller.cli.sending import CARD, read_card, register
from wherry_controller.core.card import parse_card

SOURCE = "Source"
SIGNATURE = "Signature"
TASK = "Task and data"
TENSOR = "NAME:TYPE:SHAPE[:LAYOUT]"

Word = str | None
Words = list[str] | None


def add(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|FILE", help=f"Holds {CARD} and what it names; or a model file."
        ),
    ],
    *,
    model: Annotated[Word, typer.Option(help="Name of the model.")] = None,
    version: Annotated[Word, typer.Option(help="Name of the version.")] = None,
    licence: Annotated[Word, typer.Option(help="For people and audits.")] = None,
    asset: Annotated[
        Words, typer.Option(metavar="NAME=FILE", help="Travels in every bundle.")
    ] = None,
    kind: Annotated[
        Word, typer.Option(help="If the file does not tell it.", rich_help_panel=SOURCE)
    ] = None,
    factory: Annotated[
        Word, typer.Option(help="Makes the net, like net.py:make_net.", rich_help_panel=SOURCE)
    ] = None,
    code: Annotated[
        Words,
        typer.Option(metavar="FILE", help="Is imported by the others too.", rich_help_panel=SOURCE),
    ] = None,
    name: Annotated[
        Words,
        typer.Option(
            metavar="NAME=FILE_NAME",
            help="A tensor's name, and the one it has in the file.",
            rich_help_panel=SOURCE,
        ),
    ] = None,
    constant: Annotated[
        Words,
        typer.Option(
            metavar="NAME=VALUE", help="Fixes an input of the file.", rich_help_panel=SOURCE
        ),
    ] = None,
    input_: Annotated[
        Words,
        typer.Option(
            "--input",
            metavar=TENSOR,
            help="Like image:FP32:batch,1,28,28:NCHW.",
            rich_help_panel=SIGNATURE,
        ),
    ] = None,
    output: Annotated[
        Words,
        typer.Option(metavar=TENSOR, help="Like scores:FP32:batch,10.", rich_help_panel=SIGNATURE),
    ] = None,
    state: Annotated[
        Words,
        typer.Option(
            metavar="OUT:IN", help="Is given back as an input.", rich_help_panel=SIGNATURE
        ),
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(min=1, help="Largest batch.", rich_help_panel=SIGNATURE)
    ] = None,
    metric: Annotated[
        Word, typer.Option(help="How answers are judged.", rich_help_panel=TASK)
    ] = None,
    task_output: Annotated[
        Word, typer.Option(help="The output that is judged.", rich_help_panel=TASK)
    ] = None,
    k: Annotated[Word, typer.Option(help="Of top_k.", rich_help_panel=TASK)] = None,
    boxes: Annotated[
        Word, typer.Option(help="The output of corners, for map.", rich_help_panel=TASK)
    ] = None,
    classes: Annotated[
        Word, typer.Option(help="The output of class numbers, for map.", rich_help_panel=TASK)
    ] = None,
    function: Annotated[
        Word, typer.Option(help="Judges itself, like score.py:score.", rich_help_panel=TASK)
    ] = None,
    lower_is_better: Annotated[
        bool, typer.Option("--lower-is-better", help="Of the function.", rich_help_panel=TASK)
    ] = False,
    claimed: Annotated[
        Word, typer.Option(help="The metric's value, as claimed.", rich_help_panel=TASK)
    ] = None,
    evaluation: Annotated[Word, typer.Option(help="Rows that judge.", rich_help_panel=TASK)] = None,
    calibration: Annotated[
        Word, typer.Option(help="Rows that calibrate, or none.", rich_help_panel=TASK)
    ] = None,
    search: Annotated[
        Word, typer.Option(help="Rows that a search looks at.", rich_help_panel=TASK)
    ] = None,
    label: Annotated[
        Word, typer.Option(help="The labels' name in the rows.", rich_help_panel=TASK)
    ] = None,
    columns: Annotated[
        Words,
        typer.Option(metavar="INPUT=COLUMN,…", help="Columns of an input.", rich_help_panel=TASK),
    ] = None,
    pixel_scale: Annotated[
        Word, typer.Option(help="Factor on an image's pixels.", rich_help_panel=TASK)
    ] = None,
    pixel_mean: Annotated[
        Word, typer.Option(help="Is taken off each channel.", rich_help_panel=TASK)
    ] = None,
    pixel_deviation: Annotated[
        Word, typer.Option(help="Divides each channel.", rich_help_panel=TASK)
    ] = None,
    labels: Annotated[
        Word,
        typer.Option(help="Names between commas, or a file of them.", rich_help_panel=TASK),
    ] = None,
    floor: Annotated[
        Word, typer.Option(help="Worst value of the metric.", rich_help_panel=TASK)
    ] = None,
    largest_drop: Annotated[Word, typer.Option(help="Against float.", rich_help_panel=TASK)] = None,
    ask: Annotated[
        bool | None,
        typer.Option(
            "--ask/--no-input", help="Ask what is open, or never; else if a person is there."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the card and do nothing.")
    ] = False,
    json: show.Json = False,
) -> None:
    """Register a version; write its card first where there is none."""
    flags = Flags(
        model=model,
        version=version,
        kind=kind,
        factory=factory,
        code=tuple(code or ()),
        name=tuple(name or ()),
        constant=tuple(constant or ()),
        input=tuple(input_ or ()),
        output=tuple(output or ()),
        state=tuple(state or ()),
        max_batch=max_batch,
        metric=metric,
        task_output=task_output,
        k=k,
        boxes=boxes,
        classes=classes,
        function=function,
        lower_is_better=lower_is_better,
        claimed=claimed,
        evaluation=evaluation,
        calibration=calibration,
        search=search,
        label=label,
        columns=tuple(columns or ()),
        pixel_scale=pixel_scale,
        pixel_mean=pixel_mean,
        pixel_deviation=pixel_deviation,
        floor=floor,
        largest_drop=largest_drop,
        labels=labels,
        asset=tuple(asset or ()),
        licence=licence,
    )
    card = _card_at(path, flags)
    text = "" if card is not None else write_card(draft_card(_draft(path, flags, _asker(ask=ask))))
    if dry_run:
        show.line((_checked(card) if card is not None else text).rstrip("\n"))
        return
    if card is None:
        card = _write(path, text, tell if json else show.line)
    body = register(card)
    if json:
        show.raw(body)
    else:
        registered = read(Version, body)
        lineage = show.short(registered.lineage)
        show.line(f"{registered.model}:{registered.name} is registered ({lineage}).")


def _card_at(path: Path, flags: Flags) -> Path | None:
    """Return the card that is there; it says all, so flags beside it would say it twice."""
    if not path.exists():
        raise Ended(Exit.USAGE, f"{path} is not there: give the folder that holds {CARD}.")
    card = path if path.suffix == Path(CARD).suffix else path / CARD
    is_card = card == path or card.is_file()
    if is_card and flags.given():
        flag = f"--{flags.given()[0].replace('_', '-')}"
        problem = f"{card} is what says all of a version, and {flag} is given too"
        raise Ended(Exit.USAGE, f"{problem}: write that into the file.")
    return card if is_card else None


def _draft(path: Path, flags: Flags, asker: Asker) -> Draft:
    file = path if path.is_file() else path / _model_in(path, asker)
    if (file.parent / CARD).exists():
        problem = f"{CARD} is beside {file.name} already"
        raise Ended(Exit.USAGE, f"{problem}: register that folder, or keep one version a folder.")
    return Draft(file, flags, asker)


def _model_in(folder: Path, asker: Asker) -> str:
    """Return the name of the one model file in a folder, or of the one that is chosen."""
    found = proposing.models_in(folder)
    if len(found) == 1:
        return found[0]
    if not found:
        problem = f"{folder} holds neither {CARD} nor a file that ends like a model"
        raise Ended(Exit.USAGE, f"{problem}: give the model file.")
    question = Question("FILE", f"Which file ({', '.join(found)})", spelling.one_of(found))
    chosen = asker.ask(question)
    if chosen is None:
        problem = f"{folder} holds {len(found)} model files ({', '.join(found)})"
        raise Ended(Exit.USAGE, f"{problem}: give one of them.")
    return chosen


def _asker(*, ask: bool | None) -> Asker:
    return Terminal() if (sys.stdin.isatty() if ask is None else ask) else Nobody()


def _checked(card: Path) -> str:
    data = read_card(card)
    parse_card(data)
    return data.decode()


def _write(path: Path, text: str, say: Callable[[str], None]) -> Path:
    """Write the card beside the model file, and say so."""
    card = (path.parent if path.is_file() else path) / CARD
    say(text)
    write_whole(card, text.encode())
    say(f"{card} is written.")
    return card
