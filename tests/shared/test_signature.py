"""A version's signature: no request fits a senseless one, and only a fitting tensor passes."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.builders import a_signature, a_tensor
from wherry.codec import BadDocument, decode, encode
from wherry.signature import (
    BATCH,
    SIZE_BYTES,
    BadSignature,
    Datatype,
    Signature,
    StatePair,
    batch_of,
    states_of,
)

AXES = st.lists(st.integers(1, 9) | st.sampled_from(["time", "width"]), max_size=3).map(tuple)


@given(AXES, st.integers(1, 100), st.data())
def test_a_tensor_that_fits_has_the_batch_of_its_first_axis(
    axes: tuple[int | str, ...], batch: int, choose: st.DataObject
) -> None:
    lengths = [a if isinstance(a, int) else choose.draw(st.integers(0, 9)) for a in axes]
    assert batch_of(a_tensor(shape=(BATCH, *axes)), (batch, *lengths)) == batch


@given(AXES, st.lists(st.integers(1, 9), max_size=5).map(tuple))
def test_a_tensor_that_does_not_fit_is_refused(
    axes: tuple[int | str, ...], shape: tuple[int, ...]
) -> None:
    fits = len(shape) == len(axes) + 1 and all(
        axis in (length, "time", "width") for axis, length in zip(axes, shape[1:], strict=True)
    )
    assume(not fits)
    with pytest.raises(BadSignature, match="came with the shape"):
        batch_of(a_tensor(shape=(BATCH, *axes)), shape)


@pytest.mark.parametrize("shape", [(), (0, 2), (-1, 2), (1,), (1, 3), (1, 2, 1), (2,)])
def test_an_empty_batch_or_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadSignature, match=r"send it as \[batch, 2\]"):
        batch_of(a_tensor(), shape)


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_a_tensor_has_a_name_of_bounded_length(name: str) -> None:
    with pytest.raises(BadSignature, match="name it"):
        a_tensor(name)
    assert a_tensor("x" * 255).name == "x" * 255


@pytest.mark.parametrize("shape", [(), (1, 2), ("time", 2), (2, BATCH)])
def test_the_first_axis_is_the_batch(shape: tuple[int | str, ...]) -> None:
    with pytest.raises(BadSignature, match="the first axis"):
        a_tensor(shape=shape)


@pytest.mark.parametrize("length", [0, -1])
def test_an_axis_is_at_least_one_long(length: int) -> None:
    with pytest.raises(BadSignature, match="below 1"):
        a_tensor(shape=(BATCH, length))
    assert a_tensor(shape=(BATCH, 1)).shape == (BATCH, 1)


def test_a_layout_has_one_letter_an_axis() -> None:
    assert a_tensor(shape=(BATCH, 1, 28, 28), layout="NCHW").layout == "NCHW"
    with pytest.raises(BadSignature, match="one letter an axis"):
        a_tensor(shape=(BATCH, 1, 28), layout="NCHW")


def test_each_side_has_tensors_and_each_name_stands_once() -> None:
    twice = (a_tensor("x"), a_tensor("x"))
    for tensors in ((), twice):
        with pytest.raises(BadSignature, match="name each one once"):
            a_signature(inputs=tensors)
        with pytest.raises(BadSignature, match="name each one once"):
            a_signature(outputs=tensors)
    both = a_signature(inputs=(a_tensor("x"),), outputs=(a_tensor("x"),))
    assert both.inputs == both.outputs


def test_the_largest_batch_is_at_least_one() -> None:
    assert a_signature(max_batch=1).max_batch == 1
    with pytest.raises(BadSignature, match="set max_batch"):
        a_signature(max_batch=0)


def test_every_datatype_has_a_size_that_its_name_tells() -> None:
    assert set(SIZE_BYTES) == set(Datatype)
    for datatype, size in SIZE_BYTES.items():
        digits = "".join(letter for letter in datatype.value if letter.isdigit())
        assert size == int(digits or 8) // 8


def test_a_signature_passes_the_wire() -> None:
    signature = a_signature(states=(StatePair("h_out", "h"),))
    assert decode(Signature, encode(signature)) == signature


def test_a_senseless_signature_does_not_pass_the_wire() -> None:
    data = encode(a_signature())
    with pytest.raises(BadSignature):
        decode(Signature, data.replace(b'["batch",2]', b'["batch",0]'))
    with pytest.raises(BadDocument):
        decode(Signature, data.replace(b'"FP32"', b'"BF16"'))


def a_recurrent(
    width: int = 8, *, output: str = "h_out", datatype: Datatype = Datatype.FP32
) -> Signature:
    """Return the signature of a net with one state."""
    return a_signature(
        inputs=(a_tensor(), a_tensor("h", (BATCH, width), datatype=datatype)),
        outputs=(a_tensor("scores", (BATCH, 3)), a_tensor("h_out", (BATCH, width))),
        states=(StatePair(output, "h"),),
    )


def test_state_signatures_are_equal_where_the_pairs_and_their_tensors_are() -> None:
    assert states_of(a_signature()) == frozenset()
    assert states_of(a_recurrent()) == states_of(a_recurrent())
    assert states_of(a_recurrent()) != states_of(a_signature())


def test_state_of_another_shape_or_type_or_pair_has_another_signature() -> None:
    others = (a_recurrent(16), a_recurrent(datatype=Datatype.FP16), a_recurrent(output="scores"))
    assert all(states_of(other) != states_of(a_recurrent()) for other in others)
