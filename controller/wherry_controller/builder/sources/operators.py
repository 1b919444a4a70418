"""Operators that a converter does not know, found in what it raised and named with their layer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath

from torch.export import ExportedProgram

from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.builder.sources.base import quiet
from wherry_controller.core.fault import BuildReason, BuildRefused

# Each converter says it in its own words; the group is the operator.
UNKNOWN = (
    re.compile(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'"),
    re.compile(r"Exporting the operator '([\w:]+)' to ONNX"),
    re.compile(r"Lowering not found: ([\w.]+)"),
    re.compile(r"failed to legalize operation '([\w.]+)'"),
)

LINE = re.compile(r'File "([^"]+)", line (\d+), in (\w+)')


@contextmanager
def exporting(form: str, layer_of: Callable[[str], str]) -> Iterator[None]:
    """Refuse whatever the body raises; an operator without an equal in `form` by its name.

    What converters print goes to stderr.
    """
    try:
        with quiet(), refusing(BuildReason.NOT_EXPORTABLE, f"the net does not convert to {form}"):
            yield
    except BuildRefused as refusal:
        operator = unknown_in(refusal)
        if operator is None:
            place = place_in(refusal)
            if place:
                refuse(BuildReason.NOT_EXPORTABLE, f"{refusal.fault.problem} at {place}")
            raise
        with quiet():
            layer = layer_of(operator)
        where = f" of the layer {layer!r}" if layer else ""
        problem = f"{form} has nothing for the operator {operator}{where}"
        refuse(BuildReason.UNSUPPORTED_OPERATOR, problem)


def unknown_in(error: BaseException) -> str | None:
    """Return the operator that an error, or one that caused it, says to be unknown."""
    cause: BaseException | None = error
    while cause is not None:
        for pattern in UNKNOWN:
            found = pattern.search(str(cause))
            if found:
                return found.group(1)
        cause = cause.__cause__ or cause.__context__
    return None


def place_in(error: BaseException) -> str | None:
    """Return the line of the net's own code that an error, or one that caused it, names last."""
    cause: BaseException | None = error
    found = None
    while cause is not None:
        for file, line, function in LINE.findall(str(cause)):
            if "site-packages" not in file:
                found = f"{PurePath(file).name}, line {line}, in {function}"
        cause = cause.__cause__ or cause.__context__
    return found


def layer_in(program: ExportedProgram, operator: str) -> str:
    """Return the path of the first layer with that operator, which may have lost a prefix.

    Converters name what an operator is made of, so its parts are looked for where it is not there.
    """
    return _layer_with(program, operator) or _layer_with(program.run_decompositions(), operator)


def _layer_with(program: ExportedProgram, operator: str) -> str:
    name = _bare(operator)
    for node in program.graph.nodes:
        if node.op == "call_function" and _bare(str(node.target)).endswith(name):
            stack = node.meta.get("nn_module_stack", {})
            paths = [path for path, _ in stack.values() if path]
            return str(paths[-1]) if paths else ""
    return ""


def _bare(operator: str) -> str:
    """Return `conv2d` of `aten.conv2d.default`, of `aten::conv2d` and of `prims.conv2d`."""
    parts = operator.replace("::", ".").split(".")
    return parts[1] if len(parts) > 1 else parts[0]
