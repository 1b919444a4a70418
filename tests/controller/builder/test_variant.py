"""Tests of how a variant is spoken to in the terms of its version's signature."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import a_signature, a_tensor
from wherry.manifest import Binding
from wherry.signature import BATCH, Datatype
from wherry_controller.builder.data import Tensors
from wherry_controller.builder.variant import Variant, inward, outward, run

FP32 = np.dtype(np.float32)


def a_binding(**facts: object) -> Binding:
    known = {"name": "image", "runtime_name": "x", "datatype": Datatype.FP32} | facts
    return Binding(**known)  # type: ignore[arg-type]


def a_variant(*, static_batch: int | None, **facts: object) -> Variant:
    signature = a_signature(outputs=(a_tensor("scores", (BATCH, 2)),))
    output = Binding(name="scores", runtime_name="y", datatype=Datatype.FP32)
    return Variant(Path("unused"), signature, (a_binding(**facts),), (output,), static_batch)


@given(
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=8),
    st.floats(0.0078125, 0.5, width=32),
)
def test_quantizing_and_back_strays_by_half_a_step_at_most(
    values: list[float], scale: float
) -> None:
    binding = a_binding(datatype=Datatype.INT8, scale=scale, zero_point=0)
    array = np.array([values], np.float32)
    inside = np.abs(array) <= 127 * scale
    back = outward(binding, inward(binding, array), FP32)
    assert np.allclose(back[inside], array[inside], rtol=0, atol=0.501 * scale)


def test_values_beyond_the_scale_saturate() -> None:
    binding = a_binding(datatype=Datatype.INT8, scale=0.1, zero_point=-128)
    array = np.array([[-5.0, 0.0, 1000.0]], np.float32)
    assert inward(binding, array).tolist() == [[-128, -128, 127]]


def test_a_permutation_turns_channels_last_and_back() -> None:
    binding = a_binding(permutation=(0, 2, 3, 1))
    array = np.arange(24, dtype=np.float32).reshape(1, 3, 2, 4)
    turned = inward(binding, array)
    assert turned.shape == (1, 2, 4, 3)
    assert np.array_equal(turned, np.transpose(array, (0, 2, 3, 1)))
    assert np.array_equal(outward(binding, turned, FP32), array)


@given(st.integers(1, 9), st.integers(1, 4))
def test_a_static_batch_is_filled_and_its_filling_is_cut_off(rows: int, size: int) -> None:
    seen: list[int] = []

    def twice(inputs: Tensors) -> Tensors:
        seen.append(len(inputs["x"]))
        return {"y": inputs["x"] * 2}

    image = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    given = run(a_variant(static_batch=size), twice, {"image": image})
    assert np.array_equal(given["scores"], image * 2)
    assert set(seen) == {size}


def test_a_dynamic_batch_is_asked_for_at_once() -> None:
    seen: list[int] = []

    def count(inputs: Tensors) -> Tensors:
        seen.append(len(inputs["x"]))
        return {"y": inputs["x"]}

    run(a_variant(static_batch=None), count, {"image": np.zeros((7, 2), np.float32)})
    assert seen == [7]
