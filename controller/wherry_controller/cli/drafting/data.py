"""Drafts where rows come from: files of the folder, by their names and by what is in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from wherry.signature import Datatype, Signature, Tensor
from wherry_controller.cli.drafting import proposing, spelling
from wherry_controller.cli.drafting.asking import NONE, Question, settle
from wherry_controller.cli.drafting.given import Draft
from wherry_controller.core.card import Data, MetricName, Normalisation, Task

LABEL = "labels"
USUAL_LABELS = ("label", "target", "class", "y")
TABLES = (".csv", ".parquet")
PIXELS = Normalisation()


def draft_data(draft: Draft, signature: Signature | None, task: Task | None) -> Data | None:
    """Return the data; without a signature or a task only what names files is asked."""
    evaluation = _evaluation(draft)
    calibration = _calibration(draft, evaluation)
    search = draft.flags.search
    if evaluation is None or signature is None or task is None:
        return None
    names = proposing.names_in(draft.folder / evaluation)
    label = _label(draft, evaluation, names, signature, task)
    return Data(
        evaluation=evaluation,
        calibration=calibration,
        search=None if search is None else spelling.data_or_none(draft.folder, search),
        label=label,
        columns=_columns(draft, evaluation, signature, [one for one in names if one != label]),
        images=_images(draft, evaluation, signature),
    )


def _evaluation(draft: Draft) -> str | None:
    text = "Evaluation rows: a file, a folder of images, or data.py:rows"
    default = proposing.rows_in(draft.folder, proposing.EVALUATION)
    read = partial(spelling.data_beside, draft.folder)
    question = Question("--evaluation", text, read, default)
    return settle(draft.asker, draft.flags.evaluation, question)


def _calibration(draft: Draft, evaluation: str | None) -> str | None:
    text = "Calibration rows, for quantized variants"
    likely = proposing.rows_in(draft.folder, proposing.CALIBRATION)
    default = NONE if likely is None or likely == evaluation else likely
    read = partial(spelling.data_or_none, draft.folder)
    question = Question("--calibration", text, read, default)
    return settle(draft.asker, draft.flags.calibration, question)


def _label(
    draft: Draft, evaluation: str, names: Sequence[str], signature: Signature, task: Task
) -> str:
    """Return the name of the labels; ask where they are not called so."""
    inputs = {tensor.name for tensor in signature.inputs}
    others = [name for name in names if name not in inputs]
    by_itself = task.metric in (MetricName.MAP, MetricName.FUNCTION) or LABEL in names or not others
    if draft.flags.label is None and by_itself:
        return LABEL
    text = f"Name of the labels in {evaluation}"
    usual = next((name for name in USUAL_LABELS if name in others), None)
    last = others[-1] if len(others) == 1 or evaluation.endswith(TABLES) else None
    question = Question("--label", text, str, usual or last)
    return settle(draft.asker, draft.flags.label, question) or LABEL


def _columns(
    draft: Draft, evaluation: str, signature: Signature, names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return the columns that make up an input; ask for those of inputs that no column is named."""
    if draft.flags.columns or not evaluation.endswith(TABLES) or not names:
        return spelling.pairs(draft.flags.columns, "INPUT=COLUMN,COLUMN", _column_names)
    fed = {pair.input for pair in signature.states}
    open_ones = [one for one in signature.inputs if one.name not in (*names, *fed)]
    asked = {one.name: _ask_columns(draft, evaluation, one, names) for one in open_ones}
    return {name: columns for name, columns in asked.items() if columns}


def _ask_columns(
    draft: Draft, evaluation: str, tensor: Tensor, names: Sequence[str]
) -> tuple[str, ...]:
    lengths = [axis for axis in tensor.shape[1:] if isinstance(axis, int)]
    fits = len(lengths) == len(tensor.shape) - 1 and math.prod(lengths) == len(names)
    text = f"Columns of {evaluation} for the input {tensor.name!r}"
    flag = f"--columns {tensor.name}=COLUMN,COLUMN"
    default = ",".join(names) if fits and not any("," in name for name in names) else None
    return draft.asker.ask(Question(flag, text, _column_names, default)) or ()


def _column_names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))


def _images(draft: Draft, evaluation: str, signature: Signature) -> Normalisation:
    """Return how pixels become values; ask where images fill a floating input."""
    flags = draft.flags
    kinds = {tensor.datatype for tensor in signature.inputs}
    if not evaluation.endswith(spelling.IMAGES) or Datatype.UINT8 in kinds:
        return PIXELS
    scale = Question("--pixel-scale", "Factor on pixels from 0 to 255", spelling.fraction, "1/255")
    mean = Question("--pixel-mean", "Mean that is taken off each channel", spelling.numbers, NONE)
    deviation = Question(
        "--pixel-deviation", "Deviation that divides each channel", spelling.numbers, NONE
    )
    factor = settle(draft.asker, flags.pixel_scale, scale)
    return Normalisation(
        scale=PIXELS.scale if factor is None else factor,
        mean=settle(draft.asker, flags.pixel_mean, mean) or (),
        deviation=settle(draft.asker, flags.pixel_deviation, deviation) or (),
    )
