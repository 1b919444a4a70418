"""What an accepted order means for each alias: on the way, denied, or withdrawn.

Trust has judged each bundle by itself; here the bundles are judged by what they need of one
another. A deployment that is known already is not judged by its needs again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from wherry.messages import Order
from wherry.names import AliasName, DeploymentId, Digest
from wherry.reasons import Status
from wherry.trust.target import Denied, Target, Verdict
from wherry_agent.core import install
from wherry_agent.core.needs import find_unmet

Releases: TypeAlias = Mapping[AliasName, Mapping[Digest, int]]
States: TypeAlias = Mapping[AliasName, install.State]
Turn: TypeAlias = install.Ordered | install.Denied | install.Withdrawn


def note_releases(
    known: Releases, order: Order, verdicts: Mapping[AliasName, Verdict], states: States
) -> dict[AliasName, dict[Digest, int]]:
    """Return which release each bundle is under its alias: those in use, and those that come."""
    noted: dict[AliasName, dict[Digest, int]] = {}
    for alias in sorted(states.keys() | order.aliases.keys()):
        kept = states[alias].confirmed if alias in states else ()
        releases = known.get(alias, {})
        noted[alias] = {bundle: releases[bundle] for bundle in kept if bundle in releases}
        target = verdicts.get(alias)
        if isinstance(target, Target):
            noted[alias][order.aliases[alias].bundle] = target.releases.get(alias, 0)
    return noted


def turns_of(
    order: Order,
    verdicts: Mapping[AliasName, Verdict],
    states: States,
    releases: Releases,
    *,
    now_s: float,
) -> dict[AliasName, Turn]:
    """Return what happens to each alias that the order or the device knows, the order's first."""
    revoked = frozenset(order.revoked)
    denied: dict[AliasName, Denied] = {
        alias: verdict for alias, verdict in verdicts.items() if isinstance(verdict, Denied)
    }
    denied |= _unmet(order, verdicts, states, releases)
    turns: dict[AliasName, Turn] = {}
    for alias, wanted in order.aliases.items():
        if alias in denied:
            why = denied[alias]
            turns[alias] = install.Denied(wanted, why.reason, why.detail, revoked)
        else:
            turns[alias] = install.Ordered(wanted, now_s, revoked)
    withdrawn = states.keys() - order.aliases.keys()
    return turns | dict.fromkeys(sorted(withdrawn), install.Withdrawn(revoked))


def _unmet(
    order: Order, verdicts: Mapping[AliasName, Verdict], states: States, releases: Releases
) -> dict[AliasName, Denied]:
    comes: dict[AliasName, Target] = {}
    there = {alias: _release(state, releases.get(alias, {})) for alias, state in states.items()}
    for alias, wanted in order.aliases.items():
        target = verdicts[alias]
        if not isinstance(target, Target):
            continue
        status = _status(states.get(alias, install.Idle()), wanted.deployment)
        if status is None:
            comes[alias] = target
        elif status is Status.IN_PROGRESS:
            there[alias] = target.releases.get(alias, 0)
    return find_unmet(comes, there)


def _release(state: install.State, releases: Mapping[Digest, int]) -> int:
    """Return the release that serves, whatever is on its way; 0 where none or nobody knows."""
    return releases.get(state.confirmed[0], 0) if state.confirmed else 0


def _status(state: install.State, deployment: DeploymentId) -> Status | None:
    """Return how a deployment stands here; None where it is new."""
    known = install.deployment_of(state)
    return known.status if known and known.deployment == deployment else None
