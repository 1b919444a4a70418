"""Which operators of a LiteRT file a recipe quantizes, said in the quantizer's own terms.

The quantizer knows an operator by a regular expression on the names of its outputs. Its sides, the
tensors that an application gives and takes, are operators too, and the last operator shares its
scope with them; so each entry names the kind as well.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable

from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.qtyping import QuantGranularity, TFLOperationName
from ai_edge_quantizer.recipe_manager import RecipeManager

from wherry.profile import Precision, Runtime
from wherry_controller.builder.faults import refuse
from wherry_controller.builder.passes.litert_graph import LiteGraph, Step, units
from wherry_controller.core.fault import BuildReason
from wherry_controller.core.recipe import Calibration, Recipe

EVERY = TFLOperationName.ALL_SUPPORTED
ALL_SCOPES = ".*"
# Both runtimes misread a convolution's weights that have one scale, where ranges are found at each
# run: a net that was right in 97 of 100 rows is so in 18.
DENSE = TFLOperationName.FULLY_CONNECTED
TABLE = TFLOperationName.EMBEDDING_LOOKUP


def plan(graph: LiteGraph, recipe: Recipe, unbounded: Collection[int] = ()) -> RecipeManager:
    """Return what the quantizer is to do; operators at an `unbounded` tensor stay in float."""
    manager = _whole(recipe)
    kept = {step.index for step in _named(graph, recipe.kept_float)}
    kept |= {step.index for step in graph.steps if not _touched(step).isdisjoint(unbounded)}
    if recipe.is_calibrated and kept:
        kept |= {step.index for step in graph.steps if not _takes(manager, step, recipe)}
        kept = _with_movers(graph, kept)
        _free_the_sides(manager, graph, kept)
    _keep(manager, [graph.steps[index] for index in sorted(kept)])
    return manager


def quantized_units(graph: LiteGraph, recipe: Recipe) -> dict[str, tuple[Step, ...]]:
    """Return the units in which the recipe quantizes anything but moves of values."""
    manager = _whole(recipe)
    return {
        name: steps
        for name, steps in units(graph).items()
        if any(_takes(manager, step, recipe) and not step.is_mover for step in steps)
    }


def _whole(recipe: Recipe) -> RecipeManager:
    manager = RecipeManager()
    grain = QuantGranularity.CHANNELWISE if recipe.per_channel else QuantGranularity.TENSORWISE
    match recipe.precision:
        case Precision.FP16:
            manager.add_weight_only_config(
                ALL_SCOPES, EVERY, num_bits=16, algorithm_key=AlgorithmName.FLOAT_CASTING
            )
        case Precision.INT8_WEIGHTS:
            manager.add_weight_only_config(ALL_SCOPES, EVERY, num_bits=8, granularity=grain)
        case Precision.INT8_DYNAMIC if recipe.per_channel:
            _refuse_misread(recipe)
            manager.add_dynamic_config(ALL_SCOPES, EVERY, num_bits=8, granularity=grain)
        case Precision.INT8_DYNAMIC:
            manager.add_dynamic_config(ALL_SCOPES, DENSE, num_bits=8, granularity=grain)
            _add_tables(manager, recipe)
        case Precision.INT8 if recipe.calibration is Calibration.MIN_MAX:
            manager.add_static_config(ALL_SCOPES, EVERY, 8, 8, weight_granularity=grain)
            _add_tables(manager, recipe)
        case _:
            refuse(BuildReason.NO_RECIPE, f"no LiteRT pass makes {recipe.name!r}")
    return manager


def _add_tables(manager: RecipeManager, recipe: Recipe) -> None:
    """Store tables of words in int8, whose rows are unpacked as they are looked up.

    They have no static form. tflite-runtime reads one scale a table, whatever stands in the file.
    """
    is_fine = recipe.per_channel and recipe.runtime is not Runtime.TFLITE
    grain = QuantGranularity.CHANNELWISE if is_fine else QuantGranularity.TENSORWISE
    manager.add_dynamic_config(ALL_SCOPES, TABLE, num_bits=8, granularity=grain)


def _refuse_misread(recipe: Recipe) -> None:
    """Refuse what tflite-runtime 2.14, its last release, runs without an error and gets wrong."""
    if recipe.runtime is Runtime.TFLITE:
        problem = "tflite-runtime answers at chance level where dynamic int8 has a scale a channel"
        refuse(BuildReason.NO_RECIPE, problem)


def _takes(manager: RecipeManager, step: Step, recipe: Recipe) -> bool:
    """Say whether the quantizer would take the operator, without any exception for it."""
    if step.known is None or not (recipe.is_calibrated or step.weights):
        return False
    algorithm, _ = manager.get_quantization_configs(step.known, step.scope)
    return bool(algorithm != AlgorithmName.NO_QUANTIZE)


def _named(graph: LiteGraph, names: tuple[str, ...]) -> Iterable[Step]:
    known = units(graph) if names else {}
    unknown = [name for name in names if name not in known]
    if unknown:
        refuse(BuildReason.NO_RECIPE, f"the export has no operator {unknown[0]!r} to keep in float")
    return [step for name in names for step in known[name]]


def _touched(step: Step) -> set[int]:
    return {*step.reads, *step.writes}


def _with_movers(graph: LiteGraph, kept: set[int]) -> set[int]:
    """Add the movers between operators in float: in int8 they would round what flows there."""
    makers = {tensor: step.index for step in graph.steps for tensor in step.writes}
    users = defaultdict(set)
    for step in graph.steps:
        for tensor in step.reads:
            users[tensor].add(step.index)
    after = set(kept)
    for step in graph.steps:
        if step.is_mover and all(
            makers.get(one, step.index) in after or one in graph.inputs for one in step.reads
        ):
            after.add(step.index)
    for step in reversed(graph.steps):
        if step.index in after - kept and not all(users[one] <= after for one in step.writes):
            after.remove(step.index)
    return after


def _free_the_sides(manager: RecipeManager, graph: LiteGraph, kept: set[int]) -> None:
    """Leave in float what an application gives to such operators only, and what they answer."""
    takers = {step.index for step in graph.steps if not set(step.reads).isdisjoint(graph.inputs)}
    if takers and takers <= kept:
        _exempt(manager, ALL_SCOPES, TFLOperationName.INPUT)
    givers = {step.index for step in graph.steps if not set(step.writes).isdisjoint(graph.outputs)}
    if givers & kept:
        _exempt(manager, ALL_SCOPES, TFLOperationName.OUTPUT)


def _keep(manager: RecipeManager, steps: list[Step]) -> None:
    """Exempt the operators, with one expression a kind: many expressions cost seconds."""
    scopes = defaultdict(list)
    for step in steps:
        if step.known is not None:
            scopes[step.known].append(re.escape(step.scope))
    for kind, escaped in scopes.items():
        _exempt(manager, rf"\A(?:{'|'.join(escaped)})\Z", kind)


def _exempt(manager: RecipeManager, scope: str, kind: TFLOperationName) -> None:
    manager.add_quantization_config(scope, kind, algorithm_key=AlgorithmName.NO_QUANTIZE)
