"""Both sides of a rollout as one page of HTML that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from wherry_controller.core.sides import COLUMNS, Compared, RolloutSides, cells_of, shown
from wherry_controller.services.html import facts_of, table_of, whole_page
from wherry_controller.services.sides_plot import plot_of

MOST_DEVICES = 500
HOW = (
    "Each figure is candidate / incumbent. Where both answered beside one another the incumbent's "
    "are of the same time, and those of shadowing are of the same requests."
)


def page_of(sides: RolloutSides) -> str:
    """Return both sides as a page of HTML: a plot, and a table by profile and by device."""
    title = f"{sides.rollout}: both sides"
    facts = (
        ("version", f"{sides.model}:{sides.version} as {sides.alias}"),
        ("status", sides.status),
        ("devices", str(len(sides.devices))),
    )
    profiles = [((name,), one) for name, one in sides.profiles.items()]
    some = sides.devices[:MOST_DEVICES]
    devices = [((one.device, one.profile), one.sides) for one in some]
    left_out = len(sides.devices) - len(some)
    rest = f"<p>{left_out} devices more are left out.</p>" if left_out else ""
    body = (
        f"<header><h1>{escape(title)}</h1>{facts_of(facts)}<p>{HOW}</p></header><main>"
        f"{plot_of(sides.devices)}{_table('By profile', ('profile',), profiles)}"
        f"{_table('By device', ('device', 'profile'), devices)}{rest}</main>"
    )
    return whole_page(title, body)


def _table(
    caption: str, names: Sequence[str], found: Sequence[tuple[Sequence[str], Compared]]
) -> str:
    rows = [(words, cells_of(one)) for words, one in found]
    kept = shown([cells for _, cells in rows])
    lines = (_row(words, [cells[at] for at in kept]) for words, cells in rows)
    return table_of(caption, (*names, *(COLUMNS[at] for at in kept)), lines)


def _row(words: Sequence[str], cells: Sequence[str]) -> str:
    first, *others = words
    names = "".join(f"<td>{escape(word)}</td>" for word in others)
    figures = "".join(f'<td class="n">{escape(cell)}</td>' for cell in cells)
    return f'<tr><th scope="row">{escape(first)}</th>{names}{figures}</tr>'
