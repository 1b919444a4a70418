"""TorchScript: a compiled net, read without running code of the user's.

What it computes goes to ONNX by tracing, which knows no attention; a net that keeps a state of its
own between calls answers the same rows in two ways, and no device could follow it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wherry.signature import Signature
from wherry_controller.builder.data.rows import Tensors
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.builder.sources import base, net, operators
from wherry_controller.core.card import Card
from wherry_controller.core.fault import BuildReason

HIGHEST_OPSET = 20  # Of the exporter that traces.


@dataclass(frozen=True, slots=True)
class ScriptSource:
    """`script` as it was read, and `net` that takes the signature's inputs by position."""

    script: torch.jit.ScriptModule
    net: nn.Module
    card: Card

    @property
    def signature(self) -> Signature:
        return self.card.signature

    def run(self, inputs: Tensors) -> Tensors:
        arrays = net.answers(self.net, self.signature, self.card.source.names, inputs)
        return base.checked(self.signature, arrays, base.rows_in(inputs))

    def to_onnx(self, opset: int, sample: Tensors, file: Path) -> None:
        self._refuse_memory(sample)
        tensors = (*self.signature.inputs, *self.signature.outputs)
        with operators.exporting("ONNX", self._layer_of):
            torch.onnx.export(
                self._traceable(sample),
                net.arguments(self.signature, base.at_least_two(sample)),
                str(file),
                dynamo=False,
                input_names=[tensor.name for tensor in self.signature.inputs],
                output_names=[tensor.name for tensor in self.signature.outputs],
                dynamic_axes={tensor.name: base.varying_axes(tensor) for tensor in tensors},
                opset_version=min(opset, HIGHEST_OPSET),
            )

    def to_lite(self, sample: Tensors, file: Path) -> None:
        base.refuse_named_axes(self.signature)
        self._refuse_memory(sample)
        given = net.arguments(self.signature, base.one_row(sample))
        with operators.exporting("LiteRT", self._layer_of):
            # Torch's own way from TorchScript to a graph that litert-torch takes.
            from torch._export.converter import TS2EPConverter

            converter = TS2EPConverter(self._traceable(sample), given)
            traced = converter.convert().module()
        net.convert_to_lite(traced, given, file)

    def to_safetensors(self, file: Path) -> None:
        net.save_tensors(self.script.state_dict(), file)

    def _traceable(self, sample: Tensors) -> torch.jit.ScriptModule:
        """Return the script, or a trace of it where the card fixes some of its arguments."""
        if self.net is self.script:
            return self.script
        given = net.arguments(self.signature, base.at_least_two(sample))
        traced = torch.jit.trace(self.net, given)  # type: ignore[no-untyped-call]
        assert isinstance(traced, torch.jit.ScriptModule)
        return traced

    def _refuse_memory(self, sample: Tensors) -> None:
        first, second = self.run(sample), self.run(sample)
        if not all(np.array_equal(first[name], second[name], equal_nan=True) for name in first):
            problem = (
                "the net keeps a state between calls and answers the same rows differently; "
                "give one that takes its state as an input and gives it back"
            )
            refuse(BuildReason.SIGNATURE_MISFIT, problem)

    def _layer_of(self, operator: str) -> str:
        """Return the scope that uses an operator, as the tracer wrote it."""
        graph = self.script.inlined_graph  # Its nodes live no longer than it.
        scopes = [str(node.scopeName()) for node in graph.findAllNodes(operator)]  # type: ignore[attr-defined]
        return next((scope.rpartition("::")[2] for scope in scopes if scope), "")


def open_script(card: Card, folder: Path) -> ScriptSource:
    """Return the net in the card's TorchScript file; refuse one that was quantized."""
    name = card.source.file
    script = read_script(folder / name)
    if "quantized::" in str(script.inlined_graph):
        refuse(BuildReason.ALREADY_QUANTIZED, f"{name} computes with quantized layers")
    return ScriptSource(script, net.in_terms(script, card), card)


def read_script(file: Path) -> torch.jit.ScriptModule:
    with refusing(BuildReason.SOURCE_UNREADABLE, f"{file.name} cannot be read"), base.quiet():
        script = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]
        assert isinstance(script, torch.jit.ScriptModule)
        return script.eval()
