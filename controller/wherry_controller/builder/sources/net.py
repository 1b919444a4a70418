"""A torch net, however it was loaded: asked, exported and stored by the signature's names.

A net is called by position, in the signature's order; where the card names arguments or fixes
some of them, by keyword. Its answers are taken by position, or by name where it gives a mapping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from wherry.signature import Signature
from wherry_controller.builder.data.rows import Array, Tensors
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.builder.sources import base, operators
from wherry_controller.core import card as cards
from wherry_controller.core.fault import BuildReason

Arguments: TypeAlias = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class NetSource:
    """A net in eval mode that takes the signature's inputs by position."""

    net: nn.Module
    signature: Signature
    names: Mapping[str, str]

    def run(self, inputs: Tensors) -> Tensors:
        arrays = answers(self.net, self.signature, self.names, inputs)
        return base.checked(self.signature, arrays, base.rows_in(inputs))

    def to_onnx(self, opset: int, sample: Tensors, file: Path) -> None:
        given = arguments(self.signature, base.at_least_two(sample))
        net = self._giving_tuples(given)
        with operators.exporting("ONNX", lambda operator: layer_of(net, given, operator)):
            program = torch.onnx.export(
                net,
                given,
                dynamo=True,
                input_names=[tensor.name for tensor in self.signature.inputs],
                output_names=[tensor.name for tensor in self.signature.outputs],
                dynamic_shapes=_dynamic_shapes(self.signature, net),
                opset_version=opset,
                verbose=False,
            )
            if program is None:
                refuse(BuildReason.NOT_EXPORTABLE, "torch exported nothing")
            program.save(str(file))

    def to_lite(self, sample: Tensors, file: Path) -> None:
        base.refuse_named_axes(self.signature)
        given = arguments(self.signature, base.one_row(sample))
        convert_to_lite(self._giving_tuples(given), given, file)

    def to_safetensors(self, file: Path) -> None:
        save_tensors(self.net.state_dict(), file)

    def _giving_tuples(self, given: Arguments) -> nn.Module:
        """Return the net, wrapped where it gives a mapping, whose order says nothing."""
        what = "the net fails on rows of the data"
        with refusing(BuildReason.SIGNATURE_MISFIT, what), torch.inference_mode():
            is_mapping = isinstance(self.net(*given), Mapping)
        return InOrder(self.net, self.signature, self.names, None) if is_mapping else self.net


class InOrder(nn.Module):
    """A net called by keyword, with what the card fixes, that gives the signature's outputs.

    Without constants (None) it is called by position.
    """

    def __init__(
        self,
        net: nn.Module,
        signature: Signature,
        names: Mapping[str, str],
        constants: Mapping[str, cards.Constant] | None,
    ) -> None:
        super().__init__()
        self.net = net
        self.signature, self.names = signature, dict(names)
        self.fixed = None if constants is None else _fixed(constants)

    def forward(self, *tensors: torch.Tensor) -> Arguments:
        if self.fixed is None:
            return tuple(taken(self.net(*tensors), self.signature, self.names))
        keywords = {
            self.names.get(tensor.name, tensor.name): given
            for tensor, given in zip(self.signature.inputs, tensors, strict=True)
        }
        return tuple(taken(self.net(**keywords, **self.fixed), self.signature, self.names))


def in_terms(net: nn.Module, card: cards.Card) -> nn.Module:
    """Return the net as one that takes the signature's inputs by position."""
    source, named = card.source, {tensor.name for tensor in card.signature.inputs}
    if not source.constants and not named & set(source.names):
        return net
    return InOrder(net, card.signature, source.names, source.constants).eval()


def arguments(signature: Signature, inputs: Tensors) -> Arguments:
    """Return the net's positional arguments: the signature's inputs in order, as copies."""
    return tuple(torch.from_numpy(np.array(inputs[tensor.name])) for tensor in signature.inputs)


def answers(
    net: nn.Module, signature: Signature, names: Mapping[str, str], inputs: Tensors
) -> list[Array]:
    """Return what the net gives, in the signature's order."""
    with refusing(BuildReason.SIGNATURE_MISFIT, "the net fails on rows of the data"):
        with torch.inference_mode():
            given = net(*arguments(signature, inputs))
        return [tensor.numpy() for tensor in taken(given, signature, names)]


def taken(given: object, signature: Signature, names: Mapping[str, str]) -> list[torch.Tensor]:
    """Return the tensors among a net's answer: by name of a mapping, else by position."""
    if isinstance(given, Mapping):
        return [given[names.get(tensor.name, tensor.name)] for tensor in signature.outputs]
    return list(given) if isinstance(given, Sequence) else [_tensor(given)]


def convert_to_lite(net: nn.Module, given: Arguments, file: Path) -> None:
    """Write LiteRT of a net with the shapes of what is `given`."""
    with operators.exporting("LiteRT", lambda operator: layer_of(net, given, operator)):
        # The import takes seconds and an extra that only LiteRT profiles need.
        import litert_torch

        litert_torch.convert(net, given).export(str(file))


def layer_of(net: nn.Module, given: Arguments, operator: str) -> str:
    """Return the path of the first layer that uses an operator, empty where none is found."""
    # Only asked for when an export has failed; a net that cannot be traced at all has no layers.
    try:
        program = torch.export.export(net, given, strict=False)
    except Exception:  # noqa: BLE001 - the fault that is told is the one before this.
        return ""
    return operators.layer_in(program, operator)


def save_tensors(tensors: Mapping[str, object], file: Path) -> None:
    """Write those that are plain tensors; those that share their memory are written each."""
    plain = {
        name: value.detach().clone().contiguous()
        for name, value in tensors.items()
        if isinstance(value, torch.Tensor)
    }
    save_file(plain, str(file))


def _tensor(given: object) -> torch.Tensor:
    if not isinstance(given, torch.Tensor):
        refuse(BuildReason.SIGNATURE_MISFIT, f"the net gives a {type(given).__name__}")
    return given


def _fixed(constants: Mapping[str, cards.Constant]) -> dict[str, torch.Tensor | int | float]:
    return {
        name: torch.tensor(value) if isinstance(value, list) else value
        for name, value in constants.items()
    }


def _dynamic_shapes(signature: Signature, net: nn.Module) -> tuple[object, ...]:
    shapes = [base.varying_axes(tensor) for tensor in signature.inputs]
    axes = {name: torch.export.Dim(name) for shape in shapes for name in sorted(shape.values())}
    dims = tuple({index: axes[name] for index, name in shape.items()} for shape in shapes)
    return (dims,) if isinstance(net, InOrder) else dims
