"""Kept answers are bounded, and each is judged once: by classes, or by numbers."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.measures import LARGEST_CLASSES, LARGEST_SUM, ClassCounts, Feedback
from wherry.names import AliasName, Digest
from wherry_agent.serving.feedback import (
    LARGEST_ALL_KEPT,
    LARGEST_KEPT,
    Answers,
    BadFeedback,
    Judged,
    LabelledTwice,
    Sent,
    UnknownRequest,
    WrongLabels,
    WrongTruth,
    decode_feedback,
)

ALIAS, BUNDLE = AliasName("default"), Digest("a" * 64)


def kept(*given: float, request: str = "r") -> Answers:
    answers = Answers(8)
    answers.keep(ALIAS, request, BUNDLE, given)
    return answers


@given(st.lists(st.integers(0, 30)), st.integers(1, 8))
def test_the_newest_answers_are_kept_and_no_more(requests: list[int], limit: int) -> None:
    answers = Answers(limit)
    for request in requests:
        answers.keep(ALIAS, str(request), BUNDLE, (request,))
    newest = list(dict.fromkeys(reversed(requests)))
    for request in newest[:limit]:
        judged = answers.judge(ALIAS, Sent(str(request), [request]))
        assert (judged.bundle, judged.feedback.labelled, judged.feedback.right) == (BUNDLE, 1, 1)
    for request in newest[limit:]:
        with pytest.raises(UnknownRequest):
            answers.judge(ALIAS, Sent(str(request), [request]))


def test_answers_of_many_values_leave_room_for_fewer_of_them() -> None:
    answers, fit = Answers(1 << 20), LARGEST_ALL_KEPT // LARGEST_KEPT
    for request in range(fit + 1):
        answers.keep(ALIAS, str(request), BUNDLE, (0.5,) * LARGEST_KEPT)
    with pytest.raises(UnknownRequest):
        answers.judge(ALIAS, Sent("0", values=[0.5] * LARGEST_KEPT))
    for request in range(1, fit + 1):
        answers.judge(ALIAS, Sent(str(request), values=[0.5] * LARGEST_KEPT))
    for request in range(fit):  # Those that were judged take no room.
        answers.keep(ALIAS, f"later-{request}", BUNDLE, (0.5,) * LARGEST_KEPT)
    answers.judge(ALIAS, Sent("later-0", values=[0.5] * LARGEST_KEPT))


def test_an_answer_of_too_many_values_is_not_kept() -> None:
    answers = kept(*[1] * (LARGEST_KEPT + 1))
    with pytest.raises(UnknownRequest):
        answers.judge(ALIAS, Sent("r", [1] * (LARGEST_KEPT + 1)))


def test_an_answer_is_judged_once() -> None:
    answers = kept(1, 2)
    answers.judge(ALIAS, Sent("r", [1, 3]))
    with pytest.raises(LabelledTwice):
        answers.judge(ALIAS, Sent("r", [1, 2]))


def test_an_id_that_is_used_again_stands_for_the_newer_answer() -> None:
    answers = kept(1)
    answers.judge(ALIAS, Sent("r", [1]))
    answers.keep(ALIAS, "r", BUNDLE, (2,))
    assert answers.judge(ALIAS, Sent("r", [2])).feedback.right == 1


def test_labels_are_counted_by_class_for_f1() -> None:
    assert kept(0, 1, 1, 2).judge(ALIAS, Sent("r", [0, 0, 1, -1])) == Judged(
        BUNDLE,
        Feedback(
            4,
            2,
            {
                "0": ClassCounts(true=2, answered=1, right=1),
                "1": ClassCounts(true=1, answered=2, right=1),
                "2": ClassCounts(true=0, answered=1, right=0),
            },
        ),
    )


def test_no_more_classes_are_told_than_a_message_holds() -> None:
    answers = Answers(1)
    answers.keep(ALIAS, "r", BUNDLE, tuple(range(LARGEST_KEPT)))
    labels = list(range(LARGEST_KEPT, 2 * LARGEST_KEPT))
    judged = answers.judge(ALIAS, Sent("r", labels)).feedback
    assert (judged.labelled, len(judged.classes)) == (LARGEST_KEPT, LARGEST_CLASSES)


def test_numbers_are_judged_by_their_errors() -> None:
    judged = kept(1.0, 2.0).judge(ALIAS, Sent("r", values=[1.5, 0.0]))
    assert judged.feedback == Feedback(values=2, absolute_error=2.5, squared_error=4.25, answers=1)


@pytest.mark.parametrize("given", [1e300, math.inf, math.nan])
def test_an_error_without_bound_stays_a_number_that_json_has(given: float) -> None:
    judged = kept(given, given).judge(ALIAS, Sent("r", values=[-1e308] * 2))
    assert judged.feedback.squared_error == LARGEST_SUM


@pytest.mark.parametrize(
    ("given", "sent", "error"),
    [
        ((1, 2), Sent("r", [1]), WrongLabels),
        ((1.0, 2.0), Sent("r", values=[1.0]), WrongLabels),
        ((1,), Sent("r", values=[1.0]), WrongTruth),
        ((1.0,), Sent("r", [1]), WrongTruth),
    ],
)
def test_labels_that_do_not_fit_the_answer_leave_it_to_be_judged(
    given: tuple[float, ...], sent: Sent, error: type[Exception]
) -> None:
    answers = kept(*given)
    with pytest.raises(error):
        answers.judge(ALIAS, sent)
    with pytest.raises(error):
        answers.judge(ALIAS, sent)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"id":"r"}', b'{"id":"r","labels":[1],"values":[1]}', b'{"labels":[1]}'],
)
def test_what_holds_no_labels_is_no_feedback(body: bytes) -> None:
    with pytest.raises(BadFeedback):
        decode_feedback(body)
