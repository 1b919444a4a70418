"""How a variant can be made: recipes, and the rules that say which of them are worth a trial.

The rules know the graph and the profile. What they leave out was measured to be of no use: int8
with ranges found at each run is several times slower on convolutions; fp16 is slower than fp32 on
ARM processors; int4 gains only where most of the weights are those of matrix products.
"""

from __future__ import annotations

from enum import StrEnum
from itertools import product

import msgspec
from msgspec.structs import replace

from wherry.profile import CPU_PROVIDER, Activation, Arch, Precision, Profile, Runtime

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
PRODUCTS = frozenset({"MatMul", "Gemm"})
RECURRENT = frozenset({"LSTM"})  # Neither runtime quantizes another kind.

DYNAMIC_SHARE = 0.3  # Of the weights, in products and recurrent layers, for dynamic int8.
INT4_SHARE = 0.5


class Calibration(StrEnum):
    """How a static range is taken from what flowed through a tensor."""

    MIN_MAX = "min_max"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How one candidate is made from the float export.

    `kept_float` are operators by their names in the export. `max_ir` and `max_opset` bound an ONNX
    file. What does not matter to the precision has its default, so equal recipes are equal.
    """

    runtime: Runtime
    precision: Precision
    max_ir: int = 0
    max_opset: int = 0
    activation: Activation = Activation.S8
    per_channel: bool = True
    reduced_range: bool = False
    calibration: Calibration = Calibration.MIN_MAX
    kept_float: tuple[str, ...] = ()

    @property
    def is_quantized(self) -> bool:
        return self.precision not in (Precision.FP32, Precision.FP16)

    @property
    def is_calibrated(self) -> bool:
        return self.precision is Precision.INT8

    @property
    def name(self) -> str:
        """Return what people call it: its precision and what departs from the ordinary."""
        parts = [self.precision.value]
        if self.is_calibrated and self.runtime is Runtime.ONNXRUNTIME:
            parts.append(f"{self.activation.value}s8")
            if self.calibration is not Calibration.MIN_MAX:
                parts.append(self.calibration.value)
        if self.is_quantized and not self.per_channel:
            parts.append("per_tensor")
        if self.reduced_range:
            parts.append("reduced_range")
        if self.kept_float:
            parts.append(f"{len(self.kept_float)}_float")
        return "-".join(parts)


class Graph(msgspec.Struct, frozen=True):
    """What the rules know of a float export: operators counted, and bytes of weights by operator.

    `weights` names ONNX operators, whatever the export is for.
    """

    operators: dict[str, int]
    weights: dict[str, int]

    def share(self, kinds: frozenset[str]) -> float:
        """Return the share of the weights' bytes that stands in operators of those kinds."""
        total = sum(self.weights.values())
        return sum(self.weights.get(kind, 0) for kind in kinds) / total if total else 0.0


def baseline(profile: Profile) -> Recipe:
    """Return the float recipe, which every other one is compared with."""
    return _recipe(profile, Precision.FP32)


def candidates(profile: Profile, graph: Graph) -> tuple[Recipe, ...]:
    """Return the recipes that are worth a trial, the baseline first, each precision once."""
    wanted = [precision for precision in Precision if precision in profile.precisions]
    tried = [one for one in wanted if one is not Precision.FP32 and _is_of_use(one, profile, graph)]
    return (baseline(profile), *(_recipe(profile, precision) for precision in tried))


def improvements(recipe: Recipe) -> tuple[Recipe, ...]:
    """Return other ways to the same precision, for when this one misses the goal."""
    if not recipe.is_calibrated:
        return ()
    is_onnx = recipe.runtime is Runtime.ONNXRUNTIME
    ways = product((True, False), Calibration if is_onnx else (recipe.calibration,))
    every = (replace(recipe, per_channel=channel, calibration=how) for channel, how in ways)
    return tuple(other for other in every if other != recipe)


def steps_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the steps that stand in the manifest."""
    is_onnx = recipe.runtime is Runtime.ONNXRUNTIME
    export = (
        ("export onnx", f"ir<={recipe.max_ir}", f"opset<={recipe.max_opset}")
        if is_onnx
        else ("export litert", "static_batch=1")
    )
    kept = (f"{len(recipe.kept_float)} operators in float",) if recipe.kept_float else ()
    return (*export, recipe.name, *kept)


def _recipe(profile: Profile, precision: Precision) -> Recipe:
    is_onnx = profile.runtime is Runtime.ONNXRUNTIME
    is_dynamic = precision is Precision.INT8_DYNAMIC
    is_static = precision is Precision.INT8
    is_integer = precision in (Precision.INT8, Precision.INT8_DYNAMIC)
    return Recipe(
        runtime=profile.runtime,
        precision=precision,
        max_ir=profile.max_ir if is_onnx else 0,
        max_opset=profile.max_opset if is_onnx else 0,
        # tflite-runtime misreads weights with a scale a channel and ranges found at each run.
        per_channel=not (profile.runtime is Runtime.TFLITE and is_dynamic),
        activation=profile.activation if is_onnx and is_static else Activation.S8,
        reduced_range=profile.reduced_range and is_onnx and is_integer,
    )


def _is_of_use(precision: Precision, profile: Profile, graph: Graph) -> bool:
    is_onnx = profile.runtime is Runtime.ONNXRUNTIME
    match precision:
        case Precision.FP32:
            return True
        case Precision.FP16:
            # LiteRT stores fp16 and computes in fp32; onnxruntime casts to and fro on ARM.
            on_cpu = profile.provider == CPU_PROVIDER
            return not (is_onnx and on_cpu) or profile.arch is Arch.X86_64
        case Precision.INT8:
            return graph.share(CONVOLUTIONS | PRODUCTS) > 0 or not is_onnx
        case Precision.INT8_DYNAMIC:
            return graph.share(PRODUCTS | RECURRENT) >= DYNAMIC_SHARE
        case Precision.INT8_WEIGHTS:
            return not is_onnx  # onnxruntime unpacks such weights when it loads them.
        case Precision.INT4:
            return is_onnx and graph.share(PRODUCTS) > INT4_SHARE
