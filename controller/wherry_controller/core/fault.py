"""Why a build refuses a version or a variant, by name and in a sentence."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from wherry.errors import Unsuitable

FEWEST_CALIBRATION_ROWS = 20
FEWEST_EVALUATION_ROWS = 20
LARGEST_RANGE_FACTOR = 4.0


class BuildReason(StrEnum):
    """Why a build refuses, by one name for CLI, HTTP and database."""

    MALFORMED_DATA = "malformed_data"
    LABELS_MISFIT = "labels_misfit"
    EVALUATION_SHORT = "evaluation_short"
    CALIBRATION_MISSING = "calibration_missing"
    CALIBRATION_SHORT = "calibration_short"
    CALIBRATION_STRAYS = "calibration_strays"
    DATA_OVERLAP = "data_overlap"
    FACTORY_NOT_IMPORTABLE = "factory_not_importable"
    SOURCE_UNREADABLE = "source_unreadable"
    STATE_DICT_MISFIT = "state_dict_misfit"
    SIGNATURE_MISFIT = "signature_misfit"
    ALREADY_QUANTIZED = "already_quantized"
    NOT_EXPORTABLE = "not_exportable"
    UNSUPPORTED_OPERATOR = "unsupported_operator"
    DYNAMIC_SHAPE = "dynamic_shape"
    EXPORT_DIFFERS = "export_differs"
    OUTPUT_NOT_FINITE = "output_not_finite"
    BELOW_FLOOR = "below_floor"
    DROP_TOO_LARGE = "drop_too_large"
    CLAIM_DIFFERS = "claim_differs"
    PASS_CHANGED_NOTHING = "pass_changed_nothing"
    SLOWER_THAN_FLOAT = "slower_than_float"
    DIFFERS_ON_CPU = "differs_on_cpu"
    GOLDEN_BLIND = "golden_blind"
    OVER_BUDGET = "over_budget"
    NO_CANDIDATE = "no_candidate"
    NO_RECIPE = "no_recipe"
    RUN_FAILED = "run_failed"
    RUNTIME_MISSING = "runtime_missing"
    CONVERTER_CRASHED = "converter_crashed"
    OUT_OF_MEMORY = "out_of_memory"
    OUT_OF_TIME = "out_of_time"


REMEDIES = {
    BuildReason.MALFORMED_DATA: (
        "give each input's rows in the signature's type and shape, and labels to evaluate"
    ),
    BuildReason.EVALUATION_SHORT: f"give at least {FEWEST_EVALUATION_ROWS} rows to judge by",
    BuildReason.LABELS_MISFIT: (
        "correct the labels, or the output or the labels that model.toml names"
    ),
    BuildReason.CALIBRATION_MISSING: (
        "name calibration data under [data], or let the profile take fp32"
    ),
    BuildReason.CALIBRATION_SHORT: f"give at least {FEWEST_CALIBRATION_ROWS} rows",
    BuildReason.CALIBRATION_STRAYS: "prepare calibration and evaluation rows in the same way",
    BuildReason.DATA_OVERLAP: "take the shared rows out of one of the two files",
    BuildReason.FACTORY_NOT_IMPORTABLE: "make the file import by itself and define the function",
    BuildReason.SOURCE_UNREADABLE: "save it again in the form that [source] names",
    BuildReason.STATE_DICT_MISFIT: "give the state_dict of the net that the factory makes",
    BuildReason.SIGNATURE_MISFIT: "make the signature name what the net takes and gives",
    BuildReason.ALREADY_QUANTIZED: "give the float model that it was made from",
    BuildReason.NOT_EXPORTABLE: "change the part of the net that is named so that it can be traced",
    BuildReason.UNSUPPORTED_OPERATOR: (
        "replace that operator in the net, or choose another runtime for the profile"
    ),
    BuildReason.DYNAMIC_SHAPE: (
        "give that axis a length in the signature, or choose onnxruntime for the profile"
    ),
    BuildReason.EXPORT_DIFFERS: "look for code in the net that depends on values or batch size",
    BuildReason.OUTPUT_NOT_FINITE: "look for NaN in the weights and for overflow in the net",
    BuildReason.BELOW_FLOOR: "train further, or lower the floor of the goal",
    BuildReason.DROP_TOO_LARGE: "calibrate on more rows, or let the profile take fp32 as well",
    BuildReason.CLAIM_DIFFERS: "correct the claim, or the weights or the evaluation data",
    BuildReason.PASS_CHANGED_NOTHING: "let the profile take fp32 instead",
    BuildReason.SLOWER_THAN_FLOAT: "let the profile take fp32 instead",
    BuildReason.DIFFERS_ON_CPU: "set reduced_range in the profile, or another precision",
    BuildReason.GOLDEN_BLIND: "evaluate on rows that use more of the net",
    BuildReason.OVER_BUDGET: "raise the budget of the profile, or make the net smaller",
    BuildReason.NO_CANDIDATE: (
        "relax the goal or the budget that the nearest one misses, or train further"
    ),
    BuildReason.NO_RECIPE: "choose another runtime or precision for the profile",
    BuildReason.RUN_FAILED: "look into the variant's log, and choose another runtime or precision",
    BuildReason.RUNTIME_MISSING: (
        "`wherry profile check --install` makes its environment, or widen the profile's range"
    ),
    BuildReason.CONVERTER_CRASHED: (
        "look into its log and mend what died there, or choose another runtime or precision"
    ),
    BuildReason.OUT_OF_MEMORY: (
        "raise build.memory_bytes in the controller's settings, or make the net or its "
        "batch smaller"
    ),
    BuildReason.OUT_OF_TIME: (
        "raise build.deadline_s in the controller's settings, or give fewer rows"
    ),
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
