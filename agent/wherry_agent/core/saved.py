"""What the agent's machine knows, and which part of it outlives the process."""

from __future__ import annotations

import msgspec

from wherry.histogram import Histogram
from wherry.measures import Feedback
from wherry.messages import SignedReceipt
from wherry.names import AliasName, DeploymentId, Digest
from wherry_agent.core import download, install, session, trial
from wherry_agent.core.receipts import Claim, Receipts
from wherry_agent.core.sources import Sources
from wherry_agent.core.watching import Watching


class Saved(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.agent/1"):
    """The state on disk.

    `recent` are the serving bundle's compute times, as of the last change, and `labels` what was
    said of its answers. `releases` is which release each bundle in use is under its alias. `claims`
    wait for their signature, and `receipts` are the newest.
    """

    aliases: dict[AliasName, install.State] = {}
    recent: dict[AliasName, tuple[Histogram, ...]] = {}
    labels: dict[AliasName, Feedback] = {}
    releases: dict[AliasName, dict[Digest, int]] = {}
    trials: trial.State = trial.State()
    claims: tuple[Claim, ...] = ()
    receipts: dict[AliasName, SignedReceipt] = {}


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """`fetched` are deployments whose bundles are on disk and wait for their turn to load."""

    session: session.Session
    aliases: dict[AliasName, install.State] = {}
    watching: Watching = Watching()
    releases: dict[AliasName, dict[Digest, int]] = {}
    trials: trial.State = trial.State()
    receipts: Receipts = Receipts()
    download: download.Download | None = None
    fetch_online: bool = False
    fetch_failures: int = 0
    open_fetch_at_s: float | None = None
    fetched: frozenset[DeploymentId] = frozenset()
    limit_bytes_per_s: float | None = None
    left_bytes: int | None = None
    sources: Sources = Sources()


def saved_of(agent: Agent) -> Saved:
    return Saved(
        aliases=agent.aliases,
        recent=agent.watching.recent,
        labels=agent.watching.labels,
        releases=agent.releases,
        trials=agent.trials,
        claims=agent.receipts.claims,
        receipts=agent.receipts.signed,
    )


def must_save(before: Agent, after: Agent) -> bool:
    """Say whether a step changed what outlives the process (measured windows alone do not)."""
    return (
        before.aliases != after.aliases
        or before.releases != after.releases
        or before.trials != after.trials
        or before.receipts.claims != after.receipts.claims
        or before.receipts.signed != after.receipts.signed
    )
