"""What can be made of a version for one profile: each candidate made, run and scored.

    float export --> baseline --> each recipe of the rules: make, load, score
                                    misses the goal: other ways to its precision, then
                                    rank operators, return the worst to float until it holds

Decisions look at the `search` rows only. A candidate that is good on them is scored once on the
`final` rows, and that score decides nothing but whether it may be shipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace

from wherry import codec
from wherry.files import write_whole
from wherry.names import Digest
from wherry.profile import Precision, Profile, is_release_of
from wherry_controller.builder.cache import digest_of_file, struct_facts
from wherry_controller.builder.data.read import FINAL, SEARCH
from wherry_controller.builder.data.rows import Tensors, open_rows, write_rows
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.builder.jobs import Say, tell
from wherry_controller.builder.judging import metrics
from wherry_controller.builder.judging.outputs import output_error_of, refuse_not_finite
from wherry_controller.builder.passes.base import Operator
from wherry_controller.builder.running.place import places_of
from wherry_controller.builder.running.runners import Runners
from wherry_controller.builder.running.server import RunFailed
from wherry_controller.builder.stages import Explored, Task
from wherry_controller.builder.variant import Variant
from wherry_controller.builder.workshop import (
    Workshop,
    fault_of,
    file_of,
    open_workshop,
    ranges_of,
    scratch,
    variant_of,
)
from wherry_controller.core.build import BuildStep
from wherry_controller.core.card import SourceKind
from wherry_controller.core.choice import (
    RUINED,
    Candidate,
    Goals,
    Score,
    Sensitivity,
    judge_score,
    next_kept,
)
from wherry_controller.core.fault import BuildReason, BuildRefused
from wherry_controller.core.recipe import Recipe, baseline, candidates, improvements

PARITY = 1e-4  # Of the outputs' spread; exports of five kinds of nets were within 4e-6.
# Trees jump where a rounding crosses a threshold: a forest behind a scaler was off by 0.02. Their
# drop is measured against the estimator itself, so the goal still holds them.
ESTIMATOR_PARITY = 0.1
RANKING_ROWS = 64
MOST_RANKED = 64  # Beyond, neighbours are ranked together.
KEPT_OUTPUTS = 1000  # Rows; they show how the outputs are distributed.
SCORE, OUTPUTS = "score.json", "outputs"


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """A score with what else one run shows."""

    score: Score
    load_ms: float
    memory_bytes: int
    on: str


def explore(task: Task, say: Say) -> Explored:
    """Try every recipe that is worth it; refuses where not even float runs as the net does."""
    with Runners(Path(task.request.runtimes)) as runners:
        shop = open_workshop(task, runners)
        say(BuildStep.EVALUATING)
        base = _baseline(shop)
        tried = [base]
        ranked: list[Sensitivity] = []
        is_hopeless = _misses(base, shop.goals)  # Nothing is better than float by search.
        for recipe in candidates(shop.profile, shop.passes.graph_of(shop.export))[1:]:
            say(BuildStep.QUANTIZING)
            found = [try_out(shop, recipe)]
            if not is_hopeless and (_misses(found[0], shop.goals) or _is_ruined(found[0])):
                say(BuildStep.SEARCHING)
                more, sensitivities = _search(shop, recipe, found[0])
                found += more
                ranked += sensitivities
            tried += [_judged(shop, one) for one in found]
    files = {one.name: str(file_of(shop, one.recipe)) for one in tried if one.digest is not None}
    return Explored(candidates=tuple(tried), files=files, sensitivities=tuple(ranked))


def try_out(shop: Workshop, recipe: Recipe) -> Candidate:
    """Make a candidate and score it on the search rows; a refusal stands in it."""
    untried = Candidate(recipe=recipe, name=recipe.name)
    try:
        with refusing(BuildReason.CONVERTER_CRASHED, f"the {recipe.precision.value} pass fails"):
            file = file_of(shop, recipe)
        variant = variant_of(shop, file)
        _load_on_the_oldest(shop, variant)
        scored = score(shop, variant, recipe, SEARCH)
    except BuildRefused as refusal:
        tell(refusal)
        return replace(untried, fault=refusal.fault.reason, problem=refusal.fault.problem)
    except RunFailed as error:
        fault = fault_of(error)
        return replace(untried, fault=fault.reason, problem=fault.problem)
    return replace(
        untried,
        digest=Digest(digest_of_file(file)),
        float_layers=_float_layers(shop, recipe, file),
        size_bytes=file.stat().st_size,
        searched=scored.score,
        load_ms=scored.load_ms,
        memory_bytes=scored.memory_bytes,
        evaluated_on=_on(shop.profile, scored.on),
    )


def _float_layers(shop: Workshop, recipe: Recipe, file: Path) -> tuple[str, ...]:
    """Return the layers with weights that a quantized file still holds in float."""
    if not recipe.is_quantized:
        return ()
    # A made ONNX file no longer says which layer a node comes from; its export does.
    exported = shop.passes.operators_of(shop.export, replace(recipe, kept_float=()))
    layers = {one.name: one.layer for one in exported}
    found = [one for one in shop.passes.float_operators(file) if one.weight_bytes]
    named = (
        layers.get(one.name, one.name) if one.layer == one.name else one.layer for one in found
    )
    return tuple(dict.fromkeys(named))


def score(shop: Workshop, variant: Variant, recipe: Recipe, part: str) -> Scored:
    """Run the variant on all rows of `search` or `final` and compare it with the net."""
    return codec.decode(Scored, (_scored(shop, variant, recipe, part) / SCORE).read_bytes())


def final_outputs(shop: Workshop, variant: Variant, recipe: Recipe) -> Tensors:
    """Return the variant's outputs for the first of the final rows."""
    return open_rows(_scored(shop, variant, recipe, FINAL) / OUTPUTS).inputs


def _scored(shop: Workshop, variant: Variant, recipe: Recipe, part: str) -> Path:
    """Return the folder with the variant's score, and for `final` with some of its outputs."""
    profile = _run_as(shop, recipe, part)
    facts = (digest_of_file(variant.file), shop.place, part, _settings(profile))
    rows = shop.loaded.data.search if part == SEARCH else shop.loaded.data.final

    def make(to: Path) -> None:
        with scratch(shop) as folder:
            ran = shop.runners.run(shop.place, variant, profile, rows, folder)
            refuse_not_finite("it", ran.outputs)
            found = _compare(shop, shop.loaded.reference(part), ran.outputs, rows.labels)
            scored = Scored(
                score=found, load_ms=ran.load_ms, memory_bytes=ran.memory_bytes, on=ran.on
            )
            if part == FINAL:
                kept = {name: array[:KEPT_OUTPUTS] for name, array in ran.outputs.items()}
                write_rows(to / OUTPUTS, kept, {})
            write_whole(to / SCORE, codec.encode(scored))

    return shop.cache.made("score", facts, make)


def _run_as(shop: Workshop, recipe: Recipe, part: str) -> Profile:
    """Return the profile with the settings for a run.

    The search rows run as on the device. The final ones, which are many, run once for all profiles
    that want the same file: threads and batch change no answer, but where a run finds its own
    ranges, which are those of the batch.
    """
    if part == SEARCH or recipe.precision is Precision.INT8_DYNAMIC:
        return shop.profile
    batch = shop.task.request.card.signature.max_batch
    return replace(shop.profile, threads=1, spinning=False, max_batch=batch)


def _baseline(shop: Workshop) -> Candidate:
    """Return the float candidate, scored; refuse an export that is not the net."""
    found = try_out(shop, baseline(shop.profile))
    if found.fault is not None:
        refuse(found.fault, f"in float, {found.problem}")
    assert found.searched is not None
    is_estimator = shop.task.request.card.source.kind is SourceKind.SKLEARN
    if found.searched.output_error > (ESTIMATOR_PARITY if is_estimator else PARITY):
        problem = (
            f"the export strays from the net by {found.searched.output_error:.2g} of its range"
        )
        refuse(BuildReason.EXPORT_DIFFERS, problem)
    judged = score(shop, variant_of(shop, file_of(shop, found.recipe)), found.recipe, FINAL)
    return replace(found, judged=judged.score)


def _judged(shop: Workshop, candidate: Candidate) -> Candidate:
    """Score a candidate that the search found good on the final rows."""
    if candidate.fault is not None or _misses(candidate, shop.goals):
        return candidate
    recipe = candidate.recipe
    scored = score(shop, variant_of(shop, file_of(shop, recipe)), recipe, FINAL)
    return replace(candidate, judged=scored.score)


def _misses(candidate: Candidate, goals: Goals) -> bool:
    """Say whether it runs, and its metric on the search rows is what is wrong."""
    return candidate.searched is not None and judge_score(candidate.searched, goals) is not None


def _is_ruined(candidate: Candidate) -> bool:
    """Say whether it gives NaN, as a sum that eight bits round to zero does below a root."""
    return candidate.fault is BuildReason.OUTPUT_NOT_FINITE


def _search(
    shop: Workshop, recipe: Recipe, first: Candidate
) -> tuple[list[Candidate], list[Sensitivity]]:
    """Look for a way to the recipe's precision that meets the goal."""
    found: list[Candidate] = []
    for other in improvements(recipe):
        found.append(try_out(shop, other))
        if found[-1].searched is not None and not _misses(found[-1], shop.goals):
            return found, []
    runs = [one for one in (first, *found) if one.searched is not None]
    best = min(runs, key=_drop, default=first)
    # Ranges that are best while all is int8 may be coarse where the worst is back in float.
    starts = dict.fromkeys((recipe, best.recipe))
    searches = [_return_to_float(shop, start) for start in starts]
    _, ranked = min(searches, key=lambda search: _fewest_kept(search[0], shop.goals))
    return found + [one for made, _ in searches for one in made], ranked


def _fewest_kept(made: Sequence[Candidate], goals: Goals) -> float:
    """Return how few operators in float are enough; infinity where none of these holds the goal."""
    good = [one for one in made if one.searched is not None and not _misses(one, goals)]
    return min((len(one.recipe.kept_float) for one in good), default=math.inf)


def _drop(candidate: Candidate) -> float:
    assert candidate.searched is not None
    return candidate.searched.drop


def _return_to_float(shop: Workshop, recipe: Recipe) -> tuple[list[Candidate], list[Sensitivity]]:
    """Keep the most sensitive operators in float, as few as the goal allows."""
    ranked = rank(shop, recipe)
    made: list[Candidate] = []
    tried: list[tuple[int, bool]] = []
    while (count := next_kept(tried, len(ranked))) is not None:
        kept = tuple(one.operator for one in ranked[:count])
        made.append(try_out(shop, replace(recipe, kept_float=kept)))
        tried.append((count, made[-1].searched is not None and not _misses(made[-1], shop.goals)))
    return made, ranked


def rank(shop: Workshop, recipe: Recipe) -> list[Sensitivity]:
    """Return the operators that the recipe quantizes, the most sensitive first.

    Each is quantized alone, and what that does to the outputs of some search rows is its
    sensitivity. Of a large graph, neighbours are quantized together and share one figure.
    """
    operators: Sequence[Operator] = shop.passes.operators_of(shop.export, recipe)
    facts = (shop.export_digest, struct_facts(recipe), shop.place, _settings(shop.profile))

    def find() -> list[Sensitivity]:
        ranked = [
            one for group in _groups(operators) for one in _alone(shop, recipe, operators, group)
        ]
        return sorted(ranked, key=lambda one: -one.output_error)

    return shop.cache.value("ranking", facts, list[Sensitivity], find)


def _groups(operators: Sequence[Operator]) -> Iterator[Sequence[Operator]]:
    size = max(1, -(-len(operators) // MOST_RANKED))
    return (operators[start : start + size] for start in range(0, len(operators), size))


def _alone(
    shop: Workshop, recipe: Recipe, operators: Sequence[Operator], group: Sequence[Operator]
) -> Iterator[Sensitivity]:
    """Yield the sensitivity of each operator of a group that is quantized alone."""
    inside = {operator.name for operator in group}
    others = tuple(one.name for one in operators if one.name not in inside)
    error = _error_of(shop, replace(recipe, kept_float=others))
    for one in group:
        yield Sensitivity(one.name, one.kind, one.layer, error)


def _error_of(shop: Workshop, recipe: Recipe) -> float:
    """Return the output error of a recipe on some search rows; 0 where it changes nothing.

    Where it cannot be made or run, the operators that it quantizes are as bad as can be.
    """
    rows = shop.loaded.data.search
    span = range(min(len(rows), RANKING_ROWS))
    reference = {
        name: array[: len(span)] for name, array in shop.loaded.reference("search").items()
    }
    with scratch(shop) as folder:
        file = folder / f"alone{shop.export.suffix}"
        try:
            ranges = ranges_of(shop, recipe) if recipe.is_calibrated else None
            shop.passes.make(shop.export, recipe, ranges, file)
            variant = variant_of(shop, file)
            ran = shop.runners.run(shop.place, variant, shop.profile, rows, folder, span=span)
        except BuildRefused as refusal:
            changes = refusal.fault.reason is not BuildReason.PASS_CHANGED_NOTHING
            return RUINED if changes else 0.0
        except RunFailed:
            return RUINED
        error = output_error_of(reference, ran.outputs)
        return min(error, RUINED) if np.isfinite(error) else RUINED


def _compare(shop: Workshop, reference: Tensors, given: Tensors, labels: Tensors) -> Score:
    request = shop.task.request
    card = request.card
    return metrics.compare(
        card.task, card.signature, reference, given, labels, Path(request.folder)
    )


def _load_on_the_oldest(shop: Workshop, variant: Variant) -> None:
    """Run one row on the oldest runtime that the profile takes, if it is another."""
    place = places_of(shop.profile).floor
    if is_release_of(shop.place.version, place.version):
        return
    with scratch(shop) as folder:
        shop.runners.run(
            place, variant, shop.profile, shop.loaded.data.search, folder, span=range(1)
        )


def _settings(profile: Profile) -> tuple[object, ...]:
    return (
        profile.provider,
        profile.verified,
        profile.threads,
        profile.spinning,
        profile.max_batch,
    )


def _on(profile: Profile, place: str) -> str:
    """Return what a variant was run on, and that it is not what the profile has, where it is so."""
    return place if profile.verified else f"{place}, unverified: {profile.provider} was not run"
