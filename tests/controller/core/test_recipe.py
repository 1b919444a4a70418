"""Tests of recipes, of the judgement of variants and of a build's messages."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.builders import a_digest, a_profile
from tests.controller.scripted import a_latency
from wherry import codec
from wherry.codec import BadDocument
from wherry.names import parse_profile_name
from wherry.profile import Activation, Precision, Runtime
from wherry_controller.core.card import Goal
from wherry_controller.core.recipe import (
    REMEDIES,
    BuildMessage,
    BuildReason,
    BuildRefused,
    BuildStep,
    Built,
    Fault,
    Progress,
    Refused,
    judge_budget,
    judge_variant,
    judge_version,
    parse_message,
    recipe_for,
)

GOAL = Goal(floor=0.9, largest_drop=0.01)
SHARES = st.integers(0, 1000).map(lambda rows: rows / 1000)
PROFILE = parse_profile_name("x86-onnx-fp32")
MESSAGES = (
    Progress(BuildStep.LOADING, 0, 13),
    Progress(BuildStep.PACKING, 4, 13, PROFILE),
    Built(PROFILE, a_digest(), a_latency()),
    Refused(BuildReason.BELOW_FLOOR, "a sentence."),
    Refused(BuildReason.OVER_BUDGET, "a sentence.", PROFILE),
)


def reason(fault: Fault | None) -> BuildReason | None:
    return fault.reason if fault else None


@given(SHARES, SHARES)
@example(0.97, 0.96)
@example(0.96, 0.97)
def test_a_version_passes_at_its_floor_with_an_honest_claim(fp32: float, claimed: float) -> None:
    found = reason(judge_version(GOAL, reference_accuracy=fp32, claimed=claimed))
    if round(fp32 * 1000) < 900:
        assert found is BuildReason.BELOW_FLOOR
    elif abs(round(fp32 * 1000) - round(claimed * 1000)) > 10:
        assert found is BuildReason.CLAIM_DIFFERS
    else:
        assert found is None


@given(SHARES, SHARES)
@example(0.97, 0.96)
def test_a_variant_passes_at_its_floor_within_the_largest_drop(fp32: float, int8: float) -> None:
    found = reason(judge_variant(GOAL, reference_accuracy=fp32, accuracy=int8))
    if round(int8 * 1000) < 900:
        assert found is BuildReason.BELOW_FLOOR
    elif round(fp32 * 1000) - round(int8 * 1000) > 10:
        assert found is BuildReason.DROP_TOO_LARGE
    else:
        assert found is None


def test_a_variant_better_than_fp32_is_no_drop() -> None:
    assert judge_variant(GOAL, reference_accuracy=0.92, accuracy=0.99) is None


def test_budgets_are_upper_bounds_and_absent_ones_bind_nothing() -> None:
    bounded = a_profile(size_bytes=1000, latency_ms=1.5)
    assert judge_budget(bounded, size_bytes=1000, p50_ms=1.5) is None
    assert judge_budget(bounded, size_bytes=1000, p50_ms=None) is None
    assert judge_budget(a_profile(), size_bytes=10**9, p50_ms=10**6) is None
    for size_bytes, p50_ms in ((1001, 1.0), (10, 1.51)):
        fault = judge_budget(bounded, size_bytes=size_bytes, p50_ms=p50_ms)
        assert reason(fault) is BuildReason.OVER_BUDGET


def test_every_reason_has_a_remedy_and_every_sentence_ends_with_it() -> None:
    assert set(REMEDIES) == set(BuildReason)
    for known in BuildReason:
        assert str(BuildRefused(Fault(known, "it is so"))) == f"it is so: {REMEDIES[known]}."


def test_a_float_recipe_quantizes_nothing() -> None:
    recipe = recipe_for(a_profile(reduced_range=True), Precision.FP32)
    assert not recipe.per_channel
    assert not recipe.reduced_range
    assert recipe.steps == ("torch.onnx.export", "ir<=10", "opset<=20")


def test_an_int8_recipe_follows_the_profile() -> None:
    profile = a_profile(activation=Activation.U8, reduced_range=True)
    recipe = recipe_for(profile, Precision.INT8)
    assert recipe.activation is Activation.U8
    assert recipe.per_channel
    assert recipe.reduced_range
    assert recipe.steps[-2:] == ("static_qdq_u8s8_per_channel", "reduced_range")


def test_litert_knows_signed_activations_in_full_range_only() -> None:
    profile = a_profile(runtime=Runtime.LITERT, activation=Activation.U8, reduced_range=True)
    recipe = recipe_for(profile, Precision.INT8)
    assert recipe.activation is Activation.S8
    assert not recipe.reduced_range
    assert recipe.steps == ("litert_torch.convert", "static_batch=1", "static_wi8_ai8")


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_survives_its_line(message: BuildMessage) -> None:
    assert parse_message(codec.encode(message)) == message


@pytest.mark.parametrize("line", [b"", b"warning: noise", b"{}", b'{"kind":"built"}'])
def test_a_line_that_is_no_message_is_malformed(line: bytes) -> None:
    with pytest.raises(BadDocument):
        parse_message(line)
