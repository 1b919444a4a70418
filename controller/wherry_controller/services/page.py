"""A version's report as one page of HTML that needs nothing else: no script, no other address.

It is made from the report alone. Any text of it may come from a stranger's model, so all of it is
escaped. Colours follow the reader's scheme, and every plot stands in a table as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
from wherry_controller.services.plot import plot_of

MOST_BARS = 40

STYLE = """\
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --dim: #59636e; --line: #d1d9e0;
  --good: #0b6bcb; --chosen: #1a7f37; --bad: #b3261e; --base: #8250df; --bar: #0b6bcb; }
@media (prefers-color-scheme: dark) { :root { --back: #12161b; --text: #e6edf3; --dim: #9aa5b1;
  --line: #39424d; --good: #58a6ff; --chosen: #3fb950; --bad: #ff7b72; --base: #bc8cff;
  --bar: #58a6ff; } }
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif;
  margin: 0 auto; max-width: 72rem; padding: 1rem; }
h1, h2 { line-height: 1.2; } section { border-top: 1px solid var(--line); margin-top: 2rem; }
a { color: var(--good); } dl { display: grid; grid-template-columns: max-content 1fr;
  gap: .2rem 1rem; } dt { color: var(--dim); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: 1rem 0; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: left;
  vertical-align: top; } td.n { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; } tr.chosen th, tr.chosen td { color: var(--chosen);
  font-weight: 600; } tr.fault td:last-child { color: var(--bad); }
.bar { background: var(--bar); display: inline-block; height: .7em; min-width: 1px; }
.kept .bar { background: var(--base); } td.wide { width: 16rem; }
svg { display: block; height: auto; max-width: 100%; } svg text { fill: var(--text);
  font: 12px system-ui, sans-serif; } svg .dim { fill: var(--dim); }
svg .axis { stroke: var(--line); } svg .front { fill: none; stroke: var(--dim);
  stroke-dasharray: 4 3; } svg .good { fill: var(--good); } svg .chosen { fill: var(--chosen); }
svg .base { fill: var(--base); } svg .bad { fill: none; stroke: var(--bad); stroke-width: 2; }
"""


def page_of(report: VersionReport) -> str:
    """Return the report as a page of HTML."""
    title = escape(f"{report.model}:{report.version}")
    facts = (("lineage", report.lineage), ("reference", report.reference or "none was kept"))
    contents = "".join(_entry(part, index) for index, part in enumerate(report.profiles))
    body = "".join(_profile(part, index) for index, part in enumerate(report.profiles))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}: report</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{title}</h1>{_facts(facts)}<ul>{contents}</ul></header>"
        f"<main>{body}</main></body></html>\n"
    )


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
        f'<section id="p{index}"><h2>{escape(report.profile)}</h2>{_facts(facts)}'
        f"{plot}{_candidates(report)}{_sensitivities(report)}</section>"
    )


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    lines = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts if value)
    return f"<dl>{''.join(lines)}</dl>"


def _table(caption: str, columns: Sequence[str], rows: Iterable[str]) -> str:
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _candidates(report: ProfileReport) -> str:
    columns = ("candidate", *FIGURES, "measured on", "verdict")
    return _table("Candidates", columns, (_row(one, report) for one in report.candidates))


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
    return _table(caption, columns, rows) + rest


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
