"""A version's report as one page of HTML that needs nothing else: no script, no other address.

It is made from the report alone. Any text of it may come from a stranger's model, so all of it is
escaped. Colours follow the reader's scheme, and every plot stands in a table as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from wherry_controller.core.choice import RUINED, Candidate, ProfileReport, Sensitivity
from wherry_controller.core.report import (
    FIGURES,
    ProfilePart,
    VersionReport,
    chosen_of,
    figures_of,
    verdict_of,
)
from wherry_controller.services.html import facts_of, table_of, whole_page
from wherry_controller.services.plot import plot_of

MOST_BARS = 40


def page_of(report: VersionReport) -> str:
    """Return the report as a page of HTML."""
    title = escape(f"{report.model}:{report.version}")
    facts = (("lineage", report.lineage), ("reference", report.reference or "none was kept"))
    contents = "".join(_entry(part, index) for index, part in enumerate(report.profiles))
    body = "".join(_profile(part, index) for index, part in enumerate(report.profiles))
    head = f"<header><h1>{title}</h1>{facts_of(facts)}<ul>{contents}</ul></header>"
    return whole_page(f"{report.model}:{report.version}: report", f"{head}<main>{body}</main>")


def _entry(part: ProfilePart, index: int) -> str:
    outcome = escape(part.report.chosen or "refused")
    return f'<li><a href="#p{index}">{escape(part.report.profile)}</a>: {outcome}</li>'


def _profile(part: ProfilePart, index: int) -> str:
    report = part.report
    tools = ", ".join(f"{name} {version}" for name, version in part.tools.items())
    facts = (
        ("chosen", report.chosen or "none: the profile was refused"),
        ("why", report.why),
        ("evaluated on", report.runtime),
        ("metric", report.metric),
        ("bundle", part.bundle or ""),
        ("build", part.build),
        ("tools", tools),
        ("not emulated", "; ".join(report.not_emulated)),
        ("not verified", "" if report.verified else "no build can run the profile's provider"),
    )
    plot = plot_of(report, f"plot{index}")
    return (
        f'<section id="p{index}"><h2>{escape(report.profile)}</h2>{facts_of(facts)}'
        f"{plot}{_candidates(report)}{_sensitivities(report)}</section>"
    )


def _candidates(report: ProfileReport) -> str:
    columns = ("candidate", *FIGURES, "measured on", "verdict")
    return table_of("Candidates", columns, (_row(one, report) for one in report.candidates))


def _row(candidate: Candidate, report: ProfileReport) -> str:
    figures = figures_of(candidate, report.candidates[0])
    words = (_place_of(candidate), verdict_of(candidate, report))
    cells = [f'<td class="n">{escape(figure)}</td>' for figure in figures]
    cells += [f"<td>{escape(word)}</td>" for word in words]
    return (
        f'<tr class="{_mark_of(candidate, report)}"><th scope="row">{escape(candidate.name)}</th>'
        f"{''.join(cells)}</tr>"
    )


def _mark_of(candidate: Candidate, report: ProfileReport) -> str:
    if candidate.name == report.chosen:
        return "chosen"
    return "fault" if candidate.fault is not None else ""


def _place_of(candidate: Candidate) -> str:
    timed = f"timed on {candidate.latency.measured_on}" if candidate.latency else ""
    places = (candidate.evaluated_on, *candidate.emulated_on, timed)
    return "; ".join(place for place in places if place)


def _sensitivities(report: ProfileReport) -> str:
    ranked = sorted(report.sensitivities, key=lambda one: one.output_error, reverse=True)
    if not ranked:
        return ""
    chosen = chosen_of(report)
    kept = chosen.recipe.kept_float if chosen is not None else ()
    widest = ranked[0].output_error or 1.0
    rows = (_bar(one, widest, kept) for one in ranked[:MOST_BARS])
    columns = ("operator", "layer", "kind", "output error", "", "in the chosen one")
    caption = "What quantizing one operator alone does to the outputs, as a share of their spread"
    left_out = len(ranked) - MOST_BARS
    rest = f"<p>{left_out} operators that matter less are left out.</p>" if left_out > 0 else ""
    return table_of(caption, columns, rows) + rest


def _error_of(one: Sensitivity) -> str:
    return "ruined" if one.output_error >= RUINED else f"{one.output_error:.4f}"


def _bar(one: Sensitivity, widest: float, kept: Sequence[str]) -> str:
    percent = 100 * max(0.0, min(1.0, one.output_error / widest))
    names = "".join(f"<td>{escape(name)}</td>" for name in (one.layer, one.kind))
    mark, said = ("kept", "stays in float") if one.operator in kept else ("", "")
    return (
        f'<tr class="{mark}"><th scope="row">{escape(one.operator)}</th>'
        f'{names}<td class="n">{_error_of(one)}</td>'
        f'<td class="wide"><span class="bar" style="width:{percent:.1f}%"></span></td>'
        f"<td>{said}</td></tr>"
    )
