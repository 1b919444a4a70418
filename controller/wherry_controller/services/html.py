"""What pages of HTML have in common: they need nothing else, no script and no other address.

Any text may come from a stranger, so all of it is escaped. Colours follow the reader's scheme.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

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


def whole_page(title: str, contents: str) -> str:
    """Return a page of a title, which is escaped here, and contents that are HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"{contents}</body></html>\n"
    )


def facts_of(facts: Iterable[tuple[str, str]]) -> str:
    """Return names with their values, without those that have none."""
    lines = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts if value)
    return f"<dl>{''.join(lines)}</dl>"


def table_of(caption: str, columns: Sequence[str], rows: Iterable[str]) -> str:
    """Return a table of rows that are HTML already."""
    heads = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
