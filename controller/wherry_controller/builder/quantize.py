"""Float variants made int8 with real calibration data, each pass checked for having done it.

A pass that changes nothing reports success: a recurrent net goes through static quantization
unchanged. So the size of the file and its operators are looked at after each.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from wherry.profile import Activation, Profile, Runtime
from wherry_controller.builder import onnx_file
from wherry_controller.builder.data import Array, Rows, Tensors
from wherry_controller.builder.export import argument, lite_variant, onnx_variant
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.builder.variant import Variant, inward
from wherry_controller.core.recipe import BuildReason, Recipe

LARGEST_SHARE = 0.9  # An int8 file that is not clearly smaller has not been quantized.
ACTIVATIONS = {Activation.S8: QuantType.QInt8, Activation.U8: QuantType.QUInt8}


def quantize(
    float_variant: Variant, recipe: Recipe, profile: Profile, calibration: Rows
) -> Variant:
    """Return the int8 variant that the recipe makes; refuse a pass that changes nothing."""
    if recipe.runtime is Runtime.ONNXRUNTIME:
        return _quantize_onnx(float_variant, recipe, profile, calibration)
    return _quantize_lite(float_variant, profile, calibration)


class _Reader:
    """Calibration rows one after the other, as onnxruntime asks for them."""

    def __init__(self, rows: Iterator[Tensors]) -> None:
        self._rows = rows

    def get_next(self) -> dict[str, Array] | None:
        row = next(self._rows, None)
        return None if row is None else dict(row)


def _rows(variant: Variant, names: list[str], calibration: Rows) -> Iterator[Tensors]:
    """Yield row by row what the float model takes, by the names that its quantizer knows."""
    for index in range(len(calibration)):
        row = calibration.part(slice(index, index + 1))
        yield {
            name: inward(binding, row[binding.name])
            for name, binding in zip(names, variant.inputs, strict=True)
        }


def _quantize_onnx(
    float_variant: Variant, recipe: Recipe, profile: Profile, calibration: Rows
) -> Variant:
    prepared, raw, file = (
        float_variant.file.with_name(f"{profile.name}.{step}.onnx")
        for step in ("prepared", "raw", "int8")
    )
    names = [binding.runtime_name for binding in float_variant.inputs]
    with refusing(BuildReason.NO_RECIPE, "onnxruntime cannot quantize the net"):
        quant_pre_process(str(float_variant.file), str(prepared), auto_merge=True)
        quantize_static(
            str(prepared),
            str(raw),
            _Reader(_rows(float_variant, names, calibration)),
            quant_format=QuantFormat.QDQ,
            per_channel=recipe.per_channel,
            reduce_range=recipe.reduced_range,
            activation_type=ACTIVATIONS[recipe.activation],
            weight_type=QuantType.QInt8,
        )
    onnx_file.finish(onnx.load(raw), profile, file)
    if not onnx_file.operators(file)["QuantizeLinear"]:
        refuse(BuildReason.PASS_CHANGED_NOTHING, "static quantization left every operator in float")
    _refuse_as_large(float_variant.file, file)
    return onnx_variant(file, float_variant.signature)


def _quantize_lite(float_variant: Variant, profile: Profile, calibration: Rows) -> Variant:
    # An extra that only LiteRT profiles need.
    from ai_edge_quantizer import quantizer, recipe
    from ai_edge_quantizer.utils.tfl_interpreter_utils import create_tfl_interpreter

    file = float_variant.file.with_name(f"{profile.name}.int8.tflite")
    with refusing(BuildReason.NO_RECIPE, "ai-edge-quantizer cannot quantize the net"):
        worker = quantizer.Quantizer(str(float_variant.file), recipe.static_wi8_ai8())
        (name,) = create_tfl_interpreter(str(float_variant.file)).get_signature_list()
        names = [argument(index) for index in range(len(float_variant.inputs))]
        rows = list(_rows(float_variant, names, calibration))
        observed = worker.calibrate({name: rows}, num_threads=1)
        result = worker.quantize(observed, enable_progress_report=False)
        file.write_bytes(result.quantized_model)
    variant = lite_variant(file, float_variant.signature)
    if all(binding.scale is None for binding in (*variant.inputs, *variant.outputs)):
        refuse(BuildReason.PASS_CHANGED_NOTHING, "static quantization left the edges in float")
    _refuse_as_large(float_variant.file, file)
    return variant


def _refuse_as_large(before: Path, after: Path) -> None:
    was, now = before.stat().st_size, after.stat().st_size
    if now > LARGEST_SHARE * was:
        problem = f"quantization left {now} of {was} bytes"
        refuse(BuildReason.PASS_CHANGED_NOTHING, problem)
