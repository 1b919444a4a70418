"""Which requests go to a candidate, as laws over keys and numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.builders import a_digest, a_signature, a_tensor
from wherry.signature import BATCH, StatePair
from wherry_agent.core.sharing import (
    are_alike,
    begin_allowance,
    falls_to,
    grow,
    is_sampled,
    may_spend,
    spend,
)

A, B = a_digest("A"), a_digest("B")
SHARES = st.floats(0.01, 0.99)


@given(st.text(), SHARES, SHARES)
def test_who_falls_to_a_candidate_still_does_when_its_share_grows(
    key: str, one: float, other: float
) -> None:
    small, large = sorted((one, other))
    assert falls_to(A, key, large) or not falls_to(A, key, small)
    assert falls_to(A, key, one) == falls_to(A, key, one)


def test_another_candidate_draws_the_line_anew() -> None:
    keys = [str(number) for number in range(1000)]
    both = sum(falls_to(A, key, 0.5) and falls_to(B, key, 0.5) for key in keys)
    assert 200 <= both <= 300


@given(SHARES, st.integers(0, 1 << 40))
def test_every_stretch_of_requests_is_sampled_by_its_share(share: float, begin: int) -> None:
    sampled = sum(is_sampled(begin + number, share) for number in range(1000))
    assert abs(sampled - 1000 * share) <= 5


def test_all_are_sampled_where_the_share_is_whole() -> None:
    assert all(is_sampled(number, 1.0) for number in range(1000))


def test_signatures_are_alike_whose_tensors_and_states_are() -> None:
    states = (StatePair("h_out", "h_in"),)
    some = (a_tensor("h_in"), a_tensor("image"))
    given_back = (a_tensor("h_out"), a_tensor("scores"))
    stateful = a_signature(inputs=some, outputs=given_back, states=states)
    assert are_alike(a_signature(max_batch=4), a_signature(max_batch=8))
    assert not are_alike(stateful, a_signature(inputs=some, outputs=given_back))
    assert not are_alike(a_signature(), a_signature(inputs=(a_tensor("image", (BATCH, 4)),)))
    assert not are_alike(a_signature(), a_signature(outputs=(a_tensor("scores", (BATCH, 4)),)))


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 2)), min_size=1, max_size=50), SHARES)
def test_what_is_spent_never_exceeds_the_share_of_the_time_by_more_than_one_cost(
    turns: list[tuple[float, float]], core_share: float
) -> None:
    allowance, now_s, spent_s, largest_s = begin_allowance(core_share, 0.0), 0.0, 0.0, 0.0
    for waited_s, cost_s in turns:
        now_s += waited_s
        allowance = grow(allowance, now_s)
        if may_spend(allowance):
            allowance = spend(allowance, cost_s)
            spent_s, largest_s = spent_s + cost_s, max(largest_s, cost_s)
    assert spent_s <= core_share * now_s + largest_s + 1e-6
