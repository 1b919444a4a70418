"""Each bundle that an order names is one of targets, or denied by the reason that fits."""

from __future__ import annotations

import json

import pytest

from tests.builders import a_bundle_of, a_digest, a_trial, a_wanted, an_alias, an_order
from tests.trusted import a_repository
from wherry.names import Digest, ModelName, ProfileName, VersionName
from wherry.reasons import Reason
from wherry.trust.metadata import Targets, parse
from wherry.trust.target import Denied, Target, Verdict, missing_needs
from wherry.trust.verdict import Grounds, listed_in, min_release_of, to_measure, to_serve

ALIAS, OTHER = an_alias(), an_alias("other")
PROFILE = ProfileName("pi-onnx")
WANTED = a_digest("wanted")


def a_target(
    *,
    measuring: bool = False,
    profile: ProfileName = PROFILE,
    release: int | None = 3,
    needs: int = 0,
) -> Target:
    return Target(
        model=ModelName("digits"),
        version=VersionName("v1"),
        profile=profile,
        measuring=measuring,
        releases={} if release is None else {ALIAS: release},
        needs={OTHER: needs} if needs else {},
    )


def grounds(listed: Verdict | None, *, least: int = 0, revoked: tuple[Digest, ...] = ()) -> Grounds:
    order = an_order(
        aliases={ALIAS: a_wanted(bundle=WANTED)},
        trials=(a_trial(bundle=WANTED),),
        revoked=revoked,
    )
    return Grounds(order, PROFILE, {ALIAS: least}, {WANTED: listed})


def denial(verdict: Verdict) -> Reason:
    assert isinstance(verdict, Denied)
    assert verdict.detail
    return verdict.reason


@pytest.mark.parametrize(
    ("grounds", "reason"),
    [
        (grounds(None), Reason.NOT_IN_TARGETS),
        (grounds(Denied(Reason.WRONG_MANIFEST, "so")), Reason.WRONG_MANIFEST),
        (grounds(a_target(), revoked=(WANTED,)), Reason.REVOKED),
        (grounds(a_target(profile=ProfileName("x86"))), Reason.UNSUITABLE_PROFILE),
        (grounds(a_target(measuring=True)), Reason.ONLY_FOR_MEASURING),
        (grounds(a_target(release=None)), Reason.WRONG_ALIAS),
        (grounds(a_target(release=3), least=4), Reason.BELOW_MIN_RELEASE),
    ],
)
def test_what_may_not_be_served_is_denied_by_its_reason(grounds: Grounds, reason: Reason) -> None:
    assert denial(to_serve(grounds, ALIAS, WANTED)) is reason


def test_a_release_under_one_alias_is_none_under_another() -> None:
    assert to_serve(grounds(a_target()), ALIAS, WANTED) == a_target()
    assert denial(to_serve(grounds(a_target()), OTHER, WANTED)) is Reason.WRONG_ALIAS


def test_going_back_is_denied_below_the_least_release_only() -> None:
    for least in (0, 2, 3):
        assert to_serve(grounds(a_target(release=3), least=least), ALIAS, WANTED) == a_target()


@pytest.mark.parametrize(
    ("grounds", "reason"),
    [
        (grounds(None), Reason.NOT_IN_TARGETS),
        (grounds(a_target(measuring=True), revoked=(WANTED,)), Reason.REVOKED),
        (
            grounds(a_target(measuring=True, profile=ProfileName("x86"))),
            Reason.UNSUITABLE_PROFILE,
        ),
        (grounds(a_target()), Reason.NOT_FOR_MEASURING),
    ],
)
def test_what_may_not_be_measured_is_denied_by_its_reason(grounds: Grounds, reason: Reason) -> None:
    assert denial(to_measure(grounds, WANTED)) is reason


def test_a_bundle_for_measuring_is_measured_without_a_release() -> None:
    target = a_target(measuring=True, release=None)
    assert to_measure(grounds(target), WANTED) == target


def test_needs_are_met_by_that_release_or_a_later_one() -> None:
    target = a_target(needs=4)
    assert missing_needs(target, {}) == {OTHER: 4}
    assert missing_needs(target, {OTHER: 3, ALIAS: 9}) == {OTHER: 4}
    assert missing_needs(target, {OTHER: 4}) == {}
    assert missing_needs(target, {OTHER: 5}) == {}
    assert missing_needs(a_target(), {}) == {}


def listing(**changes: object) -> tuple[Targets, Digest]:
    """Return a bin in which the one entry says something else."""
    bundle = a_bundle_of()
    (held,) = a_repository([bundle]).bins.values()
    document = json.loads(held.data)
    document["signed"]["targets"][bundle.digest] |= changes
    return parse(Targets, "bin", json.dumps(document).encode()).signed, bundle.digest


def test_targets_say_what_the_repository_put_there() -> None:
    listed = listed_in(*listing())
    assert isinstance(listed, Target)
    assert listed.releases == {ALIAS: 1}


def test_what_targets_do_not_name_they_do_not_list() -> None:
    targets, _ = listing()
    assert listed_in(targets, a_digest("another")) is None


@pytest.mark.parametrize(
    "hashes",
    [
        {"sha256": a_digest("another")},
        {"sha512": a_digest("wanted") * 2},
        {"sha256": a_bundle_of().digest, "sha512": a_digest() * 2},
    ],
)
def test_an_entry_for_other_bytes_is_denied(hashes: dict[str, str]) -> None:
    listed = listed_in(*listing(hashes=hashes))
    assert isinstance(listed, Denied)
    assert listed.reason is Reason.WRONG_MANIFEST


@pytest.mark.parametrize(
    "custom", [{}, {"wherry": {}}, {"wherry": {"model": "A B"}}, {"wherry": 3}]
)
def test_an_entry_that_says_too_little_is_denied(custom: object) -> None:
    listed = listed_in(*listing(custom=custom))
    assert isinstance(listed, Denied)
    assert listed.reason is Reason.MALFORMED_METADATA


def test_the_least_releases_are_what_targets_say() -> None:
    data = a_repository(min_release={ALIAS: 7}).targets.data
    assert min_release_of(parse(Targets, "targets", data).signed) == {ALIAS: 7}
