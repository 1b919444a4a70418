"""A net exported in float, once for all profiles that can share it.

An export is trusted only after its runtime gave the net's own outputs for real rows: exporters
report success for what they got wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from wherry.manifest import Binding
from wherry.profile import Profile, Runtime
from wherry.signature import BATCH, Signature, Tensor
from wherry_controller.builder import onnx_file
from wherry_controller.builder.agreement import refuse_astray
from wherry_controller.builder.data import Rows, Tensors, datatype_of
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.builder.runtimes import LiteTensor, lite_tensors
from wherry_controller.builder.sources import arguments
from wherry_controller.builder.variant import Variant, load
from wherry_controller.core.recipe import BuildReason

EXPORT_OPSET = 20
SAMPLE_ROWS = 2  # With one row torch.export takes the batch for a constant.
PARITY_ROWS = 16
LITE_STATIC_BATCH = 1


@dataclass(slots=True)
class FloatExports:
    """The net's float exports, made when first asked for and kept in `folder`.

    `reference` holds the net's own outputs for all `rows`.
    """

    net: nn.Module
    signature: Signature
    rows: Rows
    reference: Tensors
    folder: Path
    _made: dict[str, Path] = field(default_factory=dict)

    def variant(self, profile: Profile) -> Variant:
        """Return the fp32 variant for the profile, checked against the net."""
        if profile.runtime is Runtime.ONNXRUNTIME:
            return self._checked(self._onnx(profile), profile)
        return self._checked(self._lite(), profile)

    def _onnx(self, profile: Profile) -> Variant:
        opset = min(profile.max_opset, EXPORT_OPSET)
        key = f"opset{opset}"
        if key not in self._made:
            self._made[key] = self._export_onnx(opset, self.folder / f"{key}.onnx")
        file = self.folder / f"{profile.name}.fp32.onnx"
        onnx_file.finish(onnx.load(self._made[key]), profile, file)
        return onnx_variant(file, self.signature)

    def _lite(self) -> Variant:
        if "lite" not in self._made:
            self._made["lite"] = self._export_lite(self.folder / "fp32.tflite")
        return lite_variant(self._made["lite"], self.signature)

    def _export_onnx(self, opset: int, file: Path) -> Path:
        with refusing(BuildReason.NOT_EXPORTABLE, "the net cannot be exported to ONNX"):
            program = torch.onnx.export(
                self.net,
                arguments(self.signature, self._sample(SAMPLE_ROWS)),
                dynamo=True,
                input_names=[tensor.name for tensor in self.signature.inputs],
                output_names=[tensor.name for tensor in self.signature.outputs],
                dynamic_shapes=_dynamic_shapes(self.signature),
                opset_version=opset,
                verbose=False,
            )
            if program is None:
                refuse(BuildReason.NOT_EXPORTABLE, "torch exported nothing")
            program.save(str(file))
        return file

    def _export_lite(self, file: Path) -> Path:
        _refuse_named_axes(self.signature)
        with refusing(BuildReason.NOT_EXPORTABLE, "the net cannot be converted to LiteRT"):
            # The import takes seconds and an extra that only LiteRT profiles need.
            import litert_torch

            sample = arguments(self.signature, self._sample(LITE_STATIC_BATCH))
            litert_torch.convert(self.net, sample).export(str(file))
        return file

    def _sample(self, rows: int) -> Tensors:
        return self.rows.part(np.arange(rows) % len(self.rows))

    def _checked(self, variant: Variant, profile: Profile) -> Variant:
        with refusing(BuildReason.NOT_EXPORTABLE, f"{profile.runtime.value} cannot run the export"):
            given = load(variant, profile)(self.rows.part(slice(0, PARITY_ROWS)))
        refuse_astray(given, self.reference)
        return variant


def argument(index: int) -> str:
    """Return litert-torch's name for the net's positional argument."""
    return f"args_{index}"


def result(index: int) -> str:
    """Return litert-torch's name for one of the net's results."""
    return f"output_{index}"


def onnx_variant(file: Path, signature: Signature) -> Variant:
    """Return an ONNX model whose tensors are named and typed as the signature's."""
    return Variant(
        file, signature, _same(signature.inputs), _same(signature.outputs), static_batch=None
    )


def lite_variant(file: Path, signature: Signature) -> Variant:
    """Return a LiteRT model with the scales that stand in it.

    litert-torch numbers the net's arguments and results in order; their tensors have other names.
    """
    inputs, outputs = lite_tensors(file)
    return Variant(
        file,
        signature,
        _bound(signature.inputs, inputs, argument),
        _bound(signature.outputs, outputs, result),
        LITE_STATIC_BATCH,
    )


def _same(tensors: tuple[Tensor, ...]) -> tuple[Binding, ...]:
    return tuple(
        Binding(name=tensor.name, runtime_name=tensor.name, datatype=tensor.datatype)
        for tensor in tensors
    )


def _bound(
    tensors: tuple[Tensor, ...], found: list[LiteTensor], named: Callable[[int], str]
) -> tuple[Binding, ...]:
    by_argument = {tensor.argument: tensor for tensor in found}
    ordered = [by_argument.get(named(index)) for index in range(len(tensors))]
    return tuple(_bind(*pair) for pair in zip(tensors, ordered, strict=True))


def _bind(tensor: Tensor, found: LiteTensor | None) -> Binding:
    datatype = datatype_of(found.dtype) if found is not None else None
    if found is None or datatype is None:
        refuse(BuildReason.NOT_EXPORTABLE, f"the LiteRT model has nothing for {tensor.name!r}")
    return Binding(
        name=tensor.name,
        runtime_name=found.name,
        datatype=datatype,
        scale=float(found.scale) or None,
        zero_point=int(found.zero_point),
    )


def _dynamic_shapes(signature: Signature) -> tuple[dict[int, torch.export.Dim], ...]:
    names = {axis for tensor in signature.inputs for axis in tensor.shape if isinstance(axis, str)}
    axes = {name: torch.export.Dim(name) for name in sorted(names)}
    return tuple(
        {index: axes[axis] for index, axis in enumerate(tensor.shape) if isinstance(axis, str)}
        for tensor in signature.inputs
    )


def _refuse_named_axes(signature: Signature) -> None:
    for tensor in (*signature.inputs, *signature.outputs):
        for axis in tensor.shape[1:]:
            if isinstance(axis, str) and axis != BATCH:
                problem = f"LiteRT takes fixed shapes and {tensor.name!r} has the axis {axis!r}"
                refuse(BuildReason.NO_RECIPE, problem)
