"""Drift is seen where there is one, and not where chance is enough to explain it."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from wherry.measures import Seen
from wherry.reference import Distribution, Reference
from wherry_controller.builder.judging.distribution import distribution_of
from wherry_controller.core.drift import (
    DriftLevel,
    drift_of,
    drifts_of,
    noise_of,
    stability_index,
    worst_of,
)

RANDOM = np.random.default_rng(5)
REFERENCE = distribution_of("x", RANDOM.normal(size=(4000, 3)))


def seen_of(values: NDArray[np.float64], reference: Distribution = REFERENCE) -> Seen:
    """Count as the agent's observer does."""
    finite = values[np.isfinite(values)]
    bins = np.searchsorted(reference.edges, finite, "right")
    return Seen(
        name=reference.name,
        rows=len(values),
        values=values.size,
        counts=tuple(np.bincount(bins.ravel(), minlength=len(reference.counts)).tolist()),
        zeros=int((values == 0).sum()),
        not_finite=values.size - finite.size,
    )


def level_of(values: NDArray[np.float64]) -> DriftLevel:
    (drift,) = drift_of([REFERENCE], [seen_of(values)])
    return drift.level


def test_rows_like_the_references_are_stable() -> None:
    assert level_of(RANDOM.normal(size=(1000, 3))) is DriftLevel.STABLE


@pytest.mark.parametrize(("mean", "level"), [(0.45, DriftLevel.SHIFTED), (0.8, DriftLevel.DRIFTED)])
def test_rows_that_moved_are_told_by_how_far(mean: float, level: DriftLevel) -> None:
    assert level_of(RANDOM.normal(mean, size=(2000, 3))) is level


def test_few_rows_are_no_evidence_unless_they_are_far_away() -> None:
    assert level_of(RANDOM.normal(size=(30, 3))) is DriftLevel.TOO_FEW
    assert level_of(RANDOM.normal(5.0, size=(30, 3))) is DriftLevel.DRIFTED


def test_rows_whose_values_hang_together_are_not_taken_for_more_evidence() -> None:
    """A hundred values that are all alike tell as much as one."""
    reference = distribution_of("x", np.repeat(RANDOM.normal(size=(4000, 1)), 100, axis=1))
    false = 0
    for _ in range(100):
        rows = np.repeat(RANDOM.normal(size=(400, 1)), 100, axis=1)
        (drift,) = drift_of([reference], [seen_of(rows, reference)])
        false += drift.level in (DriftLevel.SHIFTED, DriftLevel.DRIFTED)
    assert false <= 12


def test_values_that_are_no_numbers_are_a_drift_of_their_own() -> None:
    values = RANDOM.normal(size=(1000, 3))
    values[:30] = np.nan
    (drift,) = drift_of([REFERENCE], [seen_of(values)])
    assert drift.level is DriftLevel.DRIFTED
    assert drift.not_finite == pytest.approx(0.03)


def test_answers_of_other_classes_are_a_drift_of_the_output() -> None:
    reference = replace(REFERENCE, classes=(0.5, 0.5, 0.0))
    same = seen_of(RANDOM.normal(size=(1000, 3)))
    (stable,) = drift_of([reference], [replace(same, classes=(490, 505, 5))])
    (drifted,) = drift_of([reference], [replace(same, classes=(0, 500, 500))])
    assert (stable.level, drifted.level) == (DriftLevel.STABLE, DriftLevel.DRIFTED)
    assert drifted.classes_psi is not None
    assert drifted.psi is not None
    assert drifted.classes_psi > 1 > drifted.psi


def test_counts_of_other_bins_or_of_no_rows_are_left_out() -> None:
    same = seen_of(RANDOM.normal(size=(10, 3)))
    others = [
        replace(same, counts=(1, 2)),
        replace(same, name="y"),
        replace(same, rows=0),
        replace(same, classes=(1, 2)),
    ]
    classed = replace(REFERENCE, classes=(0.5, 0.3, 0.2))
    (known,) = drift_of([classed], others)
    assert known.classes_psi is None


def test_a_tensor_of_one_bin_has_no_index() -> None:
    constant = Distribution(name="x", rows=9, edges=(), counts=(9,), zeros=0.0, not_finite=0.0)
    same = Seen(name="x", rows=5, values=5, counts=(5,), zeros=5, not_finite=0)
    (drift,) = drift_of([constant], [same])
    assert (drift.psi, drift.level, drift.zeros) == (None, DriftLevel.STABLE, 1.0)


def test_the_index_is_zero_for_equal_shares_and_grows_with_the_distance() -> None:
    even = stability_index([1000, 1000], [100, 100])
    near = stability_index([1000, 1000], [110, 90])
    far = stability_index([1000, 1000], [190, 10])
    assert even == pytest.approx(0.0)
    assert near is not None
    assert far is not None
    # (0.55 - 0.5) ln(0.55 / 0.5) + (0.45 - 0.5) ln(0.45 / 0.5)
    assert near == pytest.approx(0.01003, rel=0.05)
    assert far > near
    assert stability_index([5], [5]) is None
    assert stability_index([0, 0], [5, 5]) is None
    assert stability_index([5, 5], [0, 0]) is None


def test_the_index_of_unchanged_rows_stays_below_its_noise_in_95_of_100_samples() -> None:
    reference = distribution_of("x", RANDOM.normal(size=(10_000, 1)))
    bound = noise_of(len(reference.counts), 500, 10_000)
    above = 0
    for _ in range(200):
        seen = seen_of(RANDOM.normal(size=(500, 1)), reference)
        psi = stability_index(reference.counts, seen.counts)
        assert psi is not None
        above += psi > bound
    assert above <= 24


def test_few_rows_on_either_side_are_noise() -> None:
    assert noise_of(32, 100, 10_000) == pytest.approx(noise_of(32, 10_000, 100))
    assert noise_of(32, 100, 100) > noise_of(32, 100, 10_000) > noise_of(32, 10_000, 10_000)
    assert noise_of(2, 100, 100) < noise_of(32, 100, 100)


def test_the_worst_tensor_speaks_for_the_bundle() -> None:
    reference = Reference(inputs=(REFERENCE,), outputs=(replace(REFERENCE, name="y"),))
    fine = seen_of(RANDOM.normal(size=(1000, 3)))
    moved = replace(seen_of(RANDOM.normal(3.0, size=(1000, 3))), name="y")
    inputs, outputs = drifts_of(reference, [fine], [moved])
    assert [one.tensor for one in (*inputs, *outputs)] == ["x", "y"]
    assert worst_of((*inputs, *outputs)) is DriftLevel.DRIFTED
    assert worst_of(inputs) is DriftLevel.STABLE
    assert worst_of(()) is None
