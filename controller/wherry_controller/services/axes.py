"""The axes of plots in SVG, from round number to round number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 30, 20, 50
TICKS = 5


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from `low` to `high` along `length` pixels from `start`."""

    low: float
    high: float
    start: float
    length: float

    def at(self, value: float) -> float:
        return self.start + self.length * (value - self.low) / (self.high - self.low)


def ticks_of(low: float, high: float) -> tuple[float, ...]:
    """Return round numbers (1, 2 or 5 and zeros apart) that enclose `low` and `high`."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / TICKS))
    step = next(power * unit for unit in (1, 2, 5, 10) if power * unit * TICKS >= span)
    first, last = math.floor(low / step), math.ceil(high / step)
    return tuple(index * step for index in range(first, max(last, first + 1) + 1))


def axis_of(values: Sequence[float], start: float, length: float) -> Axis:
    """Return an axis from 0, or from below where a value is negative."""
    ticks = ticks_of(min(0.0, *values), max(0.0, *values))
    return Axis(ticks[0], ticks[-1], start, length)


def across(axis: Axis, what: str) -> str:
    """Return the axis at the bottom, with its ticks and what it counts."""
    end, floor = axis.start + axis.length, HEIGHT - BOTTOM
    marks = "".join(
        f'<text class="dim" x="{axis.at(tick):.1f}" y="{floor + 18}" text-anchor="middle">'
        f"{tick:g}</text>"
        for tick in _rounded(ticks_of(axis.low, axis.high))
    )
    middle = axis.start + axis.length / 2
    return (
        f'<line class="axis" x1="{axis.start}" y1="{floor}" x2="{end}" y2="{floor}"/>{marks}'
        f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">'
        f"{escape(what)}</text>"
    )


def up(axis: Axis, what: str) -> str:
    """Return the numbers at the left, and what they count."""
    marks = "".join(
        f'<line class="axis" x1="{LEFT}" y1="{axis.at(tick):.1f}" x2="{WIDTH - RIGHT}" '
        f'y2="{axis.at(tick):.1f}"/><text class="dim" x="{LEFT - 8}" y="{axis.at(tick) + 4:.1f}" '
        f'text-anchor="end">{tick:g}</text>'
        for tick in _rounded(ticks_of(axis.low, axis.high))
    )
    middle = axis.start + axis.length / 2
    return (
        f'{marks}<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(what)}</text>"
    )


def _rounded(ticks: Iterable[float]) -> Iterable[float]:
    return (float(f"{tick:.6g}") for tick in ticks)
