"""Drafts a version's card, part by part, and reads it back as the text that is written."""

from __future__ import annotations

from functools import partial

from wherry.names import ModelName, VersionName, parse_model_name, parse_version_name
from wherry_controller.cli.card_file import write_card
from wherry_controller.cli.drafting import proposing, spelling
from wherry_controller.cli.drafting.asking import NONE, Question, settle
from wherry_controller.cli.drafting.data import draft_data
from wherry_controller.cli.drafting.describing import Description
from wherry_controller.cli.drafting.given import Draft
from wherry_controller.cli.drafting.signature import draft_signature
from wherry_controller.cli.drafting.source import (
    describe,
    describe_net,
    draft_source,
    with_code,
)
from wherry_controller.cli.drafting.task import draft_task
from wherry_controller.core.card import Card, Data, Goal, Lineage, Task, parse_card

FIRST = "v1"
DROP = str(Goal().largest_drop)


def draft_card(draft: Draft) -> Card:
    """Return the card; end with one sentence where answers are missing.

    Raises `BadFile`, `BadCard` or `BadSignature` where they do not fit one another.
    """
    model, version = _model(draft), _version(draft)
    found = describe(draft)
    source = None if found is None else draft_source(draft, found)
    if found and source and source.factory is not None:
        found = describe_net(draft, found, source.factory)
    signature = None if found is None else draft_signature(draft, found, source)
    task = None if signature is None else draft_task(draft, signature)
    data = draft_data(draft, signature, task)
    labels, goal, lineage = _labels(draft, found, task, data), _goal(draft), _lineage(draft)
    draft.asker.finish()
    assert model and version and source and signature and task and data
    functions = (task.function, data.evaluation, data.calibration, data.search)
    card = Card(
        model=model,
        version=version,
        source=with_code(source, draft, functions),
        signature=signature,
        task=task,
        data=data,
        goal=goal,
        labels=labels,
        assets=_assets(draft),
        lineage=lineage,
    )
    return parse_card(write_card(card).encode())


def _model(draft: Draft) -> ModelName | None:
    name = proposing.model_name(draft.file)
    question = Question("--model", "Name of the model", parse_model_name, name)
    return settle(draft.asker, draft.flags.model, question)


def _version(draft: Draft) -> VersionName | None:
    question = Question("--version", "Name of the version", parse_version_name, FIRST)
    return settle(draft.asker, draft.flags.version, question)


def _labels(
    draft: Draft, found: Description | None, task: Task | None, data: Data | None
) -> tuple[str, ...]:
    """Return the file's own labels, or ask where classes could have some."""
    if draft.flags.labels is None and found is not None and found.labels:
        return found.labels
    read = partial(spelling.spelled_labels, draft.folder)
    if draft.flags.labels is not None:
        return read(draft.flags.labels)
    if task is None or (task.class_output is None and not task.classes):
        return ()
    text = "Labels of the classes, between commas, or a file of them"
    folders = () if data is None else proposing.folders_in(draft.folder, data.evaluation)
    default = proposing.labels_in(draft.folder) or ",".join(folders) or NONE
    return draft.asker.ask(Question("--labels", text, read, default)) or ()


def _goal(draft: Draft) -> Goal:
    floor = Question("--floor", "Worst value of the metric that is allowed", spelling.number, NONE)
    drop = Question("--largest-drop", "Largest drop against float", spelling.number, DROP)
    least = settle(draft.asker, draft.flags.floor, floor)
    largest = settle(draft.asker, draft.flags.largest_drop, drop)
    return Goal(floor=least) if largest is None else Goal(floor=least, largest_drop=largest)


def _lineage(draft: Draft) -> Lineage:
    question = Question("--licence", "Licence", spelling.plain, NONE)
    return Lineage(licence=settle(draft.asker, draft.flags.licence, question) or "")


def _assets(draft: Draft) -> dict[str, str]:
    read = partial(spelling.file_beside, draft.folder)
    return spelling.pairs(draft.flags.asset, "NAME=FILE", read)
