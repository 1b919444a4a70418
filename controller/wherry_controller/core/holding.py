"""Which bundles the broker holds, chunks and all, within its budget.

    must (open deployments, trials, ways back) > leased > current releases, newest first

The broker is a cache, and rewrites all of it at each save. What must be there is, whatever it
takes: what may be rolled out at once is bounded when a rollout is made. A bundle that is not held
comes back on a lease, when a device wants a part of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from wherry.names import Digest


def hold(
    order: Iterable[Digest],
    sizes: Mapping[Digest, Mapping[Digest, int]],
    *,
    must: Collection[Digest],
    leased: Collection[Digest],
    budget_bytes: int,
) -> frozenset[Digest]:
    """Return what to hold of the bundles in `order`, the dearest first.

    `sizes` are each bundle's parts with their lengths in bytes; a part that two share counts once.
    """
    bundles = list(order)
    ranked = [
        *(one for one in bundles if one in must),
        *(one for one in bundles if one in leased and one not in must),
        *(one for one in bundles if one not in leased and one not in must),
    ]
    held: list[Digest] = []
    parts: set[Digest] = set()
    taken_bytes = 0
    for bundle in ranked:
        fresh = {part: size for part, size in sizes[bundle].items() if part not in parts}
        if bundle in must or taken_bytes + sum(fresh.values()) <= budget_bytes:
            held.append(bundle)
            parts.update(fresh)
            taken_bytes += sum(fresh.values())
    return frozenset(held)
