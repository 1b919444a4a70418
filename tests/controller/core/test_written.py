"""Tests of TOML that people write: profiles, and the keys they misspell."""

from __future__ import annotations

from pathlib import Path

import pytest

from wherry.profile import BadProfile, Precision, Runtime
from wherry_controller.core.written import BadFile, parse_profile

PROFILES = Path(__file__).parents[3] / "controller/wherry_sim/profiles"
GOOD = """
name = "pi-4"
arch = "aarch64"
runtime = "onnxruntime"
runtime_floor = "1.23"
runtime_below = "2"
precisions = ["int8", "fp32"]
"""


def test_a_profile_keeps_the_order_of_its_precisions() -> None:
    assert parse_profile(GOOD.encode()).precisions == (Precision.INT8, Precision.FP32)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("thread = 2", "unknown key 'thread'"),
        ('activation = "s4"', "Invalid enum value 's4'"),
        ("threads = true", "Expected `int`"),
        ('name = "twice"', "Cannot overwrite"),
        ("latency_ms = nan", "nan is no number"),
        ("latency_ms = -inf", "-inf is no number"),
        ("latency_ms = 1e999", "1e999 is no number"),
    ],
)
def test_a_slip_in_a_profile_is_named(line: str, hint: str) -> None:
    with pytest.raises(BadFile) as refusal:
        parse_profile(f"{GOOD}\n{line}".encode())
    assert hint in str(refusal.value)


def test_a_profile_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(BadProfile, match="runtime_floor is not below"):
        parse_profile(GOOD.replace('"1.23"', '"3"').encode())


def test_the_demo_profiles_are_named_by_their_files() -> None:
    profiles = {file.stem: parse_profile(file.read_bytes()) for file in PROFILES.glob("*.toml")}
    assert {"x86-onnx-fp32", "x86-onnx-int8", "x86-litert-int8"} <= set(profiles)
    assert all(profile.name == stem for stem, profile in profiles.items())
    assert profiles["x86-litert-int8"].runtime is Runtime.LITERT
    assert profiles["x86-onnx-int8"].reduced_range
