"""What the controller wants of a device, and how it reads what the device says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import a_device_id, a_digest, a_store_id, a_wanted, an_alias, an_order
from tests.laws import tried
from wherry.names import StoreId
from wherry_controller.core.device import (
    MOST_REVOKED,
    MOST_STORES,
    Position,
    Term,
    contiguous,
    earlier_after,
    first_order,
    is_news,
    is_silent,
    is_twin,
    issue,
    outrun,
    want,
    withdraw,
)

NOW = 1_800_000_000.7
LIFE_S = 90 * 86_400.0


def test_the_first_order_wants_nothing() -> None:
    order = first_order(a_device_id())
    assert (order.generation, order.aliases) == (0, {})


def test_a_change_raises_the_generation_and_a_repetition_does_not() -> None:
    order = want(first_order(a_device_id()), an_alias(), a_wanted())
    assert (order.generation, order.aliases) == (1, {an_alias(): a_wanted()})
    assert want(order, an_alias(), a_wanted()) is order
    assert want(order, an_alias(), a_wanted("another")).generation == 2


def test_other_aliases_and_revocations_stay_as_they_are() -> None:
    order = an_order(revoked=(a_digest("sick"),))
    both = want(order, an_alias("detector"), a_wanted("another"))
    assert both.aliases == {**order.aliases, an_alias("detector"): a_wanted("another")}
    assert both.revoked == order.revoked
    assert withdraw(both, an_alias("detector")).aliases == order.aliases


def test_a_way_back_revokes_what_it_leaves_until_it_is_wanted_again() -> None:
    sick = a_digest("sick")
    back = want(an_order(), an_alias(), a_wanted("back"), revoked=sick)
    assert back.revoked == (sick,)
    assert want(back, an_alias(), a_wanted("back"), revoked=sick) is back
    assert want(back, an_alias(), a_wanted("again", bundle=sick)).revoked == ()


def test_only_the_newest_revocations_are_kept() -> None:
    order = an_order()
    for number in range(MOST_REVOKED + 5):
        order = want(order, an_alias(), a_wanted(), revoked=a_digest(str(number)))
    assert order.revoked[-1] == a_digest(str(MOST_REVOKED + 4))
    assert len(order.revoked) == MOST_REVOKED


def test_a_withdrawal_raises_the_generation_once() -> None:
    bare = withdraw(an_order(), an_alias())
    assert (bare.generation, bare.aliases) == (an_order().generation + 1, {})
    assert withdraw(bare, an_alias()) is bare


def issued(term: Term, *, epoch: int = 1, now: float = NOW) -> Term:
    return issue(term, epoch, lifetime_s=LIFE_S, now=now, snapshot=7)


CHANGED = Term(generation=1, epoch=0, issued=0, expires=0)


def test_an_order_is_issued_for_an_enrolment_and_to_an_end() -> None:
    assert issued(CHANGED, epoch=3) == Term(1, 3, int(NOW), int(NOW + LIFE_S), 7)


def test_an_order_is_renewed_at_half_of_its_life_as_the_next_generation() -> None:
    term = issued(CHANGED)
    half = (term.issued + term.expires) / 2
    assert issued(term, now=half - 1) is term
    assert issued(term, now=half) == Term(2, 1, int(half), int(half + LIFE_S), 7)


def test_an_order_for_an_earlier_enrolment_is_renewed_at_once() -> None:
    renewed = issued(issued(CHANGED), epoch=2)
    assert (renewed.epoch, renewed.generation) == (2, 2)


def test_what_wants_nothing_yet_is_never_issued() -> None:
    assert issued(Term(0, 0, 0, 0)) == Term(0, 0, 0, 0)


def test_a_change_raises_the_generation_once_and_is_issued_anew() -> None:
    changed = want(an_order(generation=4), an_alias(), a_wanted("another"))
    assert (changed.generation, changed.issued, changed.expires) == (5, 0, 0)


def test_an_order_that_outruns_another_is_issued_anew() -> None:
    assert outrun(an_order(generation=4), 4) == an_order(generation=4)
    newer = outrun(an_order(generation=4), 7)
    assert (newer.generation, newer.expires) == (8, 0)


@pytest.mark.parametrize(
    ("known", "said", "news"),
    [
        (None, (1, 0), True),
        ((1, 4), (1, 5), True),
        ((1, 4), (1, 4), False),
        ((1, 4), (1, 3), False),
        ((1, 4), (2, 1), True),
    ],
)
def test_news_has_a_higher_number_or_comes_from_a_store_made_anew(
    known: tuple[int, int] | None, said: tuple[int, int], news: bool
) -> None:
    before = Position(a_store_id(known[0]), known[1]) if known else None
    assert is_news(before, Position(a_store_id(said[0]), said[1])) == news


def after(*said: tuple[int, int]) -> tuple[Position | None, dict[StoreId, int], list[bool]]:
    """Return what is known after these stores spoke, and of each whether it showed a twin."""
    known: Position | None = None
    earlier: dict[StoreId, int] = {}
    twins = []
    for store, seq in said:
        position = Position(a_store_id(store), seq)
        twins.append(is_twin(earlier, position))
        if is_news(known, position, earlier):
            earlier = earlier_after(earlier, known, position)
            known = position
    return known, earlier, twins


def test_a_store_that_has_news_after_another_one_has_spoken_is_of_a_twin() -> None:
    assert after((1, 4), (2, 1), (1, 5))[2] == [False, False, True]
    assert after((1, 4), (2, 1), (1, 5), (2, 2))[2] == [False, False, True, True]


def test_a_device_that_is_made_anew_is_no_twin_nor_is_what_comes_late_of_its_old_store() -> None:
    known, earlier, twins = after((1, 4), (2, 1), (1, 4), (1, 3), (3, 1), (2, 1))
    assert not any(twins)
    assert known == Position(a_store_id(3), 1)
    assert earlier == {a_store_id(1): 4, a_store_id(2): 1}


def test_only_the_newest_earlier_stores_are_kept() -> None:
    _, earlier, _ = after(*((store, 1) for store in range(1, MOST_STORES + 4)))
    assert list(earlier) == [a_store_id(store) for store in range(3, MOST_STORES + 3)]


@tried
@given(st.integers(0, 9), st.frozensets(st.integers(1, 20)))
def test_an_ack_covers_everything_up_to_the_first_gap(acked: int, stored: frozenset[int]) -> None:
    reached = contiguous(acked, stored)
    assert reached >= acked
    assert set(range(acked + 1, reached + 1)) <= stored
    assert reached + 1 not in stored


def test_a_device_is_silent_once_it_was_not_heard_of_for_longer_than_the_deadline() -> None:
    assert not is_silent(100.0, 160.0, 60.0)
    assert is_silent(100.0, 160.1, 60.0)
    assert is_silent(None, 0.0, 60.0)
