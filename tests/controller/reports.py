"""Reports of what builds tried, valid and of a kind: float, and int8 that is better."""

from __future__ import annotations

from msgspec.structs import replace

from tests.builders import a_profile
from wherry.profile import Precision, Profile
from wherry_controller.core.choice import Candidate, Latency, ProfileReport, Score, Sensitivity
from wherry_controller.core.recipe import Recipe


def a_latency(*, p50_ms: float = 0.18, speed_ratio: float = 2.5) -> Latency:
    return Latency(
        p50_ms=p50_ms,
        p99_ms=0.5,
        measured_on="x86_64, onnxruntime 1.31.1",
        speed_ratio=speed_ratio,
    )


def a_score(drop: float = 0.0) -> Score:
    return Score(
        value=0.97 - drop,
        reference_value=0.97,
        drop=drop,
        drop_low=drop - 0.002,
        drop_high=drop + 0.002,
        agreement=0.99,
        output_error=0.01,
        samples=1000,
    )


def a_candidate(
    precision: Precision = Precision.INT8, *, kept_float: tuple[str, ...] = ()
) -> Candidate:
    """Return a candidate that was measured and found good."""
    recipe = Recipe(runtime=a_profile().runtime, precision=precision, kept_float=kept_float)
    return Candidate(
        recipe=recipe,
        name=recipe.name,
        size_bytes=400_000,
        judged=a_score(0.004),
        latency=a_latency(),
        evaluated_on="onnxruntime 1.31.1 on x86_64",
        on_pareto=True,
    )


def a_baseline() -> Candidate:
    return replace(
        a_candidate(Precision.FP32),
        size_bytes=1_600_000,
        judged=a_score(),
        latency=a_latency(p50_ms=0.45, speed_ratio=1.0),
    )


def a_profile_report(profile: Profile | None = None) -> ProfileReport:
    """Return the report of a profile for which int8 with one layer in float is the best."""
    int8 = a_candidate(kept_float=("/head/Gemm",))
    return ProfileReport(
        profile=(profile or a_profile()).name,
        runtime="onnxruntime 1.31.1",
        metric="accuracy",
        candidates=(a_baseline(), int8),
        chosen=int8.name,
        why="int8 is the best in latency (2 of 2 candidates meet the goals)",
        sensitivities=(
            Sensitivity("/head/Gemm", "Gemm", "head", 0.4),
            Sensitivity("/body/Conv", "Conv", "body", 0.1),
        ),
    )
