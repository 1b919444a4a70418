"""What the agent fetches: the download follows the states, and its connection follows the download.

The download is of the first alias in `Fetching` whose bundle is not on disk yet, or of a trial's
bundle where there is none. The connection for it opens when there is something to fetch, and again
after growing pauses where it breaks.
"""

from __future__ import annotations

from msgspec.structs import replace

from wherry.names import AliasName, DeploymentId, Digest
from wherry_agent.core import download, install, trial
from wherry_agent.core.backoff import delay_s
from wherry_agent.core.events import CloseFetch, Effects, OpenFetch
from wherry_agent.core.saved import Agent
from wherry_agent.core.sources import advise, settle


def link_up(agent: Agent) -> Agent:
    return replace(agent, fetch_online=True, fetch_failures=0, open_fetch_at_s=None)


def link_down(agent: Agent, chance: float, now_s: float) -> Agent:
    """Note that the connection broke; `chance` is uniform in [0, 1)."""
    if agent.download is None:
        return replace(agent, fetch_online=False)  # As `CloseFetch` wanted it.
    again_s = now_s + delay_s(agent.fetch_failures, chance)
    failures = agent.fetch_failures + 1
    return replace(agent, fetch_online=False, fetch_failures=failures, open_fetch_at_s=again_s)


def reopen(agent: Agent, now_s: float) -> tuple[Agent, Effects]:
    """Open the connection that broke once its pause is over."""
    if agent.download is None or agent.fetch_online or agent.open_fetch_at_s is None:
        return agent, ()
    if now_s < agent.open_fetch_at_s:
        return agent, ()
    return replace(agent, open_fetch_at_s=None), (OpenFetch(),)


def pursue(agent: Agent) -> tuple[Agent, Effects]:
    """Make the download be of the first bundle that is wanted and not on disk, a trial's last.

    Where the connection is open already, the new download is yet to be told.
    """
    wanted = _wanted(agent)
    current = agent.download
    if (current.bundle if current else None) == wanted:
        return agent, ()
    drop = _drop(current)
    if wanted is None:
        closed = replace(agent, download=None, fetch_online=False, open_fetch_at_s=None)
        return closed, (*drop, CloseFetch())
    fresh = download.Download(
        bundle=wanted,
        limit_bytes_per_s=agent.limit_bytes_per_s,
        left_bytes=agent.left_bytes,
        sources=settle(agent.sources),
    )
    agent = replace(agent, download=fresh, open_fetch_at_s=None)
    return agent, drop if agent.fetch_online else (*drop, OpenFetch())


def take(agent: Agent, after: download.Download) -> Agent:
    """Keep the download's next state: what was spent and who lied is true of the next one too."""
    return replace(agent, download=after, left_bytes=after.left_bytes, sources=after.sources)


def heed(agent: Agent, advice: download.Advised) -> Agent:
    """Keep what is true of later downloads too."""
    return replace(
        agent,
        limit_bytes_per_s=advice.bytes_per_s,
        left_bytes=advice.left_bytes,
        sources=advise(agent.sources, advice.sources),
    )


def fetching_of(agent: Agent, bundle: Digest) -> dict[AliasName, DeploymentId]:
    """Return the deployments that wait for a bundle."""
    return {
        alias: state.wanted.deployment
        for alias, state in agent.aliases.items()
        if isinstance(state, install.Fetching) and state.wanted.bundle == bundle
    }


def _wanted(agent: Agent) -> Digest | None:
    return next(
        (
            state.wanted.bundle
            for state in agent.aliases.values()
            if isinstance(state, install.Fetching) and state.wanted.deployment not in agent.fetched
        ),
        trial.fetching_of(agent.trials),
    )


def _drop(current: download.Download | None) -> Effects:
    if current is not None and current.missing is None:
        return (download.DropManifest(current.bundle),)
    if current is not None and current.asked:
        return (download.DropChunks(current.asked),)
    return ()
