"""How a variant is made and judged, and what a build asks and answers.

A build is a child process: it reads one `BuildRequest` and prints one `BuildMessage` a line. A
fault of the version stops the whole build; a fault of a variant stops that profile only, after
each of its precisions was tried in order of preference. A refusal is an answer, with its reason
and a sentence that ends with what to do next.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec

from wherry import codec
from wherry.errors import Unsuitable
from wherry.names import Digest, ProfileName
from wherry.profile import Activation, Precision, Profile, Runtime
from wherry_controller.core.card import Card, Goal

FEWEST_CALIBRATION_ROWS = 20


class BuildReason(StrEnum):
    """Why a build refuses, by one name for CLI, HTTP and database."""

    MALFORMED_DATA = "malformed_data"
    CALIBRATION_MISSING = "calibration_missing"
    CALIBRATION_SHORT = "calibration_short"
    DATA_OVERLAP = "data_overlap"
    FACTORY_NOT_IMPORTABLE = "factory_not_importable"
    STATE_DICT_UNREADABLE = "state_dict_unreadable"
    STATE_DICT_MISFIT = "state_dict_misfit"
    SIGNATURE_MISFIT = "signature_misfit"
    NOT_EXPORTABLE = "not_exportable"
    EXPORT_DIFFERS = "export_differs"
    OUTPUT_NOT_FINITE = "output_not_finite"
    BELOW_FLOOR = "below_floor"
    DROP_TOO_LARGE = "drop_too_large"
    CLAIM_DIFFERS = "claim_differs"
    PASS_CHANGED_NOTHING = "pass_changed_nothing"
    GOLDEN_BLIND = "golden_blind"
    OVER_BUDGET = "over_budget"
    RUNTIME_DIFFERS = "runtime_differs"
    NO_RECIPE = "no_recipe"


REMEDIES = {
    BuildReason.MALFORMED_DATA: "write an .npz with one array an input, and `labels` to evaluate",
    BuildReason.CALIBRATION_MISSING: "name a calibration file under [data], or a fp32 profile",
    BuildReason.CALIBRATION_SHORT: f"give at least {FEWEST_CALIBRATION_ROWS} rows",
    BuildReason.DATA_OVERLAP: "take the shared rows out of one of the two files",
    BuildReason.FACTORY_NOT_IMPORTABLE: "make the file import by itself and define the factory",
    BuildReason.STATE_DICT_UNREADABLE: "save it with torch.save(net.state_dict(), file)",
    BuildReason.STATE_DICT_MISFIT: "give the state_dict of the net that the factory makes",
    BuildReason.SIGNATURE_MISFIT: "make the signature name what the net takes and gives",
    BuildReason.NOT_EXPORTABLE: "change the part of the net that is named so that it can be traced",
    BuildReason.EXPORT_DIFFERS: "look for code in the net that depends on values or batch size",
    BuildReason.OUTPUT_NOT_FINITE: "look for NaN in the state_dict and for overflow in the net",
    BuildReason.BELOW_FLOOR: "train further, or lower the floor of the goal",
    BuildReason.DROP_TOO_LARGE: "calibrate on more rows, or let the profile take fp32 as well",
    BuildReason.CLAIM_DIFFERS: "correct claimed_accuracy, or the weights or the evaluation data",
    BuildReason.PASS_CHANGED_NOTHING: "let the profile take fp32 instead",
    BuildReason.GOLDEN_BLIND: "evaluate on rows that use more of the net",
    BuildReason.OVER_BUDGET: "raise the budget of the profile, or make the net smaller",
    BuildReason.RUNTIME_DIFFERS: "install that runtime here, or widen the profile's range",
    BuildReason.NO_RECIPE: "choose another runtime or precision for the profile",
}


class Fault(msgspec.Struct, frozen=True):
    """What is wrong, and by what name."""

    reason: BuildReason
    problem: str

    @property
    def sentence(self) -> str:
        return f"{self.problem}: {REMEDIES[self.reason]}."


class BuildRefused(Unsuitable):
    """A version or a variant that may not be built."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault

    def __str__(self) -> str:
        return self.fault.sentence


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How one variant is made; `steps` are the names that stand in its manifest."""

    runtime: Runtime
    precision: Precision
    activation: Activation
    per_channel: bool
    reduced_range: bool
    steps: tuple[str, ...]


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to build: `folder` has the files of `card`; `output` is the folder for the result.

    There stand the unsigned manifest of each variant, `manifest_file` by name, and in the folder
    `BLOBS` the blobs of all of them, each named by its digest.
    """

    card: Card
    folder: str
    output: str
    lineage: Digest
    profiles: tuple[Profile, ...]


BLOBS = "blobs"


def manifest_file(profile: ProfileName) -> str:
    return f"{profile}.manifest.json"


class BuildStep(StrEnum):
    LOADING = "loading"
    EXPORTING = "exporting"
    QUANTIZING = "quantizing"
    EVALUATING = "evaluating"
    PACKING = "packing"


class Progress(msgspec.Struct, frozen=True, tag_field="kind", tag="progress"):
    """`done` of `total` steps are behind; `profile` is None while all of them share the work."""

    step: BuildStep
    done: int
    total: int
    profile: ProfileName | None = None


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """How long one row took where the variant was built; `measured_on` says where, for people.

    It is no part of the bundle, which is the same whenever and wherever it is built.
    """

    p50_ms: float
    p99_ms: float
    measured_on: str


class Built(msgspec.Struct, frozen=True, tag_field="kind", tag="built"):
    """A variant stands in the output folder; `bundle` is the digest of its manifest's bytes."""

    profile: ProfileName
    bundle: Digest
    latency: Latency


class Refused(msgspec.Struct, frozen=True, tag_field="kind", tag="refused"):
    """The build refuses a profile, or the version if it is None; `detail` is a sentence."""

    reason: BuildReason
    detail: str
    profile: ProfileName | None = None


BuildMessage: TypeAlias = Progress | Built | Refused


def parse_message(line: bytes) -> BuildMessage:
    """Return the message that a build printed; raise `BadDocument` for any other line."""
    try:
        message: BuildMessage = msgspec.json.decode(line, type=BuildMessage)
    except msgspec.DecodeError as error:
        raise codec.BadDocument("build message", str(error)) from error
    return message


def recipe_for(profile: Profile, precision: Precision) -> Recipe:
    """Return how a variant is made for the profile in that precision.

    Weights are quantized per channel always: it costs nothing at run time and saves accuracy.
    """
    quantized = precision is Precision.INT8
    return Recipe(
        runtime=profile.runtime,
        precision=precision,
        activation=Activation.S8 if _is_lite(profile.runtime) else profile.activation,
        per_channel=quantized,
        reduced_range=quantized and profile.reduced_range and not _is_lite(profile.runtime),
        steps=_lite_steps(precision)
        if _is_lite(profile.runtime)
        else _onnx_steps(profile, precision),
    )


def judge_version(goal: Goal, *, reference_accuracy: float, claimed: float) -> Fault | None:
    """Say what is wrong with a version whose fp32 has that accuracy, or None."""
    if reference_accuracy < goal.floor:
        return Fault(
            BuildReason.BELOW_FLOOR,
            f"fp32 answers {reference_accuracy:.4f} of the evaluation rows right, and the floor is "
            f"{goal.floor:.4f}",
        )
    if _exceeds(abs(reference_accuracy - claimed), goal.largest_drop):
        return Fault(
            BuildReason.CLAIM_DIFFERS,
            f"model.toml claims an accuracy of {claimed:.4f} and fp32 has "
            f"{reference_accuracy:.4f}, which is further apart than {goal.largest_drop:.4f}",
        )
    return None


def judge_variant(goal: Goal, *, reference_accuracy: float, accuracy: float) -> Fault | None:
    """Say what is wrong with a variant of that accuracy, or None."""
    if accuracy < goal.floor:
        return Fault(
            BuildReason.BELOW_FLOOR,
            f"the variant answers {accuracy:.4f} of the evaluation rows right, and the floor is "
            f"{goal.floor:.4f}",
        )
    if _exceeds(reference_accuracy - accuracy, goal.largest_drop):
        return Fault(
            BuildReason.DROP_TOO_LARGE,
            f"the variant's accuracy is {accuracy:.4f} and fp32's {reference_accuracy:.4f}, "
            f"and the largest drop is {goal.largest_drop:.4f}",
        )
    return None


def judge_budget(profile: Profile, *, size_bytes: int, p50_ms: float | None) -> Fault | None:
    """Say which budget a variant exceeds, or None; `p50_ms` is None where it says nothing."""
    if profile.size_bytes is not None and size_bytes > profile.size_bytes:
        problem = f"the model file has {size_bytes} bytes and the budget is {profile.size_bytes}"
        return Fault(BuildReason.OVER_BUDGET, problem)
    if profile.latency_ms is not None and p50_ms is not None and p50_ms > profile.latency_ms:
        problem = f"the median latency is {p50_ms:.3f} ms and the budget is {profile.latency_ms} ms"
        return Fault(BuildReason.OVER_BUDGET, problem)
    return None


def _exceeds(difference: float, largest: float) -> bool:
    # Accuracies are shares of rows: 0.97 - 0.96 must not exceed 0.01 by a rounding error.
    return difference > largest + 1e-9


def _is_lite(runtime: Runtime) -> bool:
    return runtime in (Runtime.LITERT, Runtime.TFLITE)


def _onnx_steps(profile: Profile, precision: Precision) -> tuple[str, ...]:
    export = ("torch.onnx.export", f"ir<={profile.max_ir}", f"opset<={profile.max_opset}")
    if precision is Precision.FP32:
        return export
    scheme = f"{profile.activation.value}s8"
    reduced = ("reduced_range",) if profile.reduced_range else ()
    return (*export, "quant_pre_process", f"static_qdq_{scheme}_per_channel", *reduced)


def _lite_steps(precision: Precision) -> tuple[str, ...]:
    export = ("litert_torch.convert", "static_batch=1")
    return export if precision is Precision.FP32 else (*export, "static_wi8_ai8")
