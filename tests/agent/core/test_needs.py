"""What bundles need of one another is there, comes with them, or they do not come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.builders import a_target, an_alias
from tests.laws import tried
from wherry.names import AliasName
from wherry.trust.target import Target, missing_needs
from wherry_agent.core.needs import find_unmet

A, B, C = an_alias("a"), an_alias("b"), an_alias("c")


def a_release(alias: AliasName, number: int, **needs: int) -> Target:
    return a_target(
        releases={alias: number}, needs={an_alias(name): least for name, least in needs.items()}
    )


def test_a_chain_of_needs_breaks_as_a_whole() -> None:
    chain = {A: a_release(A, 1, b=1), B: a_release(B, 1, c=2), C: a_release(C, 1)}
    assert find_unmet(chain, {}).keys() == {A, B}


def test_bundles_that_need_one_another_come_together() -> None:
    assert find_unmet({A: a_release(A, 2, b=2), B: a_release(B, 2, a=2)}, {A: 1, B: 1}) == {}


def test_what_comes_counts_instead_of_what_is_there() -> None:
    assert find_unmet({A: a_release(A, 1, b=3), B: a_release(B, 2)}, {B: 3}).keys() == {A}


aliases = st.sampled_from([A, B, C])
releases = st.integers(0, 3)
comings = st.dictionaries(
    aliases, st.tuples(releases, st.dictionaries(aliases, releases, max_size=2)), max_size=3
)


@tried
@given(comings, st.dictionaries(aliases, releases))
def test_what_remains_has_all_it_needs_and_nothing_more_could_remain_alone(
    story: dict[AliasName, tuple[int, dict[AliasName, int]]], there: dict[AliasName, int]
) -> None:
    comes = {
        alias: a_target(releases={alias: number}, needs=needs)
        for alias, (number, needs) in story.items()
    }
    unmet = find_unmet(comes, there)
    kept = {alias: target for alias, target in comes.items() if alias not in unmet}
    result = {**there, **{alias: target.releases[alias] for alias, target in kept.items()}}
    for target in kept.values():
        assert not missing_needs(target, result)
    for alias in unmet:
        assert comes[alias].needs
