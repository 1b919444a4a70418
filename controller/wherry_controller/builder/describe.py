"""What can be read of a model file: `python -m wherry_controller.builder.describe FILE`.

One line of JSON on stdout, from which `wherry model add` proposes a card and asks for the rest; or
exit status 1 with one line on stderr. A `.joblib` is a pickle and a factory is code: they run in
this process, which with `--scratch` can read the file's folder and no keys.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import os
import re
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from wherry import codec
from wherry.signature import BATCH, Datatype
from wherry_controller.builder.code import load_function
from wherry_controller.builder.confine import confine
from wherry_controller.builder.data.rows import datatype_of
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.core.card import SourceKind
from wherry_controller.core.fault import BuildReason, BuildRefused

if TYPE_CHECKING:
    import onnx_ir
    import torch

BY_ENDING = {
    ".onnx": SourceKind.ONNX,
    ".pt2": SourceKind.EXPORTED_PROGRAM,
    ".safetensors": SourceKind.STATE_DICT,
    ".joblib": SourceKind.SKLEARN,
    ".pkl": SourceKind.SKLEARN,
}
LABEL_KEYS = ("labels", "names", "classes", "class_names")
# What tells a state's output from its input: `stateN` of `state`, `h_out` of `h_in`, `hn` of `h`.
STATE_MARKS = re.compile(
    r"\A(new|prev|past|present|initial|init)[_.]?|[_.]?(out(put)?|in(put)?|new|next|prev|n|N|0)\Z"
)
LARGEST_HEADER = 100 << 20


class Described(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tensor of the file as a signature could name it: the batch first, and named.

    An empty `shape` is a single number, which a card fixes among its constants; None says that the
    file does not tell. `datatype` is None where Wherry has no such type. `batch_axis` is where the
    file has the batch.
    """

    name: str
    datatype: Datatype | None = None
    shape: tuple[int | str, ...] | None = None
    batch_axis: int = 0


class State(msgspec.Struct, frozen=True):
    """An output that looks as if it were given back as an input."""

    output: str
    input: str


class Description(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a file says of itself; what it does not say is empty."""

    kind: SourceKind
    inputs: tuple[Described, ...] = ()
    outputs: tuple[Described, ...] = ()
    states: tuple[State, ...] = ()
    external_data: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    parameters: int = 0


def describe(file: Path, factory: str | None = None) -> Description:
    """Return what can be read of `file`; refuse what is no model file."""
    if not file.is_file():
        refuse(BuildReason.SOURCE_UNREADABLE, f"{file.name} is no file")
    match kind_of(file):
        case SourceKind.ONNX:
            return _describe_onnx(file)
        case SourceKind.EXPORTED_PROGRAM:
            return _describe_program(file)
        case SourceKind.TORCHSCRIPT:
            return _describe_script(file)
        case SourceKind.SKLEARN:
            return _describe_estimator(file)
        case SourceKind.STATE_DICT:
            return _describe_state_dict(file, factory)


def kind_of(file: Path) -> SourceKind:
    """Return the kind of a file by its ending, and of torch's archives by what is in them."""
    kind = BY_ENDING.get(file.suffix)
    if kind is not None:
        return kind
    if not zipfile.is_zipfile(file):
        refuse(BuildReason.SOURCE_UNREADABLE, f"{file.name} is no kind of model that Wherry knows")
    with zipfile.ZipFile(file) as archive:
        inner = {name.partition("/")[2] for name in archive.namelist()}
    if any(name.startswith("code/") for name in inner):
        return SourceKind.TORCHSCRIPT
    return SourceKind.EXPORTED_PROGRAM if "archive_format" in inner else SourceKind.STATE_DICT


def guess_states(inputs: Sequence[Described], outputs: Sequence[Described]) -> tuple[State, ...]:
    """Return the outputs that are an input by name, type and shape."""
    by_stem = {STATE_MARKS.sub("", tensor.name): tensor for tensor in inputs}
    by_stem.pop("", None)  # `input` and `output` are nothing but marks.
    pairs = ((tensor, by_stem.get(STATE_MARKS.sub("", tensor.name))) for tensor in outputs)
    return tuple(
        State(given.name, taken.name)
        for given, taken in pairs
        if taken is not None and _is_state(given, taken)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m wherry_controller.builder.describe")
    parser.add_argument("file", type=Path)
    parser.add_argument("--factory", help="net.py:make_net, beside the file")
    parser.add_argument("--scratch", type=Path, help="all that the process may write to")
    asked = parser.parse_args(arguments)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # What torch and a factory print is no answer.
    sys.dont_write_bytecode = True  # The folder stays as it is.
    try:
        with refusing(BuildReason.SOURCE_UNREADABLE, f"{asked.file.name} cannot be read"):
            if asked.scratch is not None:
                # The file may be a link to where downloads are kept.
                readable = [asked.file.absolute().parent, asked.file.resolve().parent]
                confine(readable=readable, writable=[asked.scratch])
            described = describe(asked.file, asked.factory)
    except BuildRefused as refusal:
        sys.stderr.write(f"{refusal}\n")
        return 1
    with answers:
        answers.write(codec.encode(described) + b"\n")
    return 0


def _describe_onnx(file: Path) -> Description:
    from wherry_controller.builder.sources.onnx_axes import free_inputs
    from wherry_controller.builder.sources.onnx_source import external_files, read_model

    model = read_model(file)
    inputs = tuple(_described(value) for value in free_inputs(model.graph))
    outputs = tuple(_described(value) for value in model.graph.outputs)
    states = guess_states(inputs, outputs)
    shapes = {tensor.name: tensor.shape for tensor in inputs}
    fed = {state.output: shapes[state.input] for state in states}
    return Description(
        SourceKind.ONNX,
        inputs=inputs,
        # Files seldom tell a state's output's shape, but it is that of its input.
        outputs=tuple(
            msgspec.structs.replace(tensor, shape=fed.get(tensor.name, tensor.shape))
            for tensor in outputs
        ),
        states=states,
        external_data=tuple(external_files(model)),
        labels=_labels(model.metadata_props),
    )


def _described(value: onnx_ir.Value) -> Described:
    from wherry_controller.builder.sources.onnx_axes import datatype_in, shape_of

    shape = shape_of(value)
    return Described(str(value.name), datatype_in(value), batch_first(shape), _batch_axis(shape))


def batch_first(shape: Sequence[int | str] | None) -> tuple[int | str, ...] | None:
    """Return the shape with its batch in front: axis 0 if it varies or is 1, or one that varies."""
    if not shape:
        return None if shape is None else ()
    batch = _batch_axis(shape)
    others = [
        f"axis_{index}" if axis == "?" or axis == BATCH else axis
        for index, axis in enumerate(shape)
        if index != batch
    ]
    return (BATCH, *others)


def _batch_axis(shape: Sequence[int | str] | None) -> int:
    varying = [index for index, axis in enumerate(shape or ()) if isinstance(axis, str)]
    return 0 if not shape or shape[0] == 1 or not varying else varying[0]


def _labels(properties: Mapping[str, str]) -> tuple[str, ...]:
    """Return the labels that tools write into a file's metadata, as JSON or as Python writes it."""
    text = next((properties[key] for key in LABEL_KEYS if key in properties), "")
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(found, dict) and all(isinstance(key, int) for key in found):
        found = [found[key] for key in sorted(found)]
    return tuple(map(str, found)) if isinstance(found, list | tuple) else ()


def _is_state(given: Described, taken: Described) -> bool:
    if given.datatype is not taken.datatype or not given.shape or not taken.shape:
        return False
    return len(given.shape) == len(taken.shape) and all(
        isinstance(one, str) or isinstance(other, str) or one == other
        for one, other in zip(given.shape, taken.shape, strict=True)
    )


def _describe_program(file: Path) -> Description:
    from wherry_controller.builder.sources.program import (
        input_tensors,
        output_tensors,
        read_program,
    )

    program = read_program(file)
    weights = (tensor.numel() for tensor in program.state_dict.values())
    return Description(
        SourceKind.EXPORTED_PROGRAM,
        inputs=tuple(_traced(name, value) for name, value in input_tensors(program).items()),
        outputs=tuple(_traced(name, value) for name, value in output_tensors(program).items()),
        parameters=sum(weights),
    )


def _traced(name: str, value: torch.Tensor) -> Described:
    axes = list(map(_traced_axis, value.shape))
    datatype = datatype_of(np.dtype(str(value.dtype).removeprefix("torch.")))
    return Described(name, datatype, batch_first(axes), _batch_axis(axes))


def _traced_axis(axis: object) -> int | str:
    """Return a length, or `?` for the tracer's own kind of number."""
    return axis if isinstance(axis, int) else "?"


def _describe_script(file: Path) -> Description:
    from wherry_controller.builder.sources.script import read_script

    script = read_script(file)
    taken = script.forward.schema.arguments[1:]  # type: ignore[attr-defined]
    return Description(
        SourceKind.TORCHSCRIPT,
        inputs=tuple(Described(argument.name) for argument in taken),
        parameters=sum(tensor.numel() for tensor in script.state_dict().values()),
    )


def _describe_state_dict(file: Path, factory: str | None) -> Description:
    inputs = () if factory is None else _factory_inputs(file.parent, factory)
    count = _count_safetensors(file) if file.suffix == ".safetensors" else _count_torch(file)
    return Description(SourceKind.STATE_DICT, inputs=inputs, parameters=count)


def _factory_inputs(folder: Path, factory: str) -> tuple[Described, ...]:
    make = load_function(folder, factory)
    with refusing(BuildReason.FACTORY_NOT_IMPORTABLE, f"{factory} raises"):
        forward = make().forward  # type: ignore[attr-defined]
    return tuple(Described(name) for name in inspect.signature(forward).parameters)


def _count_safetensors(file: Path) -> int:
    """Count by the header alone: its length in 8 bytes, then JSON."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > LARGEST_HEADER:
            refuse(BuildReason.SOURCE_UNREADABLE, f"{file.name} is no safetensors file")
        header = json.loads(opened.read(length))
    entries = (entry for name, entry in header.items() if name != "__metadata__")
    return sum(int(np.prod(entry["shape"], dtype=np.int64)) for entry in entries)


def _count_torch(file: Path) -> int:
    from wherry_controller.builder.sources.state_dict import read_state

    return sum(tensor.numel() for tensor in read_state(file).values())


def _describe_estimator(file: Path) -> Description:
    from wherry_controller.builder.sources.estimator import read_estimator

    estimator = read_estimator(file)
    columns = getattr(estimator, "n_features_in_", None)
    shape = (BATCH, int(columns)) if columns is not None else None
    classes = [str(name) for name in getattr(estimator, "classes_", ())]
    return Description(
        SourceKind.SKLEARN,
        inputs=(Described("features", Datatype.FP32, shape),),
        outputs=_estimator_outputs(estimator, len(classes)),
        labels=tuple(classes),
    )


def _estimator_outputs(estimator: object, classes: int) -> tuple[Described, ...]:
    if not classes:
        return (Described("variable", Datatype.FP32, (BATCH, 1)),)
    label = Described("label", Datatype.INT64, (BATCH,))
    if not hasattr(estimator, "predict_proba"):
        return (label,)
    return (Described("probabilities", Datatype.FP32, (BATCH, classes)), label)


if __name__ == "__main__":
    sys.exit(main())
