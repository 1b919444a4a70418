"""Tests of how a model is spoken to in the terms of its version's signature."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import a_binding, a_tensor
from wherry.signature import Datatype
from wherry_agent.runtimes.variant import from_runtime, to_runtime
from wherry_controller.builder.running.runner import (
    Invoke,
    Model,
    Side,
    Sink,
    Tensors,
    Unfit,
    ask,
    ask_steps,
    inward,
    loaded,
    outward,
)

FP32 = np.dtype(np.float32)
VALUES = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8)
SCALES = st.floats(0.0078125, 0.5, width=32)


def a_side(name: str, runtime_name: str, shape: tuple[int | str, ...] = ("batch", 2)) -> Side:
    return Side(name, runtime_name, "FP32", [], None, 0, "FP32", list(shape))


def a_model(*, static_batch: int | None = None) -> Model:
    sides = [a_side("image", "x")], [a_side("scores", "y")]
    return Model("unused", *sides, static_batch, 64, [], 1, False, "CPUExecutionProvider")


@given(VALUES, SCALES)
def test_quantizing_and_back_strays_by_half_a_step_at_most(
    values: list[float], scale: float
) -> None:
    binding = a_binding(datatype=Datatype.INT8, scale=scale)
    array = np.array([values], np.float32)
    inside = np.abs(array) <= 127 * scale
    back = outward(binding, inward(binding, array), FP32)
    assert np.allclose(back[inside], array[inside], rtol=0, atol=0.501 * scale)


@given(
    VALUES,
    SCALES,
    st.sampled_from([(Datatype.INT8, -3), (Datatype.UINT8, 128), (Datatype.INT32, 0)]),
)
def test_a_tensor_becomes_the_same_as_on_a_device(
    values: list[float], scale: float, kind: tuple[Datatype, int]
) -> None:
    datatype, zero_point = kind
    binding = a_binding(
        datatype=datatype, scale=scale, zero_point=zero_point, permutation=(0, 2, 1)
    )
    array = np.array(values, np.float32).reshape(1, -1, 1)
    steps = to_runtime(array, binding)
    assert np.array_equal(inward(binding, array), steps)
    told = from_runtime(steps, binding, a_tensor(shape=("batch", len(values), 1)))
    assert np.array_equal(outward(binding, steps, FP32), told)


def test_values_beyond_the_scale_saturate() -> None:
    binding = a_binding(datatype=Datatype.INT8, scale=0.1, zero_point=-128)
    array = np.array([[-5.0, 0.0, 1000.0]], np.float32)
    assert inward(binding, array).tolist() == [[-128, -128, 127]]


def test_a_permutation_turns_channels_last_and_back() -> None:
    binding = a_binding(permutation=(0, 2, 3, 1))
    array = np.arange(24, dtype=np.float32).reshape(1, 3, 2, 4)
    turned = inward(binding, array)
    assert np.array_equal(turned, np.transpose(array, (0, 2, 3, 1)))
    assert np.array_equal(outward(binding, turned, FP32), array)


@given(st.integers(1, 4), st.integers(0, 3))
def test_a_static_batch_is_filled_and_its_filling_is_cut_off(rows: int, more: int) -> None:
    seen: list[npt.NDArray[np.generic]] = []

    def twice(inputs: Tensors) -> Tensors:
        seen.append(inputs["x"])
        return {"y": np.asarray(inputs["x"], np.float32) * 2}

    image = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    given = ask(a_model(static_batch=rows + more), twice, {"image": image})
    assert np.array_equal(given["scores"], image * 2)
    assert [len(batch) for batch in seen] == [rows + more]
    assert np.array_equal(seen[0][-1], image[-1])


def test_each_step_of_a_sequence_sees_the_states_of_the_one_before() -> None:
    model = a_model()._replace(
        inputs=[a_side("image", "x"), a_side("state", "s")],
        outputs=[a_side("scores", "y"), a_side("next", "n")],
        states=[("next", "state")],
    )

    def add(inputs: Tensors) -> Tensors:
        total = np.asarray(inputs["x"], np.float32) + np.asarray(inputs["s"], np.float32)
        return {"y": total * 10, "n": total}

    image = np.ones((2, 3, 2), np.float32)
    given = ask_steps(model, add, {"image": image, "state": np.full((2, 2), 5, np.float32)})
    assert given["scores"][1, :, 0].tolist() == [60, 70, 80]
    assert given["next"].shape == (2, 3, 2)


def test_an_output_that_has_fewer_rows_than_were_asked_is_unfit() -> None:
    image = np.zeros((3, 2), np.float32)
    with pytest.raises(Unfit, match=r"scores came as \[1, 2\] for 3 rows"):
        ask(a_model(), lambda inputs: {"y": np.zeros((1, 2), np.float32)}, {"image": image})


def test_an_output_that_changes_its_shape_between_batches_is_unfit(tmp_path: Path) -> None:
    sink = Sink(tmp_path / "0.npy", 4)
    sink.write(np.zeros((2, 3), np.float32))
    with pytest.raises(Unfit, match="changes its shape"):
        sink.write(np.zeros((2, 4), np.float32))
    sink.close()


def test_what_is_written_batch_by_batch_is_read_as_one_array(tmp_path: Path) -> None:
    whole = np.arange(12, dtype=np.int64).reshape(6, 2)
    sink = Sink(tmp_path / "0.npy", len(whole))
    for batch in np.split(whole, 3):
        sink.write(batch)
    sink.close()
    assert np.array_equal(np.load(tmp_path / "0.npy"), whole)


@pytest.mark.parametrize(
    ("affinity", "stays"), [((), False), ((0,), True), ((100_000,), False), ((0, 100_000), True)]
)
def test_a_model_is_run_on_the_cores_of_its_profile_that_are_here(
    affinity: tuple[int, ...], stays: bool
) -> None:
    before, seen = os.sched_getaffinity(0), set[int]()

    def load(_: Model) -> Invoke:
        seen.update(os.sched_getaffinity(0))
        return lambda tensors: tensors

    model, first = a_model()._replace(affinity=affinity), min(before)
    model = model._replace(affinity=[first if core == 0 else core for core in affinity])
    try:
        loaded(model, load)
    finally:
        os.sched_setaffinity(0, before)
    assert seen == ({first} if stays else before)
