"""Merging requests and parting their answers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.agent.engine.stage import first_scores, rows, scores_of
from tests.builders import a_digest
from wherry.signature import Datatype
from wherry_agent.asking import Answer
from wherry_agent.engine.batches import fit_together, merge, split
from wherry_agent.frames import Tensor

VALUES = st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=5)


@given(st.lists(VALUES, min_size=1, max_size=6))
def test_requests_that_are_merged_and_parted_get_each_its_own_rows(
    requests: list[list[float]],
) -> None:
    (merged,) = merge([(rows(*values),) for values in requests])
    assert merged.shape == (sum(map(len, requests)), 2)
    answer = Answer(a_digest("A"), (scores_of(merged),), 7)
    parts = split(answer, [len(values) for values in requests])
    assert parts is not None
    assert [list(first_scores(part)) for part in parts] == requests
    assert {part.compute_ns for part in parts} == {7}


def test_parted_answers_outlive_what_they_were_computed_into() -> None:
    area = bytearray(scores_of(rows(1.0, 2.0)).data)
    scores = Tensor("scores", Datatype.FP32, (2, 3), memoryview(area).toreadonly())
    parts = split(Answer(a_digest("A"), (scores,), 7), [1, 1])
    area[:] = bytes(len(area))
    assert parts is not None
    assert [list(first_scores(part)) for part in parts] == [[1.0], [2.0]]


def test_an_output_without_a_row_for_each_row_cannot_be_parted() -> None:
    whole = Tensor("mean", Datatype.FP32, (1,), bytes(4))
    scalar = Tensor("mean", Datatype.FP32, (), bytes(4))
    for output in (whole, scalar):
        answer = Answer(a_digest("A"), (scores_of(rows(1.0, 2.0)), output), 7)
        assert split(answer, [1, 1]) is None


def test_tensors_fit_together_that_differ_in_nothing_but_their_rows() -> None:
    image = rows(1.0)
    others = [
        Tensor("mask", Datatype.FP32, (1, 2), bytes(8)),
        Tensor("image", Datatype.INT32, (1, 2), bytes(8)),
        Tensor("image", Datatype.FP32, (1, 3), bytes(12)),
    ]
    assert fit_together((image,), (rows(1.0, 2.0),))
    assert not any(fit_together((image,), (other,)) for other in others)
    assert not fit_together((image,), (image, image))
