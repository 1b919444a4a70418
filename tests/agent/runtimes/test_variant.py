"""A variant speaks the signature's terms, whatever its model wants inside."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agent.bundles import a_bundle, a_litert_bundle, images
from wherry.manifest import Binding, Manifest
from wherry.signature import Datatype, Tensor
from wherry_agent.runtimes.base import Array
from wherry_agent.runtimes.variant import NotFinite, Variant, from_runtime, to_runtime

FP32 = a_bundle().manifest
INT8 = a_litert_bundle(static_batch=2).manifest


class Recording:
    """A model that notes the shapes it is given, and answers each row with its first value."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        (image,) = inputs
        self.shapes.append(image.shape)
        return [np.repeat(image.reshape(len(image), -1)[:, :1], 4, axis=1)]


class Broken:
    def run(self, inputs: Sequence[Array]) -> list[Array]:
        return [np.full((len(inputs[0]), 4), np.inf, np.float32)]


@pytest.mark.parametrize(
    ("manifest", "rows", "shapes"),
    [
        (INT8, 1, [(2, 2, 2)]),
        (INT8, 5, [(2, 2, 2)] * 3),
        (FP32, 5, [(5, 2, 2)]),
    ],
)
def test_a_batch_is_cut_and_padded_to_what_the_model_takes(
    manifest: Manifest, rows: int, shapes: list[tuple[int, ...]]
) -> None:
    model = Recording()
    (output,) = Variant(model, manifest).run([images(rows)]).outputs
    assert model.shapes == shapes
    assert output.shape == (rows, 4)


@given(rows=st.integers(1, 9), batch=st.integers(1, 4))
def test_every_row_gets_its_own_answer_however_batches_are_cut(rows: int, batch: int) -> None:
    manifest = a_litert_bundle(static_batch=batch).manifest
    sent = images(rows)
    (output,) = Variant(Recording(), manifest).run([sent]).outputs
    # The double of int8 in and int8 out has other scales; steps are what it hands on.
    steps = output[:, 0].astype(np.float64) / (1 / 8) - 3
    assert np.array_equal(steps, sent[:, 0, 0] * 64)


@given(
    values=st.lists(st.floats(-300, 300, width=32), min_size=8, max_size=8),
    scale=st.sampled_from([1 / 64, 0.05, 1.0]),
    zero_point=st.integers(-128, 127),
)
def test_an_integer_tensor_comes_back_within_half_a_step_of_what_its_range_holds(
    values: list[float], scale: float, zero_point: int
) -> None:
    binding = Binding(
        name="x", runtime_name="x", datatype=Datatype.INT8, scale=scale, zero_point=zero_point
    )
    sent = np.array(values, np.float32).reshape(2, 4)
    described = Tensor("x", Datatype.FP32, ("batch", 4))
    back = from_runtime(to_runtime(sent, binding), binding, described)
    held = np.clip(sent, (-128 - zero_point) * scale, (127 - zero_point) * scale)
    assert np.abs(back.astype(np.float32) - held).max() <= scale * 0.501


@given(st.permutations([1, 2, 3]))
def test_the_axis_order_inside_is_undone_on_the_way_out(order: list[int]) -> None:
    permutation = (0, *order)
    binding = Binding(name="x", runtime_name="x", datatype=Datatype.FP32, permutation=permutation)
    sent = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    inside = to_runtime(sent, binding)
    assert inside.shape == tuple(sent.shape[axis] for axis in permutation)
    described = Tensor("x", Datatype.FP32, ("batch", 3, 4, 5))
    assert np.array_equal(from_runtime(inside, binding, described), sent)


def test_what_is_not_finite_is_no_answer() -> None:
    with pytest.raises(NotFinite, match="'logits'"):
        Variant(Broken(), FP32).run([images(1)])
