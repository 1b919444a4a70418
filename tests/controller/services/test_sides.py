"""Both sides of rollouts as they are read from windows: spans, growing, and the page."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.builders import a_digest, a_histogram, a_telemetry, an_alias
from tests.controller.services.test_rollouts import CANARY, PI_1, PI_2, PI_3, QUICK
from tests.controller.stores import DIGITS, a_store, add_devices
from wherry.histogram import quantile_ms
from wherry.measures import Feedback, ShadowCounts
from wherry.messages import Split
from wherry.names import DeviceId, Digest, parse_rollout_name, parse_version_name
from wherry_controller.core.gate import Decision, GateReason, Verdict
from wherry_controller.core.rollout import Judged, Plan, Rollout, Stage, Started, step
from wherry_controller.core.sides import Pair
from wherry_controller.services.machines import written
from wherry_controller.services.sides import MOST_KEPT, BothSides
from wherry_controller.services.sides_page import page_of
from wherry_controller.services.telemetry import window_of
from wherry_controller.store import devices, telemetry
from wherry_controller.store.database import Store
from wherry_controller.store.records import RolloutRecord

OLD, NEW = a_digest("old"), a_digest("new")
BEGAN_S, BEFORE_S = 1000.0, 100.0
BESIDE = Split(share=0.5)


CANARIES = Stage(name="canary", bundles={PI_1: NEW, PI_2: NEW}, gate=QUICK)
FIELD = Stage(name="field", bundles={PI_3: NEW}, gate=QUICK)
PROMOTE = Verdict(decision=Decision.PROMOTE, reason=GateReason.PASSED, sentence="")


def a_rollout(
    split: Split | None = None,
    *,
    ended_at: float | None = None,
    second_at: float | None = None,
    before: Digest = OLD,
) -> RolloutRecord:
    """Return a rollout that has begun: one canary served before, the other did not."""
    plan = Plan(
        name=parse_rollout_name("v2"), alias=an_alias(), stages=(CANARIES, FIELD), split=split
    )
    state, _ = step(Rollout(plan=plan), Started(BEGAN_S, {PI_1: before}))
    if second_at is not None:
        state, _ = step(state, Judged(0, PROMOTE, second_at, {PI_3: OLD}))
    record = RolloutRecord(
        name=plan.name,
        model=DIGITS,
        version=parse_version_name("v2"),
        alias=plan.alias,
        groups=(CANARY, CANARY),
        status="",
        state="",
        effects="",
        created_at=BEGAN_S,
    )
    return replace(written(record, state, (), now=BEGAN_S), ended_at=ended_at)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return a_fleet_store(tmp_path)


def a_fleet_store(folder: Path) -> Store:
    store = a_store(folder)
    with store.transaction() as tx:
        add_devices(tx, PI_1, PI_2, PI_3)
    return store


class Teller:
    """Puts windows of three requests each into the database."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seq = 0

    def tell(
        self,
        bundle: Digest,
        at: float,
        *,
        device: DeviceId = PI_1,
        alias: str = "default",
        shadow: ShadowCounts | None = None,
        compute_ms: float = 1.0,
    ) -> None:
        self._seq += 1
        compute = a_histogram(*[compute_ms] * 3)
        said = a_telemetry(self._seq, bundle=bundle, compute=compute)
        window = window_of(device, replace(said, alias=an_alias(alias)), at)
        with self._store.transaction() as tx:
            telemetry.add_windows(tx, [replace(window, shadow=shadow)])


def read(store: Store, sides: BothSides, record: RolloutRecord, now: float) -> list[Pair]:
    with store.reading() as tx:
        return list(sides.pairs(tx, record, now))


def requests_of(pair: Pair) -> tuple[int, int]:
    return pair.candidate.requests, pair.incumbent.requests


def fresh(store: Store, record: RolloutRecord, now: float) -> list[Pair]:
    return read(store, BothSides(before_s=BEFORE_S), record, now)


def test_the_incumbent_counts_from_before_the_stage_where_it_is_followed(store: Store) -> None:
    teller = Teller(store)
    for at in (BEGAN_S - BEFORE_S - 1, BEGAN_S - 50, BEGAN_S + 5):
        teller.tell(OLD, at)
    teller.tell(NEW, BEGAN_S - 1)  # It served here once before.
    teller.tell(NEW, BEGAN_S + 10)
    one, two = fresh(store, a_rollout(), BEGAN_S + 20)
    assert (one.device, one.before, requests_of(one)) == (PI_1, OLD, (3, 6))
    assert (two.device, two.before, requests_of(two)) == (PI_2, None, (0, 0))


def test_the_incumbent_counts_in_the_same_time_where_both_answer(store: Store) -> None:
    teller = Teller(store)
    for at in (BEGAN_S - 50, BEGAN_S + 5):
        teller.tell(OLD, at)
        teller.tell(NEW, at)
    assert requests_of(fresh(store, a_rollout(BESIDE), BEGAN_S + 20)[0]) == (3, 3)


def test_another_alias_or_another_device_is_another_matter(store: Store) -> None:
    teller = Teller(store)
    teller.tell(NEW, BEGAN_S + 5, alias="detector")
    teller.tell(NEW, BEGAN_S + 5, device=PI_2)
    one, two = fresh(store, a_rollout(), BEGAN_S + 20)
    assert (requests_of(one), requests_of(two)) == ((0, 0), (3, 0))


def test_what_comes_long_after_the_end_counts_no_more(store: Store) -> None:
    teller = Teller(store)
    for at in (BEGAN_S + 5, BEGAN_S + 12, BEGAN_S + 500):
        teller.tell(NEW, at)
    record = a_rollout(ended_at=BEGAN_S + 10)
    assert requests_of(fresh(store, record, BEGAN_S + 900)[0]) == (6, 0)


def test_a_stage_that_begins_later_is_read_from_before_its_begin(store: Store) -> None:
    teller, sides = Teller(store), BothSides(before_s=BEFORE_S)
    teller.tell(OLD, BEGAN_S + 120, device=PI_3)
    assert len(read(store, sides, a_rollout(), BEGAN_S + 190)) == 2
    teller.tell(NEW, BEGAN_S + 205, device=PI_3)
    record = a_rollout(second_at=BEGAN_S + 200)
    (_, _, third) = read(store, sides, record, BEGAN_S + 210)
    assert (third.device, requests_of(third)) == (PI_3, (3, 3))


def test_a_device_that_had_the_bundle_already_has_nothing_beside_it(store: Store) -> None:
    Teller(store).tell(NEW, BEGAN_S + 5)
    one = fresh(store, a_rollout(before=NEW), BEGAN_S + 20)[0]
    assert (one.before, requests_of(one)) == (None, (3, 0))


def test_windows_of_an_earlier_release_count_their_labels(store: Store) -> None:
    said = window_of(PI_1, a_telemetry(bundle=NEW), BEGAN_S + 5)
    with store.transaction() as tx:
        telemetry.add_windows(tx, [replace(said, feedback=None)])
    assert fresh(store, a_rollout(), BEGAN_S + 9)[0].candidate.feedback == Feedback(2, 1)


def test_numbers_that_were_labelled_come_with_their_errors(store: Store) -> None:
    feedback = Feedback(values=4, absolute_error=2.0, squared_error=4.0)
    said = window_of(PI_1, a_telemetry(bundle=NEW), BEGAN_S + 5)
    with store.transaction() as tx:
        telemetry.add_windows(tx, [replace(said, feedback=feedback)])
    assert fresh(store, a_rollout(), BEGAN_S + 9)[0].candidate.feedback == feedback


def test_a_device_that_was_removed_has_no_sides(store: Store) -> None:
    with store.transaction() as tx:
        devices.remove_device(tx, PI_2)
    assert [one.device for one in fresh(store, a_rollout(), BEGAN_S)] == [PI_1]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.booleans()), min_size=1, max_size=8))
def test_reading_on_is_reading_everything_once(steps: list[tuple[int, bool]]) -> None:
    """A window may come in up to the moment of a reading, or be seen only by the next one."""
    with tempfile.TemporaryDirectory() as folder:
        store = a_fleet_store(Path(folder))
        teller, sides, record = Teller(store), BothSides(before_s=BEFORE_S), a_rollout()
        now = BEGAN_S
        for seconds, is_late in steps:
            now += seconds
            teller.tell(NEW, now)
            teller.tell(OLD, now)
            grown = read(store, sides, record, now)
            if is_late:  # It was written before that reading, and committed after it.
                teller.tell(NEW, now - 1 if now > BEGAN_S else now)
            assert read(store, sides, record, now) == fresh(store, record, now)
            assert requests_of(grown[0])[0] > 0
        store.close()


def test_a_page_shows_a_point_for_each_device_and_escapes_what_it_shows(store: Store) -> None:
    teller = Teller(store)
    counts = ShadowCounts(
        requests=10,
        rows=20,
        agreed=19,
        compute=a_histogram(5, 5),
        incumbent_compute=a_histogram(2, 2),
    )
    teller.tell(OLD, BEGAN_S + 1, compute_ms=2.0)
    teller.tell(NEW, BEGAN_S + 5, compute_ms=3.0, shadow=counts)
    with store.reading() as tx:
        sides = BothSides(before_s=BEFORE_S).read(tx, a_rollout(), BEGAN_S + 9)
    one, other = sides.devices
    named = (replace(one, profile="<i>"), other)
    page = page_of(replace(sides, status="<b>", devices=named))
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert "&lt;i&gt;" in page and "<i>" not in page
    assert page.count("<circle") == 1 and 'class="bad"' in page
    own_ms, other_ms = (quantile_ms(one, 0.5) for one in (counts.compute, counts.incumbent_compute))
    assert f"pi-1: {own_ms:.3f} ms, before {other_ms:.3f} ms" in page
    assert "0.9500" in page and "On 1 of 1 devices the candidate is slower" in page
    assert "By profile" in page and "<script" not in page


def test_few_rollouts_are_kept_and_all_are_read(store: Store) -> None:
    Teller(store).tell(NEW, BEGAN_S + 5)
    sides = BothSides(before_s=BEFORE_S)
    for number in range(2 * MOST_KEPT):
        record = replace(a_rollout(), name=parse_rollout_name(f"r{number}"))
        assert requests_of(read(store, sides, record, BEGAN_S + 90)[0]) == (3, 0)
    assert sides.kept == MOST_KEPT


def test_a_page_of_a_rollout_that_has_not_begun_says_so_much(store: Store) -> None:
    with store.reading() as tx:
        sides = BothSides(before_s=BEFORE_S).read(tx, a_rollout(), BEGAN_S)
    page = page_of(replace(sides, devices=(), profiles={}))
    assert "<svg" not in page and "By device" in page
