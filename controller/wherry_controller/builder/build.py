"""A build from request to messages: load and judge the version, then make a variant a profile.

    load, run, judge fp32 --> for each profile: export -> (quantize) -> evaluate, judge -> pack

A fault of the version ends the build; a fault of a variant turns to the profile's next
precision where another one may do better, and ends that profile where none does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from wherry.files import make_folder
from wherry.manifest import Report
from wherry.profile import Precision, Profile, Runtime, accepts_runtime
from wherry_controller.builder.agreement import golden_of
from wherry_controller.builder.damage import refuse_blind
from wherry_controller.builder.data import Rows, read_calibration, read_evaluation, refuse_overlap
from wherry_controller.builder.evaluate import (
    accuracy_of,
    is_this_arch,
    latency_of,
    refuse_not_finite,
    run_rows,
)
from wherry_controller.builder.export import FloatExports
from wherry_controller.builder.faults import refuse, refuse_if, refusing
from wherry_controller.builder.pack import pack
from wherry_controller.builder.quantize import quantize
from wherry_controller.builder.runtimes import name_of, version_of
from wherry_controller.builder.sources import load_net, run_net
from wherry_controller.builder.variant import Variant, load
from wherry_controller.core.recipe import (
    BuildMessage,
    BuildReason,
    BuildRefused,
    BuildRequest,
    BuildStep,
    Built,
    Fault,
    Latency,
    Progress,
    Recipe,
    Refused,
    judge_budget,
    judge_variant,
    judge_version,
    recipe_for,
)

# Faults that belong to one precision, so that the profile's next one is worth a trial.
OF_A_PRECISION = {
    BuildReason.BELOW_FLOOR,
    BuildReason.DROP_TOO_LARGE,
    BuildReason.NO_RECIPE,
    BuildReason.OUTPUT_NOT_FINITE,
    BuildReason.OVER_BUDGET,
    BuildReason.PASS_CHANGED_NOTHING,
}
STEPS_A_PROFILE = 4


@dataclass(frozen=True, slots=True)
class Version:
    """A version that was loaded, run in fp32 and found good."""

    request: BuildRequest
    exports: FloatExports
    evaluation: Rows
    calibration: Rows | None
    reference_accuracy: float


def build(request: BuildRequest) -> Iterator[BuildMessage]:
    """Do what the request asks; yield each message as it becomes true."""
    total = 1 + STEPS_A_PROFILE * len(request.profiles)
    yield Progress(BuildStep.LOADING, 0, total)
    output = make_folder(Path(request.output))
    with tempfile.TemporaryDirectory(prefix="work-", dir=output) as work:
        try:
            version = _load_version(request, Path(work))
        except BuildRefused as refusal:
            yield Refused(refusal.fault.reason, refusal.fault.sentence)
            return
        for index, profile in enumerate(request.profiles):
            steps = _Steps(profile, 1 + STEPS_A_PROFILE * index, total)
            try:
                yield from _build_profile(version, profile, steps)
            except BuildRefused as refusal:
                yield Refused(refusal.fault.reason, refusal.fault.sentence, profile.name)


@dataclass(frozen=True, slots=True)
class _Steps:
    """The progress of one profile among all of them."""

    profile: Profile
    before: int
    total: int

    def at(self, step: BuildStep) -> Progress:
        order = (BuildStep.EXPORTING, BuildStep.QUANTIZING, BuildStep.EVALUATING, BuildStep.PACKING)
        return Progress(step, self.before + order.index(step), self.total, self.profile.name)


def _load_version(request: BuildRequest, work: Path) -> Version:
    """Load the net and its data, and judge its fp32 before anything is exported."""
    card, folder = request.card, Path(request.folder)
    evaluation = read_evaluation(
        folder / card.data.evaluation, card.signature, classes=len(card.labels)
    )
    calibration = None
    if card.data.calibration is not None:
        calibration = read_calibration(folder / card.data.calibration, card.signature)
        refuse_overlap(calibration, evaluation)
    torch.manual_seed(0)  # A factory may draw buffers that no state_dict holds.
    net = load_net(card, folder)
    reference = run_net(net, card.signature, evaluation)
    accuracy = accuracy_of(reference, card.class_output, evaluation.labels)
    refuse_if(judge_version(card.goal, reference_accuracy=accuracy, claimed=card.claimed_accuracy))
    exports = FloatExports(net, card.signature, evaluation, reference, work)
    return Version(request, exports, evaluation, calibration, accuracy)


def _build_profile(version: Version, profile: Profile, steps: _Steps) -> Iterator[BuildMessage]:
    """Build the profile's first precision that meets the goal."""
    _refuse_runtime(profile)
    faults: list[Fault] = []
    for precision in profile.precisions:
        try:
            yield from _build_variant(version, profile, recipe_for(profile, precision), steps)
        except BuildRefused as refusal:
            if refusal.fault.reason not in OF_A_PRECISION:
                raise
            faults.append(refusal.fault)
        else:
            return
    problems = zip(profile.precisions, faults, strict=True)
    every = "; ".join(f"{precision.value}: {fault.problem}" for precision, fault in problems)
    refuse(faults[0].reason, every)


def _build_variant(
    version: Version, profile: Profile, recipe: Recipe, steps: _Steps
) -> Iterator[BuildMessage]:
    yield steps.at(BuildStep.EXPORTING)
    variant = version.exports.variant(profile)
    if recipe.precision is Precision.INT8:
        yield steps.at(BuildStep.QUANTIZING)
        if version.calibration is None:
            refuse(BuildReason.CALIBRATION_MISSING, "an int8 variant needs calibration data")
        variant = quantize(variant, recipe, profile, version.calibration)
    yield steps.at(BuildStep.EVALUATING)
    report, latency = _evaluate(version, profile, variant)
    yield steps.at(BuildStep.PACKING)
    run = load(variant, profile)
    golden = golden_of(run, version.evaluation, variant, profile, recipe.precision)
    refuse_blind(golden, variant, profile)
    bundle = pack(
        version.request, profile, recipe=recipe, variant=variant, golden=golden, report=report
    )
    yield Built(profile.name, bundle, latency)


def _evaluate(version: Version, profile: Profile, variant: Variant) -> tuple[Report, Latency]:
    """Measure the variant on the held-out rows, and judge it by goal and budgets."""
    card, rows = version.request.card, version.evaluation
    with refusing(BuildReason.NO_RECIPE, f"{profile.runtime.value} cannot run the variant"):
        run = load(variant, profile)
        outputs = run_rows(run, rows, min(profile.max_batch, card.signature.max_batch))
    refuse_not_finite("the variant", outputs)
    accuracy = accuracy_of(outputs, card.class_output, rows.labels)
    refuse_if(
        judge_variant(card.goal, reference_accuracy=version.reference_accuracy, accuracy=accuracy)
    )
    latency = latency_of(run, rows, profile)
    size_bytes = variant.file.stat().st_size
    comparable_ms = latency.p50_ms if is_this_arch(profile) else None
    refuse_if(judge_budget(profile, size_bytes=size_bytes, p50_ms=comparable_ms))
    report = Report(
        accuracy=accuracy,
        reference_accuracy=version.reference_accuracy,
        samples=len(rows),
        size_bytes=size_bytes,
        evaluated_on=name_of(profile.runtime),
    )
    return report, latency


def _refuse_runtime(profile: Profile) -> None:
    """Refuse a profile whose runtime is not here: golden outputs come from the runtime itself."""
    installed = version_of(profile.runtime)
    wanted = f"{profile.runtime_floor} <= {profile.runtime.value} < {profile.runtime_below}"
    if profile.runtime is Runtime.TFLITE:
        problem = f"the profile wants {wanted}, which this release's builder cannot run"
        refuse(BuildReason.NO_RECIPE, problem)
    if installed is None or not accepts_runtime(profile, installed):
        problem = f"the profile wants {wanted} and the builder has {installed or 'none'}"
        refuse(BuildReason.RUNTIME_DIFFERS, problem)
