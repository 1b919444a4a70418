"""Both sides of each device as a plot in SVG: the candidate's median against the incumbent's.

A point above the line is a device on which the candidate is slower. Where it was shadowed, both
times are of the same requests. Each point says its device as its title, and the plot is described
in words for who cannot see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from wherry_controller.core.sides import DeviceSides
from wherry_controller.services.axes import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    across,
    axis_of,
    up,
)

MOST_IN_WORDS = 20


@dataclass(frozen=True, slots=True)
class Point:
    """A device, with the medians of its compute times in ms."""

    device: str
    incumbent_ms: float
    candidate_ms: float

    @property
    def words(self) -> str:
        return f"{self.device}: {self.candidate_ms:.3f} ms, before {self.incumbent_ms:.3f} ms"


def plot_of(devices: Sequence[DeviceSides]) -> str:
    """Return the plot, or nothing where no device has both sides."""
    points = [point for one in devices if (point := _point(one)) is not None]
    if not points:
        return ""
    times = [time for one in points for time in (one.incumbent_ms, one.candidate_ms)]
    wide = axis_of(times, LEFT, WIDTH - LEFT - RIGHT)
    high = axis_of(times, HEIGHT - BOTTOM, TOP + BOTTOM - HEIGHT)
    marks = "".join(_mark(one, wide, high) for one in points)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
        'aria-labelledby="sides-title sides-words">'
        '<title id="sides-title">Median compute time by device</title>'
        f'<desc id="sides-words">{escape(_in_words(points))}</desc>'
        f"{across(wide, 'incumbent, p50 in ms')}{up(high, 'candidate, p50 in ms')}"
        f'<line class="front" x1="{wide.at(wide.low):.1f}" y1="{high.at(high.low):.1f}" '
        f'x2="{wide.at(wide.high):.1f}" y2="{high.at(high.high):.1f}"/>{marks}</svg>'
    )


def _point(one: DeviceSides) -> Point | None:
    sides, shadowing = one.sides, one.sides.shadowing
    candidate, incumbent = sides.candidate.compute_p50_ms, None
    if sides.incumbent is not None:
        incumbent = sides.incumbent.compute_p50_ms
    if shadowing is not None and shadowing.compute_p50_ms is not None:
        candidate, incumbent = shadowing.compute_p50_ms, shadowing.incumbent_p50_ms
    if candidate is None or incumbent is None:
        return None
    return Point(one.device, incumbent, candidate)


def _mark(point: Point, wide: Axis, high: Axis) -> str:
    x, y = wide.at(point.incumbent_ms), high.at(point.candidate_ms)
    kind = "bad" if point.candidate_ms > point.incumbent_ms else "good"
    return (
        f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="5">'
        f"<title>{escape(point.words)}</title></circle>"
    )


def _in_words(points: Sequence[Point]) -> str:
    slower = sum(one.candidate_ms > one.incumbent_ms for one in points)
    named = "; ".join(one.words for one in points[:MOST_IN_WORDS])
    others = len(points) - MOST_IN_WORDS
    rest = f" and {others} more" if others > 0 else ""
    return f"On {slower} of {len(points)} devices the candidate is slower. {named}{rest}."
