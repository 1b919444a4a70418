"""Drafts the signature: the file's own tensors where it tells them, the rest by asking.

An axis that varies is asked about too, since a runtime of fixed shapes needs its length. Every
tensor has its batch first, wherever the file has it, and what was moved is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial

from msgspec.structs import replace

from wherry.signature import BATCH, Signature, StatePair, Tensor
from wherry_controller.cli.drafting import proposing, spelling
from wherry_controller.cli.drafting.asking import NONE, Question, tell
from wherry_controller.cli.drafting.describing import Described, Description
from wherry_controller.cli.drafting.given import Draft
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.core.card import Source, SourceKind

LARGEST_BATCH = 64


class Side(Enum):
    INPUT = "input"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Told:
    """One side of the signature: what the file tells of it, and what flags do."""

    side: Side
    described: tuple[Described, ...]
    given: Mapping[str, Tensor]


def draft_signature(draft: Draft, found: Description, source: Source | None) -> Signature | None:
    known = found if source is None else _in_our_words(found, source)
    inputs = _tensors(draft, known, _told(Side.INPUT, known.inputs, draft.flags.input))
    outputs = _tensors(draft, known, _told(Side.OUTPUT, known.outputs, draft.flags.output))
    if inputs is None or outputs is None:
        return None
    return Signature(
        inputs,
        outputs,
        LARGEST_BATCH if draft.flags.max_batch is None else draft.flags.max_batch,
        _states(draft, known, inputs, outputs),
    )


def _in_our_words(found: Description, source: Source) -> Description:
    """Return the description with the signature's names, without the inputs that are fixed."""
    ours = {name: our for our, name in source.names.items()}
    return replace(
        found,
        inputs=tuple(_named(one, ours) for one in found.inputs if one.name not in source.constants),
        outputs=tuple(_named(one, ours) for one in found.outputs),
        states=tuple(
            StatePair(ours.get(pair.output, pair.output), ours.get(pair.input, pair.input))
            for pair in found.states
        ),
    )


def _named(tensor: Described, ours: Mapping[str, str]) -> Described:
    return replace(tensor, name=ours.get(tensor.name, tensor.name))


def _told(side: Side, described: tuple[Described, ...], texts: Sequence[str]) -> Told:
    given = [_said(spelling.spelled_tensor(text)) for text in texts]
    return Told(side, described, {tensor.name: tensor for tensor in given})


def _tensors(draft: Draft, known: Description, told: Told) -> tuple[Tensor, ...] | None:
    names = [tensor.name for tensor in told.described]
    strange = [name for name in told.given if name not in names]
    if strange and names and known.kind is SourceKind.ONNX:
        problem = (
            f"{draft.file.name} has no {told.side.value} {strange[0]!r} but {', '.join(names)}"
        )
        raise Ended(Exit.USAGE, f"{problem}: use its names, or give --name NAME=FILE_NAME.")
    if strange:  # Torch's nets go by position, so the names given are the names there are.
        return tuple(told.given.values())
    if not told.described:
        return _ask_all(draft, told.side)
    tensors = [
        told.given.get(one.name) or _ask_one(draft, told.side, one) for one in told.described
    ]
    whole = tuple(tensor for tensor in tensors if tensor is not None)
    return whole if len(whole) == len(tensors) else None


def _ask_one(draft: Draft, side: Side, described: Described) -> Tensor | None:
    """Return the tensor that the file tells whole; ask where it leaves something open."""
    told = _told_whole(side, described)
    if told is not None and described.batch_axis:
        tell(f"{spelling.moved(told.name, told.shape)}; the file has it at {described.batch_axis}.")
    if told is not None and not _is_open(side, told):
        return told
    default = None if told is None else spelling.written_tensor(told)
    form = "DATATYPE:SHAPE:LAYOUT" if side is Side.INPUT else "DATATYPE:SHAPE"
    text = f"{side.value.capitalize()} {described.name!r} as {form}"
    read = partial(_read_tensor, name=described.name)
    flag = f"--{side.value} {described.name}:DATATYPE:SHAPE"
    return draft.asker.ask(Question(flag, text, read, default))


def _told_whole(side: Side, described: Described) -> Tensor | None:
    if described.datatype is None or described.shape is None:
        return None
    shape = described.shape or (BATCH,)
    layout = proposing.layout_of(shape) if side is Side.INPUT else ""
    return Tensor(described.name, described.datatype, shape, layout)


def _is_open(side: Side, tensor: Tensor) -> bool:
    """Say whether a person may know more of it: a length that varies here, or the layout."""
    varies = any(isinstance(axis, str) for axis in tensor.shape[1:])
    return side is Side.INPUT and (varies or len(tensor.shape) == 4)


def _ask_all(draft: Draft, side: Side) -> tuple[Tensor, ...] | None:
    """Ask for one tensor after the other until there is none."""
    found: list[Tensor] = []
    while True:
        text = f"{side.value.capitalize()} {len(found) + 1} as NAME:DATATYPE:SHAPE"
        default = NONE if found else None
        flag = f"--{side.value} NAME:DATATYPE:SHAPE"
        tensor = draft.asker.ask(Question(flag, text, _tensor_or_none, default))
        if tensor is None:
            return tuple(found) or None
        found.append(tensor)


def _tensor_or_none(text: str) -> Tensor | None:
    return None if text == NONE else _read_tensor(text)


def _read_tensor(text: str, name: str | None = None) -> Tensor:
    return _said(spelling.spelled_tensor(text, name=name))


def _said(spelled: spelling.Spelled) -> Tensor:
    if spelled.note:
        tell(f"{spelled.note}.")
    return spelled.tensor


def _states(
    draft: Draft, known: Description, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> tuple[StatePair, ...]:
    """Return the states that are given, or told; where types and shapes allow one, ask."""
    names = [one.name for one in inputs], [one.name for one in outputs]
    read = partial(spelling.spelled_states, inputs=names[0], outputs=names[1])
    if draft.flags.state:
        return read(draft.flags.state)
    possible = proposing.states_among(inputs, outputs)
    if not known.states and not possible:
        return ()
    default = ",".join(f"{pair.output}:{pair.input}" for pair in known.states) or NONE
    text = "Outputs that are given back as inputs, as OUTPUT:INPUT"
    if default == NONE:
        text += f" (like {possible[0].output}:{possible[0].input})"
    question = Question("--state", text, lambda answer: read(answer.split(",")), default)
    return draft.asker.ask(question) or ()
