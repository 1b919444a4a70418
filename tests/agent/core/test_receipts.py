"""Claims are signed one after the other, however often they are asked for, and none is lost."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import a_deployment_id, a_digest, a_histogram, a_wanted, an_alias
from tests.laws import tried
from wherry.messages import SignedReceipt
from wherry_agent.core.health import Watch
from wherry_agent.core.receipts import (
    LONGEST_PAUSE_S,
    MOST_CLAIMS,
    PAUSE_S,
    Attest,
    Attested,
    Claim,
    Receipts,
    TellReceipt,
    add,
    begin,
    claim_of,
    take,
    tick,
)
from wherry_agent.core.standing import Probation, Shown

SHOWN = Shown(
    runtime="litert", runtime_version="2.3.0", outputs=a_digest("outputs"), memory_bytes=60
)
PROBATION = Probation(
    wanted=a_wanted("d-1", bundle=a_digest("new")),
    confirmed=(),
    revoked=frozenset(),
    began_s=0.0,
    shown=SHOWN,
)


def a_claim(number: int = 1, alias: str = "default") -> Claim:
    return Claim(
        alias=an_alias(alias),
        deployment=a_deployment_id(f"d-{number}"),
        bundle=a_digest(f"bundle {number}"),
        outputs=a_digest("outputs"),
        requests=3,
        p50_ms=1.0,
        p99_ms=2.0,
        memory_bytes=60,
        runtime="onnxruntime",
        runtime_version="1.31.1",
    )


def signed(claim: Claim) -> SignedReceipt:
    return SignedReceipt(signed=msgspec.Raw(claim.bundle.encode()), keyid="key", sig="00")


def answered(claim: Claim) -> Attested:
    return Attested(claim.deployment, signed(claim))


def test_a_claim_says_what_was_shown_and_measured() -> None:
    watch = Watch(whole=a_histogram(*[1.0] * 98, 50.0, 50.0), requests=101, worker=(70, 80))
    claim = claim_of(an_alias(), PROBATION, watch)
    assert claim is not None
    assert (claim.deployment, claim.bundle) == (PROBATION.wanted.deployment, a_digest("new"))
    assert (claim.runtime, claim.runtime_version, claim.outputs) == (
        SHOWN.runtime,
        SHOWN.runtime_version,
        SHOWN.outputs,
    )
    assert (claim.requests, claim.memory_bytes) == (101, 80)
    assert claim.p50_ms is not None and 0.9 < claim.p50_ms < 1.1
    assert claim.p99_ms is not None and 46 < claim.p99_ms < 54


def test_a_probation_that_nobody_asked_is_attested_without_times() -> None:
    claim = claim_of(an_alias(), PROBATION, Watch())
    assert claim is not None
    assert (claim.p50_ms, claim.p99_ms, claim.memory_bytes) == (None, None, SHOWN.memory_bytes)


def test_what_was_never_shown_is_not_attested() -> None:
    assert claim_of(an_alias(), msgspec.structs.replace(PROBATION, shown=None), Watch()) is None


def test_claims_are_signed_one_after_the_other_and_the_newest_of_an_alias_is_kept() -> None:
    first, second = a_claim(1), a_claim(2)
    receipts, effects = add(Receipts(), first)
    assert effects == (Attest(first),)
    receipts, effects = add(receipts, second)
    assert effects == ()
    assert take(receipts, answered(second), 0.0) == (receipts, ())
    receipts, effects = take(receipts, answered(first), 0.0)
    told = TellReceipt(an_alias(), first.deployment, signed(first))
    assert effects == (told, Attest(second))
    receipts, effects = take(receipts, answered(second), 0.0)
    assert (receipts.claims, receipts.signed) == ((), {an_alias(): signed(second)})


def test_what_was_signed_twice_is_told_once() -> None:
    receipts, _ = add(Receipts(), a_claim())
    receipts, _ = take(receipts, answered(a_claim()), 0.0)
    assert take(receipts, answered(a_claim()), 0.0) == (receipts, ())


def test_a_claim_that_could_not_be_signed_is_tried_again_after_growing_pauses() -> None:
    receipts, _ = add(Receipts(), a_claim())
    now_s = 100.0
    for pause_s in (PAUSE_S, 2 * PAUSE_S, 4 * PAUSE_S):
        receipts, effects = take(receipts, Attested(a_claim().deployment, None, "no key"), now_s)
        assert effects == ()
        assert tick(receipts, now_s + pause_s - 0.1)[1] == ()
        now_s += pause_s
        receipts, effects = tick(receipts, now_s)
        assert effects == (Attest(a_claim()),)
        assert tick(receipts, now_s + LONGEST_PAUSE_S)[1] == ()  # It is being signed.
    receipts = msgspec.structs.replace(receipts, failed=90)
    receipts, _ = take(receipts, Attested(a_claim().deployment, None), now_s)
    assert tick(receipts, now_s + LONGEST_PAUSE_S)[1] == begin(receipts) == (Attest(a_claim()),)


def test_of_too_many_claims_the_oldest_that_nobody_signs_go() -> None:
    receipts = Receipts()
    for number in range(MOST_CLAIMS + 5):
        receipts, _ = add(receipts, a_claim(number))
    assert len(receipts.claims) == MOST_CLAIMS
    assert [claim.deployment for claim in receipts.claims[:2]] == ["d-0", "d-6"]
    assert receipts.claims[-1] == a_claim(MOST_CLAIMS + 4)


steps = st.sampled_from(["confirm", "sign", "fail", "tick", "restart"])


@tried
@given(st.lists(steps, max_size=40))
def test_every_claim_is_told_once_and_in_order_whatever_comes_between(story: list[str]) -> None:
    receipts, told, confirmed, now_s = Receipts(), list[str](), list[str](), 0.0
    asked: list[Claim] = []
    for what in [*story, *["tick", "sign"] * (len(story) + 1)]:
        effects: tuple[Attest | TellReceipt, ...] = ()
        now_s += LONGEST_PAUSE_S
        if what == "confirm":
            claim = a_claim(len(confirmed))
            confirmed.append(claim.deployment)
            receipts, effects = add(receipts, claim)
        elif what == "restart":
            receipts = Receipts(claims=receipts.claims, signed=receipts.signed)
            effects = begin(receipts)
        elif what == "tick":
            receipts, effects = tick(receipts, now_s)
        elif asked:
            came = asked.pop(0)
            receipt = None if what == "fail" else signed(came)
            receipts, effects = take(receipts, Attested(came.deployment, receipt), now_s)
        asked += [effect.claim for effect in effects if isinstance(effect, Attest)]
        told += [effect.deployment for effect in effects if isinstance(effect, TellReceipt)]
    assert told == confirmed
