"""Measures of windows add up, whatever a device has measured."""

from __future__ import annotations

import math

import pytest

from wherry import codec
from wherry.errors import Malformed
from wherry.histogram import from_durations
from wherry.measures import (
    LARGEST_CLASSES,
    LARGEST_SUM,
    ClassCounts,
    Feedback,
    Seen,
    ShadowCounts,
    macro_f1,
    sum_seen,
)


def a_seen(name: str = "image", *, counts: tuple[int, ...] = (1, 2, 3)) -> Seen:
    return Seen(
        name=name, rows=2, values=7, counts=counts, zeros=1, not_finite=1, classes=(1, 0, 1)
    )


def test_feedback_adds_up_class_by_class() -> None:
    some = Feedback(3, 2, {"0": ClassCounts(2, 1, 1), "1": ClassCounts(1, 2, 1)})
    more = Feedback(1, 0, {"1": ClassCounts(1, 0, 0), "2": ClassCounts(0, 1, 0)})
    assert some + more == Feedback(
        4, 2, {"0": ClassCounts(2, 1, 1), "1": ClassCounts(2, 2, 1), "2": ClassCounts(0, 1, 0)}
    )
    errors = Feedback(values=2, absolute_error=1.5, squared_error=1.25)
    assert errors + errors == Feedback(values=4, absolute_error=3.0, squared_error=2.5)


def test_more_classes_than_a_window_holds_are_labelled_and_not_told_apart() -> None:
    full = Feedback(1, 1, {str(number): ClassCounts(1, 1, 1) for number in range(LARGEST_CLASSES)})
    both = full + Feedback(1, 1, {"0": ClassCounts(1), "beyond": ClassCounts(1)})
    assert len(both.classes) == LARGEST_CLASSES
    assert both.classes["0"].true == 2
    assert both.labelled == 2
    assert codec.decode(Feedback, codec.encode(both)) == both


def test_sums_stay_numbers_that_json_can_say() -> None:
    vast = Feedback(values=1, absolute_error=math.inf, squared_error=math.nan)
    both = vast + Feedback(values=1, absolute_error=1e308, squared_error=1.0)
    assert (both.absolute_error, both.squared_error) == (LARGEST_SUM, LARGEST_SUM)
    assert codec.decode(Feedback, codec.encode(both + both)) == both + both
    shadows = ShadowCounts(distance=math.inf, largest_distance=math.inf) + ShadowCounts()
    assert (shadows.distance, shadows.largest_distance) == (LARGEST_SUM, LARGEST_SUM)


@pytest.mark.parametrize("sick", ["-1", "1e301", "1e400"])
@pytest.mark.parametrize("field", ["absolute_error", "squared_error"])
def test_a_sum_that_no_device_could_have_is_refused(field: str, sick: str) -> None:
    with pytest.raises(Malformed):
        codec.decode(Feedback, f'{{"{field}":{sick}}}'.encode())
    with pytest.raises(Malformed):
        codec.decode(ShadowCounts, f'{{"distance":{sick}}}'.encode())


def test_what_was_seen_adds_up_tensor_by_tensor() -> None:
    parts = [(a_seen(), a_seen("sound")), (a_seen("sound", counts=(0, 0, 5)),)]
    image, sound = sum_seen(parts)
    assert image == a_seen()
    assert sound.counts == (1, 2, 8)
    assert (sound.rows, sound.values, sound.zeros, sound.not_finite) == (4, 14, 2, 2)
    assert sound.classes == (2, 0, 2)


def test_counts_of_fewer_bins_miss_the_last_ones() -> None:
    assert (a_seen(counts=(1,)) + a_seen(counts=(1, 2))).counts == (2, 2)


def test_shadows_add_up_and_the_largest_distance_stays_the_largest() -> None:
    some = ShadowCounts(
        requests=2,
        rows=3,
        agreed=2,
        distance=0.5,
        largest_distance=0.4,
        compute=from_durations([10]),
        incumbent_compute=from_durations([20]),
        errors={"timed_out": 1},
        skipped={"busy": 2},
    )
    more = ShadowCounts(
        requests=1,
        rows=1,
        distance=0.1,
        largest_distance=0.1,
        compute=from_durations([10]),
        incumbent_compute=from_durations([30]),
        errors={"timed_out": 1, "worker_died": 1},
        skipped={"too_hot": 1},
    )
    assert some + more == ShadowCounts(
        requests=3,
        rows=4,
        agreed=2,
        distance=0.6,
        largest_distance=0.4,
        compute=from_durations([10, 10]),
        incumbent_compute=from_durations([20, 30]),
        errors={"timed_out": 2, "worker_died": 1},
        skipped={"busy": 2, "too_hot": 1},
    )


def test_macro_f1_is_the_mean_over_the_classes_that_came_up() -> None:
    classes = {"0": ClassCounts(4, 3, 3), "1": ClassCounts(2, 3, 1), "2": ClassCounts()}
    both = macro_f1(Feedback(6, 4, classes))
    assert both == pytest.approx((6 / 7 + 2 / 5) / 2)
    assert macro_f1(Feedback(6, 4)) is None
