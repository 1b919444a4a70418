"""What a flag or an answer spells: tensors, shapes, states, pairs, numbers, labels, file names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from wherry.signature import BATCH, Datatype, StatePair, Tensor
from wherry_controller.cli.drafting.asking import NONE
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.core.card import Constant, DataName, FileName, FunctionName, file_of

T = TypeVar("T")

TYPES = "|".join(kind.value for kind in Datatype)
# A name may hold colons of its own, as TensorFlow's do, so the type is what parts them.
TENSOR = re.compile(rf"(?:(.+):)?({TYPES}):\[?([^:\]]*)\]?(?::([A-Za-z]+))?")
VARIES = ("?", "-1", "*", "")
IMAGES = ".zip"


@dataclass(frozen=True, slots=True)
class Spelled:
    """A tensor as it was given, and what was done to have its batch first."""

    tensor: Tensor
    note: str = ""


def spelled_tensor(text: str, *, name: str | None = None) -> Spelled:
    """Return the tensor in `NAME:DATATYPE:SHAPE[:LAYOUT]`; with `name`, NAME may be left out."""
    found = TENSOR.fullmatch(text.strip())
    given = (found[1] or name) if found else None
    if found is None or given is None:
        form = "DATATYPE:SHAPE[:LAYOUT]" if name else "NAME:DATATYPE:SHAPE[:LAYOUT]"
        like = "FP32:batch,1,28,28:NCHW" if name else "image:FP32:batch,1,28,28:NCHW"
        raise wrong(text, f"tensor written {form}", f"write it like {like}, types are {TYPES}")
    shape, note = _batch_first(given, [axis.strip() for axis in found[3].split(",")])
    return Spelled(Tensor(given, Datatype(found[2]), shape, found[4] or ""), note)


def written_tensor(tensor: Tensor) -> str:
    """Return `DATATYPE:SHAPE[:LAYOUT]`, as an answer would be."""
    parts = (tensor.datatype.value, ",".join(map(str, tensor.shape)), tensor.layout)
    return ":".join(part for part in parts if part)


def _batch_first(name: str, axes: Sequence[str]) -> tuple[tuple[int | str, ...], str]:
    at = axes.index(BATCH) if BATCH in axes else _unnamed_batch(name, axes)
    others = [_axis(name, index, axis) for index, axis in enumerate(axes) if index != at]
    shape = (BATCH, *others)
    if axes[at] == BATCH and at == 0:
        return shape, ""
    return shape, moved(name, shape)


def moved(name: str, shape: Sequence[int | str]) -> str:
    """Return the sentence that says how a tensor stands in the signature."""
    return f"{name!r} is {list(shape)} in the signature, which has the batch first"


def _unnamed_batch(name: str, axes: Sequence[str]) -> int:
    """Return the batch where no axis is called so: the first if it is 1, or one that varies."""
    if axes[0] == "1" or axes[0] in VARIES:
        return 0
    varying = [index for index, axis in enumerate(axes) if axis in VARIES]
    if not varying:
        raise wrong(",".join(axes), f"shape of {name!r}", f"call one axis {BATCH}")
    return varying[0]


def _axis(name: str, index: int, axis: str) -> int | str:
    if axis in VARIES:
        return f"axis_{index}"
    if axis.isdecimal() or axis.lstrip("-").isdecimal():
        return int(axis)
    if not axis.isidentifier() or axis == BATCH:
        raise wrong(axis, f"axis of {name!r}", "give its length, or a name if it varies")
    return axis


def spelled_states(
    texts: Sequence[str], inputs: Collection[str], outputs: Collection[str]
) -> tuple[StatePair, ...]:
    """Return the states in `OUT:IN` texts."""
    return tuple(_state(text, inputs, outputs) for text in texts if text != NONE)


def _state(text: str, inputs: Collection[str], outputs: Collection[str]) -> StatePair:
    ways = [(text[:at], text[at + 1 :]) for at, sign in enumerate(text) if sign == ":"]
    known = [way for way in ways if way[0] in outputs and way[1] in inputs]
    if not known:
        have = f"outputs are {', '.join(outputs)}; inputs {', '.join(inputs)}"
        raise wrong(text, "state written OUTPUT:INPUT", have)
    return StatePair(*known[0])


def pairs(texts: Sequence[str], form: str, read: Callable[[str], T]) -> dict[str, T]:
    """Return what `NAME=VALUE` texts say, each value read; a name may hold `=`."""
    found: dict[str, T] = {}
    for text in texts:
        name, sign, value = text.rpartition("=")
        if not (name and sign) or name in found:
            raise wrong(text, f"pair written {form}", "give each name once")
        found[name] = read(value)
    return found


def constant(text: str) -> Constant:
    """Return a number, or numbers in brackets."""
    try:
        value: Constant = msgspec.json.decode(text, type=Constant)
    except msgspec.DecodeError as error:
        raise wrong(text, "number", "write it like 16000, or [1, 2] for several") from error
    return value


def number(text: str) -> float | None:
    """Return a number, or None for none."""
    if text in (NONE, ""):
        return None
    value = constant(text)
    if isinstance(value, list):
        raise wrong(text, "number", "give a single one")
    return float(value)


def whole(text: str) -> int:
    if not text.isdecimal():
        raise wrong(text, "whole number", "write it like 5")
    return int(text)


def numbers(text: str) -> tuple[float, ...]:
    """Return numbers between commas; a fraction may be written 1/255."""
    return tuple(map(fraction, text.split(","))) if text not in (NONE, "") else ()


def fraction(text: str) -> float:
    above, sign, below = text.partition("/")
    values = (number(above), number(below) if sign else 1.0)
    if values[0] is None or not values[1]:
        raise wrong(text, "number", "write it like 0.5 or 1/255")
    return values[0] / values[1]


def plain(text: str) -> str:
    return "" if text == NONE else text


def one_of(names: Sequence[str]) -> Callable[[str], str]:
    """Return what reads one of the names."""

    def read(text: str) -> str:
        if text not in names:
            raise wrong(text, "choice here", f"choose {', '.join(names)}")
        return text

    return read


def spelled_labels(folder: Path, text: str) -> tuple[str, ...]:
    """Return labels between commas, or those in a file of the folder, one a line."""
    if text in (NONE, ""):
        return ()
    if (folder / text).is_file():
        lines = (folder / text).read_text(errors="replace").splitlines()
        return tuple(line.strip() for line in lines if line.strip())
    return tuple(part.strip() for part in text.split(","))


def file_beside(folder: Path, text: str) -> str:
    """Return the bare name of a file in the folder."""
    return _known(folder, _bare(folder, text), FileName, "name of a file")


def function_beside(folder: Path, text: str) -> str:
    """Return `net.py:make_net`, whose file is in the folder."""
    return _known(folder, _bare(folder, text), FunctionName, "function written net.py:make_net")


def data_beside(folder: Path, text: str) -> str:
    """Return the name of rows in the folder: a file, a function, or a folder of images as a zip."""
    name = _bare(folder, text)
    if (folder / name).is_dir():
        name += IMAGES
    return _known(folder, name, DataName, "file of rows")


def data_or_none(folder: Path, text: str) -> str | None:
    return None if text in (NONE, "") else data_beside(folder, text)


def is_there(folder: Path, name: str) -> bool:
    """Say whether a file that a card names is in the folder, or is a folder of images there."""
    file = folder / file_of(name)
    return file.is_file() or (name.endswith(IMAGES) and file.with_suffix("").is_dir())


def _bare(folder: Path, text: str) -> str:
    path = Path(text)
    is_here = len(path.parts) > 1 and path.absolute().parent == folder.absolute()
    return path.name if is_here else text.removesuffix("/")


def _known(folder: Path, name: str, kind: object, what: str) -> str:
    try:
        msgspec.convert(name, type=kind)
    except msgspec.ValidationError as error:
        remedy = "name what lies beside the model, in letters, digits, '.', '_' and '-'"
        raise wrong(name, what, remedy) from error
    if not is_there(folder, name):
        raise Ended(Exit.USAGE, f"{file_of(name)} is not in {folder}: put it beside the model.")
    return name


def wrong(text: str, what: str, remedy: str) -> Ended:
    return Ended(Exit.USAGE, f"{text[:100]!r} is no {what}: {remedy}.")
