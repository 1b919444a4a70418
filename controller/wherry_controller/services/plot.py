"""A profile's candidates as a plot in SVG: size against latency, or against the metric's drop.

Latency stands there where one was measured. A square is float, a filled circle is good, an open
one was refused, and the largest is the one that is shipped; a dashed line is the Pareto front.
Each point says its figures as its title, and the plot is described in words for who cannot see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from wherry_controller.core.choice import Candidate, ProfileReport
from wherry_controller.core.report import FIGURES, figures_of, score_of, verdict_of
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

LABEL_WIDTH, LABEL_HEIGHT = 250, 13


@dataclass(frozen=True, slots=True)
class Point:
    candidate: Candidate
    x: float
    y: float


def plot_of(report: ProfileReport, name: str) -> str:
    """Return the plot, or nothing where no candidate was measured; `name` is unique in its page."""
    is_timed = any(one.latency is not None for one in report.candidates)
    what, of = ("p50 latency in ms", _p50_of) if is_timed else ("drop of the metric", _drop_of)
    points = [
        Point(one, one.size_bytes / 1e6, y)
        for one in report.candidates
        if one.size_bytes is not None and (y := of(one)) is not None
    ]
    if not points:
        return ""
    wide = axis_of([point.x for point in points], LEFT, WIDTH - LEFT - RIGHT)
    high = axis_of([point.y for point in points], HEIGHT - BOTTOM, TOP + BOTTOM - HEIGHT)
    title = f"{report.profile}: size against {what}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" '
        f'aria-labelledby="{name}-title {name}-words">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-words">{escape(_in_words(points, report, what))}</desc>'
        f"{across(wide, 'size in MB')}{up(high, what)}{_front(points, wide, high)}"
        f"{''.join(_mark(one, wide, high, report) for one in points)}"
        f"{_labels(points, wide, high)}</svg>"
    )


def _p50_of(candidate: Candidate) -> float | None:
    return candidate.latency.p50_ms if candidate.latency is not None else None


def _drop_of(candidate: Candidate) -> float | None:
    score = score_of(candidate)
    return score.drop if score is not None else None


def _front(points: Sequence[Point], wide: Axis, high: Axis) -> str:
    front = sorted((one.x, one.y) for one in points if one.candidate.on_pareto)
    if len(front) < 2:
        return ""
    line = " ".join(f"{wide.at(x):.1f},{high.at(y):.1f}" for x, y in front)
    return f'<polyline class="front" points="{line}"/>'


def _mark(point: Point, wide: Axis, high: Axis, report: ProfileReport) -> str:
    candidate = point.candidate
    x, y = wide.at(point.x), high.at(point.y)
    is_chosen, is_base = candidate.name == report.chosen, candidate is report.candidates[0]
    colour = "chosen" if is_chosen else "base" if is_base else "good"
    kind = "bad" if candidate.fault is not None else colour
    half = 8 if is_chosen else 5
    shape = (
        f'<rect class="{kind}" x="{x - half:.1f}" y="{y - half:.1f}" '
        f'width="{2 * half}" height="{2 * half}">'
        if is_base
        else f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{half}">'
    )
    name = "rect" if is_base else "circle"
    return f"{shape}<title>{escape(_words(candidate, report))}</title></{name}>"


def _labels(points: Sequence[Point], wide: Axis, high: Axis) -> str:
    """Name each point towards the middle, moving names down that would cover one another."""
    taken: list[tuple[float, float]] = []
    labels = []
    for point in sorted(points, key=lambda one: high.at(one.y)):
        at, y = wide.at(point.x), high.at(point.y) + 4
        is_right = at > WIDTH / 2
        x, anchor = (at - 12, "end") if is_right else (at + 12, "start")
        while any(
            abs(y - other) < LABEL_HEIGHT and abs(x - there) < LABEL_WIDTH for there, other in taken
        ):
            y += LABEL_HEIGHT
        taken.append((x, y))
        labels.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
            f"{escape(point.candidate.name)}</text>"
        )
    return "".join(labels)


def _in_words(points: Sequence[Point], report: ProfileReport, what: str) -> str:
    said = "; ".join(_words(point.candidate, report) for point in points)
    return f"Candidates by size in MB and {what}: {said}."


def _words(candidate: Candidate, report: ProfileReport) -> str:
    figures = zip(FIGURES, figures_of(candidate, report.candidates[0]), strict=True)
    said = ", ".join(f"{name} {figure}" for name, figure in figures if figure)
    return f"{candidate.name}: {said} ({verdict_of(candidate, report)})"
