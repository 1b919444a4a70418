"""What the demo plays: its versions, profiles, devices, and the numbers of the story."""

from __future__ import annotations

MODEL = "digits"
VERSIONS = ("v1", "v2", "v3", "v4", "v5")
SICK_VERSIONS = ("v3", "v4")
FIRST_EPOCHS = 3
MORE_EPOCHS = 2

FP32, INT8, LITERT = PROFILES = ("x86-onnx-fp32", "x86-onnx-int8", "x86-litert-int8")
FLEET = (
    ("canary-1", FP32, "canary"),
    ("canary-2", INT8, "canary"),
    ("canary-3", LITERT, "canary"),
    ("field-1", FP32, "field"),
    ("field-2", INT8, "field"),
    ("field-3", LITERT, "field"),
    ("field-4", INT8, "field"),
    ("field-5", LITERT, "field"),
)
KILLED_IN_DOWNLOAD = "field-1"
KILLED_AFTER_FLIP = "field-4"
SLOW_LINK_BYTES_PER_S = 1_500_000

ALIAS = "default"
PROBATION_S = 8.0
LABEL_DELAY_S = 9.0  # Longer than a probation, as in life.
STEADY_RATE = 60.0
SHADOWED_VERSION = "v2"
SHADOW = {"share": 0.5, "for_s": 4.0, "min_requests": 40, "core_share": 0.3, "deadline_s": 60.0}
GATE = {
    "min_labels": 200,
    "largest_accuracy_drop": 0.05,
    "latency": {"window_requests": 500},
    "soak_s": 1.0,
    "deadline_s": 120.0,
}
