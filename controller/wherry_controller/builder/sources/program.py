"""An exported program (`.pt2`): a traced graph with its weights, and no code of the user's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import onnx_ir
import torch
from torch import nn
from torch.export import ExportedProgram

from wherry.signature import Signature
from wherry_controller.builder.data.rows import Tensors
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.builder.sources import base, net, operators
from wherry_controller.core.card import Card
from wherry_controller.core.fault import BuildReason

FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
QUANTIZED = ("quantized", "quantized_decomposed", "torchao")


@dataclass(frozen=True, slots=True)
class ProgramSource:
    """A program, and the module that runs it; `static_batch` where it was traced for one."""

    program: ExportedProgram
    module: nn.Module
    card: Card
    static_batch: int | None

    @property
    def signature(self) -> Signature:
        return self.card.signature

    def run(self, inputs: Tensors) -> Tensors:
        rows = base.rows_in(inputs)
        ask = lambda part: net.answers(self.module, self.signature, self.card.source.names, part)
        arrays = base.in_batches(ask, inputs, self.static_batch or rows)
        return base.checked(self.signature, arrays, rows)

    def to_onnx(self, opset: int, sample: Tensors, file: Path) -> None:
        with operators.exporting("ONNX", lambda name: operators.layer_in(self.program, name)):
            exported = torch.onnx.export(
                self.program,
                dynamo=True,
                input_names=[tensor.name for tensor in self.signature.inputs],
                output_names=self._output_names(),
                opset_version=opset,
                verbose=False,
            )
            if exported is None:
                refuse(BuildReason.NOT_EXPORTABLE, "torch exported nothing")
            _order_outputs(exported.model, self.signature)
            _name_axes(exported.model, self.signature)
            exported.save(str(file))

    def to_lite(self, sample: Tensors, file: Path) -> None:
        base.refuse_named_axes(self.signature)
        if self.static_batch not in (None, 1):
            problem = f"LiteRT takes one row and the program {self.static_batch} at a time"
            refuse(BuildReason.DYNAMIC_SHAPE, problem)
        net.NetSource(self.module, self.signature, self.card.source.names).to_lite(sample, file)

    def to_safetensors(self, file: Path) -> None:
        net.save_tensors(self.program.state_dict, file)

    def _output_names(self) -> list[str]:
        """Return the signature's names in the order in which the program gives its tensors."""
        spec = self.program.call_spec.out_spec
        if spec is None or not issubclass(spec.type or tuple, dict):
            return [tensor.name for tensor in self.signature.outputs]
        names = self.card.source.names
        ours = {
            names.get(tensor.name, tensor.name): tensor.name for tensor in self.signature.outputs
        }
        return [ours.get(key, key) for key in spec.context]


def open_program(card: Card, folder: Path) -> ProgramSource:
    """Return the program in the card's file; refuse one that was quantized."""
    name = card.source.file
    with refusing(BuildReason.SOURCE_UNREADABLE, f"{name} cannot be read"), base.quiet():
        program = read_program(folder / name)
        module = program.module()
    _refuse_quantized(name, program)
    wanted, given = len(card.signature.inputs), program.graph_signature.user_inputs
    if len(given) != wanted:
        problem = f"{name} takes {len(given)} inputs, the signature {wanted}"
        refuse(BuildReason.SIGNATURE_MISFIT, problem)
    return ProgramSource(program, module, card, _static_batch(program))


def read_program(file: Path) -> ExportedProgram:
    """Return the program in `file`, of which nothing can run while it is read.

    Where an entry is no plain tensor, torch would read it as a pickle; the variable forbids it.
    """
    before = os.environ.get(FORCED)
    os.environ[FORCED] = "1"
    try:
        return torch.export.load(file)
    except UnpicklingError:  # Torch's own words advise to trust the file.
        refuse(BuildReason.SOURCE_UNREADABLE, f"{file.name} is a pickle of more than tensors")
    finally:
        del os.environ[FORCED]
        if before is not None:
            os.environ[FORCED] = before


def input_tensors(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """Return what the program was traced with, by name: shapes and types, and no values."""
    return _traced(program, program.graph_signature.user_inputs)


def output_tensors(program: ExportedProgram) -> dict[str, torch.Tensor]:
    return _traced(program, program.graph_signature.user_outputs)


def _traced(program: ExportedProgram, names: Sequence[object]) -> dict[str, torch.Tensor]:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    found = ((str(name), values.get(str(name))) for name in names)
    return {name: value for name, value in found if isinstance(value, torch.Tensor)}


def _static_batch(program: ExportedProgram) -> int | None:
    given = input_tensors(program).values()
    first: list[object] = [value.shape[0] for value in given if len(value.shape)]
    return next((axis for axis in first if isinstance(axis, int)), None)


def _refuse_quantized(name: str, program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        if node.op == "call_function" and str(node.target).split(".")[0] in QUANTIZED:
            refuse(BuildReason.ALREADY_QUANTIZED, f"{name} computes {node.target}")


def _order_outputs(model: onnx_ir.Model, signature: Signature) -> None:
    """Put the outputs into the signature's order, without those that it does not name."""
    given = {value.name: value for value in model.graph.outputs}
    model.graph.outputs[:] = [given[tensor.name] for tensor in signature.outputs]


def _name_axes(model: onnx_ir.Model, signature: Signature) -> None:
    """Give axes that vary the signature's names in place of the tracer's, like `s77`."""
    names = {}
    for value, tensor in zip(model.graph.inputs, signature.inputs, strict=True):
        for index, axis in base.varying_axes(tensor).items():
            assert value.shape is not None
            traced = value.shape[index]
            if isinstance(traced, onnx_ir.SymbolicDim):
                names[traced.value] = axis
    for value in (*model.graph.inputs, *model.graph.outputs, *_inner(model)):
        _rename_axes(value, names)


def _inner(model: onnx_ir.Model) -> list[onnx_ir.Value]:
    return [value for node in model.graph for value in node.outputs]


def _rename_axes(value: onnx_ir.Value, names: dict[str | None, str]) -> None:
    if value.shape is None:
        return
    axes = [axis.value if isinstance(axis, onnx_ir.SymbolicDim) else axis for axis in value.shape]
    renamed = [names.get(axis, axis) if isinstance(axis, str) else axis for axis in axes]
    value.shape = onnx_ir.Shape(renamed)
