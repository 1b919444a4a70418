"""Kept answers are bounded, and each is judged once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry.names import AliasName, Digest
from wherry_agent.serving.feedback import Answers, Judged, LabelledTwice, UnknownRequest

ALIAS, BUNDLE = AliasName("default"), Digest("a" * 64)


@given(st.lists(st.integers(0, 30)), st.integers(1, 8))
def test_the_newest_answers_are_kept_and_no_more(requests: list[int], limit: int) -> None:
    answers = Answers(limit)
    for request in requests:
        answers.keep(ALIAS, str(request), BUNDLE, (request,))
    newest = list(dict.fromkeys(reversed(requests)))
    for request in newest[:limit]:
        assert answers.label(ALIAS, str(request), (request,)) == Judged(BUNDLE, 1, 1)
    for request in newest[limit:]:
        with pytest.raises(UnknownRequest):
            answers.label(ALIAS, str(request), (request,))


def test_an_answer_is_judged_once() -> None:
    answers = Answers(8)
    answers.keep(ALIAS, "r", BUNDLE, (1, 2))
    assert answers.label(ALIAS, "r", (1, 3)) == Judged(BUNDLE, 2, 1)
    with pytest.raises(LabelledTwice):
        answers.label(ALIAS, "r", (1, 2))


def test_an_id_that_is_used_again_stands_for_the_newer_answer() -> None:
    answers = Answers(8)
    answers.keep(ALIAS, "r", BUNDLE, (1,))
    answers.label(ALIAS, "r", (1,))
    answers.keep(ALIAS, "r", BUNDLE, (2,))
    assert answers.label(ALIAS, "r", (2,)).right == 1
