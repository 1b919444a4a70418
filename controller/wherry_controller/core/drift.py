"""Drift: how far what a bundle sees in the field is from what it saw when it was judged.

Both sides are counts in the same bins. Their distance is the population stability index (PSI),
the sum over bins of (a - e) ln(a / e), with half a count more in each bin so that an empty one
is no infinity. By custom 0.1 is a shift and 0.25 a large one (Siddiqi, Credit Risk Scorecards,
2006). Small samples are apart by chance alone: of n and m rows PSI is about (1/n + 1/m) times a
chi-square variable with one degree of freedom less than bins (Yurdakul, Statistical properties of
the population stability index, 2018). Rows are counted, not values, for the values of a row hang
together; what does not stand out from that noise is no drift.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from wherry.measures import Seen
from wherry.reference import Distribution, Reference

SHIFTED_PSI = 0.1
DRIFTED_PSI = 0.25
DRIFTED_NOT_FINITE = 0.01  # Share of values, beyond the reference's.
_NINETY_FIVE = 1.645  # Standard deviations that 95 % of a normal distribution lie below.


class DriftLevel(StrEnum):
    """`too_few`: so few rows that even a large drift could be chance."""

    TOO_FEW = "too_few"
    STABLE = "stable"
    SHIFTED = "shifted"
    DRIFTED = "drifted"


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor's distance from its reference.

    `psi` is of its values and `classes_psi` of the answers' classes, each with the noise that 95
    of 100 samples of this size stay below where nothing has changed. `zeros` and `not_finite` are
    shares of the values, `reference_` those of the reference.
    """

    tensor: str
    level: DriftLevel
    rows: int
    psi: float | None
    noise: float | None
    classes_psi: float | None
    classes_noise: float | None
    zeros: float
    reference_zeros: float
    not_finite: float
    reference_not_finite: float


def drift_of(references: Sequence[Distribution], seen: Iterable[Seen]) -> tuple[Drift, ...]:
    """Return the drift of each tensor that was seen in the bins of its reference."""
    known = {one.name: one for one in references}
    return tuple(
        _drift(known[one.name], one)
        for one in seen
        if one.rows and one.name in known and len(known[one.name].counts) == len(one.counts)
    )


def drifts_of(
    reference: Reference, inputs: Iterable[Seen], outputs: Iterable[Seen]
) -> tuple[tuple[Drift, ...], tuple[Drift, ...]]:
    """Return the drift of a bundle's inputs, and of its outputs."""
    return drift_of(reference.inputs, inputs), drift_of(reference.outputs, outputs)


def worst_of(drifts: Iterable[Drift]) -> DriftLevel | None:
    """Return the worst level; None where nothing was seen."""
    return _worst(one.level for one in drifts)


def stability_index(expected: Sequence[float], actual: Sequence[float]) -> float | None:
    """Return the PSI of two series of counts; None where there are not two bins or no counts."""
    if len(expected) < 2 or not sum(expected) or not sum(actual):
        return None
    before, after = _shares(expected), _shares(actual)
    return sum((a - e) * math.log(a / e) for e, a in zip(before, after, strict=True))


def noise_of(bins: int, rows: int, reference_rows: int) -> float:
    """Return what 95 of 100 samples stay below where nothing has changed."""
    freedom = bins - 1
    chi_square = freedom + _NINETY_FIVE * math.sqrt(2 * freedom)
    return (1 / rows + 1 / max(reference_rows, 1)) * chi_square


def _drift(reference: Distribution, seen: Seen) -> Drift:
    psi = stability_index(reference.counts, seen.counts)
    noise = None if psi is None else _noise(reference, seen, len(seen.counts))
    classes_psi = _classes_psi(reference, seen)
    classes_noise = None if classes_psi is None else _noise(reference, seen, len(seen.classes))
    not_finite = seen.not_finite / seen.values if seen.values else 0.0
    levels = [_level(psi, noise), _level(classes_psi, classes_noise)]
    if not_finite - reference.not_finite > DRIFTED_NOT_FINITE:
        levels.append(DriftLevel.DRIFTED)
    return Drift(
        tensor=seen.name,
        level=_worst(level for level in levels if level) or DriftLevel.STABLE,
        rows=seen.rows,
        psi=psi,
        noise=noise,
        classes_psi=classes_psi,
        classes_noise=classes_noise,
        zeros=seen.zeros / seen.values if seen.values else 0.0,
        reference_zeros=reference.zeros,
        not_finite=not_finite,
        reference_not_finite=reference.not_finite,
    )


def _classes_psi(reference: Distribution, seen: Seen) -> float | None:
    """Return the PSI of the answers; the reference holds their shares, of its rows."""
    if not reference.classes or len(reference.classes) != len(seen.classes):
        return None
    expected = [share * reference.rows for share in reference.classes]
    return stability_index(expected, seen.classes)


def _noise(reference: Distribution, seen: Seen, bins: int) -> float:
    return noise_of(bins, seen.rows, reference.rows)


def _level(psi: float | None, noise: float | None) -> DriftLevel | None:
    if psi is None or noise is None:
        return None
    if psi > max(DRIFTED_PSI, noise):
        return DriftLevel.DRIFTED
    if noise > DRIFTED_PSI:
        return DriftLevel.TOO_FEW
    return DriftLevel.SHIFTED if psi > max(SHIFTED_PSI, noise) else DriftLevel.STABLE


def _worst(levels: Iterable[DriftLevel]) -> DriftLevel | None:
    return max(levels, key=list(DriftLevel).index, default=None)


def _shares(counts: Sequence[float]) -> list[float]:
    whole = sum(counts) + len(counts) / 2
    return [(count + 0.5) / whole for count in counts]
