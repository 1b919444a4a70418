"""Frames come out as they went in, however the stream cuts them."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.names import Digest
from wherry.reasons import Reason
from wherry.signature import Datatype
from wherry_agent import frames
from wherry_agent.frames import Tensor

TENSORS = st.lists(
    st.builds(
        lambda name, rows, byte: Tensor(name, Datatype.INT32, (rows, 2), bytes([byte]) * rows * 8),
        st.text(max_size=20),
        st.integers(0, 5),
        st.integers(0, 255),
    ),
    max_size=3,
)


def framed(number: int, tensors: list[Tensor]) -> bytes:
    return frames.encode(frames.Infer(number, 0, None, frames.heads_of(tensors)), tensors)


@given(st.lists(TENSORS, max_size=4), st.integers(1, 64))
def test_frames_survive_any_cut_of_the_stream(sent: list[list[Tensor]], step: int) -> None:
    stream = b"".join(framed(number, tensors) for number, tensors in enumerate(sent))
    reader, got = frames.Reader(), []
    for at in range(0, len(stream), step):
        got += list(reader.feed(stream[at : at + step]))
    assert [head for head, _ in got] == [
        frames.Infer(number, 0, None, frames.heads_of(tensors))
        for number, tensors in enumerate(sent)
    ]
    for (head, body), tensors in zip(got, sent, strict=True):
        assert isinstance(head, frames.Infer)
        assert list(frames.tensors_of(head.tensors, body)) == tensors


@pytest.mark.parametrize(
    "head",
    [
        frames.Ready("1.2", Digest("a" * 64), load_ms=1.5, memory_bytes=1, peak_bytes=2),
        frames.Compared(4, rows=2, agreed=1, distance=0.5, largest_distance=0.25, compute_ns=9),
        frames.Failed(Reason.GOLDEN_MISMATCH, "it is off"),
        frames.Refused(3, frames.Fault.NOT_FINITE, "NaN"),
    ],
)
def test_a_head_without_tensors_travels_alone(head: frames.Head) -> None:
    assert list(frames.Reader().feed(frames.encode(head))) == [(head, b"")]


@pytest.mark.parametrize(
    "stream",
    [
        struct.pack("<II", frames.LARGEST_HEAD_BYTES + 1, 0),
        struct.pack("<II", 1, frames.LARGEST_BODY_BYTES + 1),
        struct.pack("<II", 3, 0) + b"\xc1\xc1\xc1",
    ],
    ids=["long head", "long body", "no msgpack"],
)
def test_a_stream_that_is_no_frame_is_refused_at_once(stream: bytes) -> None:
    with pytest.raises(frames.BadFrame):
        list(frames.Reader().feed(stream))


@given(st.binary(max_size=64))
def test_any_bytes_are_frames_or_refused(stream: bytes) -> None:
    with suppress(frames.BadFrame):
        list(frames.Reader().feed(stream))


@pytest.mark.parametrize("shape", [(3, 2), (-1, -2), (0, 2)])
def test_a_body_that_its_head_does_not_describe_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(frames.BadFrame):
        frames.tensors_of([frames.TensorHead("x", Datatype.INT32, shape)], bytes(8))
