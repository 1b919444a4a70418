"""What the broker holds: first what must be there, then what is leased, then the newest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.builders import a_digest
from tests.laws import tried
from wherry.names import Digest
from wherry_controller.core.holding import hold

OPEN, LEASED, NEW, OLD = (a_digest(name) for name in ("open", "leased", "new", "old"))
SIZES = {one: {one: 10} for one in (OPEN, LEASED, NEW, OLD)}
ORDER = (NEW, OLD, OPEN, LEASED)


def held(budget_bytes: int, *, sizes: dict[Digest, dict[Digest, int]] = SIZES) -> set[Digest]:
    return set(hold(ORDER, sizes, must={OPEN}, leased={LEASED}, budget_bytes=budget_bytes))


def test_each_kind_is_held_while_there_is_room_the_dearest_first() -> None:
    assert held(0) == {OPEN}
    assert held(20) == {OPEN, LEASED}
    assert held(30) == {OPEN, LEASED, NEW}
    assert held(40) == {OPEN, LEASED, NEW, OLD}


def test_what_two_share_counts_once() -> None:
    shared = a_digest("shared")
    sizes = {OPEN: {shared: 10}, LEASED: {LEASED: 50}, NEW: {shared: 10, NEW: 1}, OLD: {OLD: 10}}
    assert held(11, sizes=sizes) == {OPEN, NEW}


def test_a_smaller_one_finds_the_room_that_a_larger_leaves() -> None:
    assert held(25, sizes={**SIZES, LEASED: {LEASED: 90}}) == {OPEN, NEW}


@tried
@given(
    st.lists(st.integers(0, 50), min_size=4, max_size=4),
    st.integers(0, 200),
    st.sets(st.sampled_from(ORDER)),
    st.sets(st.sampled_from(ORDER)),
)
def test_only_what_must_be_there_ever_exceeds_the_budget(
    lengths: list[int], budget_bytes: int, must: set[Digest], leased: set[Digest]
) -> None:
    sizes = {one: {one: length} for one, length in zip(ORDER, lengths, strict=True)}
    found = hold(ORDER, sizes, must=must, leased=leased, budget_bytes=budget_bytes)
    assert must <= found
    taken = sum(sizes[one][one] for one in found)
    assert taken <= max(budget_bytes, sum(sizes[one][one] for one in must))
