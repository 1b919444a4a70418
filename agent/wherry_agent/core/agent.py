"""The whole agent as one machine: session, download and an install machine for each alias.

The app and the simulator feed the same `step` and perform the same effects. What holds across
the parts is decided here:

* The download follows the states: the first alias in `Fetching` whose bundle is not on disk yet.
* One alias at a time is past fetching; the others wait with their bundles on disk.
* Probation is judged from the measured windows, against what the incumbent did on this device.
* Each change of a deployment is told: outcomes by `Report`, the way there by `Progress`.
* Trials wait for what is deployed, and give way to it; a bundle is for the one or the other.

`Saved` is what outlives the process; everything else is made anew from it and from the disk. Its
words stand in `events`.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace
from typing_extensions import assert_never

from wherry.histogram import Histogram, merge
from wherry.names import AliasName, DeploymentId, Digest
from wherry.reasons import Reason
from wherry_agent.core import download, install, orders, session, trial
from wherry_agent.core.backoff import delay_s
from wherry_agent.core.events import (
    Assemble,
    Assembled,
    BundleRefused,
    CloseFetch,
    Effect,
    Effects,
    Event,
    FetchLink,
    For,
    Installed,
    ManifestAccepted,
    Measured,
    OpenFetch,
    OrderCame,
    Reenrolled,
    Tell,
    Tick,
)
from wherry_agent.core.health import Watch, diagnose, observe
from wherry_agent.core.sources import Sources, advise, settle

__all__ = [
    "RECENT_WINDOWS",
    "Agent",
    "Assemble",
    "Assembled",
    "BundleRefused",
    "CloseFetch",
    "Effect",
    "Effects",
    "Event",
    "FetchLink",
    "For",
    "Installed",
    "ManifestAccepted",
    "Measured",
    "OpenFetch",
    "OrderCame",
    "Reenrolled",
    "Saved",
    "Tell",
    "Tick",
    "must_save",
    "saved_of",
    "step",
    "wake",
]

RECENT_WINDOWS = 60


class Saved(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.agent/1"):
    """The state on disk. `recent` are the serving bundle's compute times, as of the last change.

    `releases` is which release each bundle in use is under its alias.
    """

    aliases: dict[AliasName, install.State] = {}
    recent: dict[AliasName, tuple[Histogram, ...]] = {}
    releases: dict[AliasName, dict[Digest, int]] = {}
    trials: trial.State = trial.State()


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """`fetched` are deployments whose bundles are on disk and wait for their turn to load."""

    session: session.Session
    aliases: dict[AliasName, install.State] = {}
    recent: dict[AliasName, tuple[Histogram, ...]] = {}
    releases: dict[AliasName, dict[Digest, int]] = {}
    watches: dict[AliasName, Watch] = {}
    trials: trial.State = trial.State()
    download: download.Download | None = None
    fetch_online: bool = False
    fetch_failures: int = 0
    open_fetch_at_s: float | None = None
    fetched: frozenset[DeploymentId] = frozenset()
    limit_bytes_per_s: float | None = None
    left_bytes: int | None = None
    sources: Sources = Sources()


def wake(
    saved: Saved,
    now_s: float,
    *,
    outbox_first: int,
    outbox_last: int,
    limit_bytes_per_s: float | None = None,
) -> tuple[Agent, Effects]:
    """Return the agent as it comes up with what it had saved, and what to do first.

    The outbox holds the events from `outbox_first` to `outbox_last` (one less: it is empty).
    """
    agent = Agent(
        session=session.Session(last=outbox_last, acked=outbox_first - 1),
        aliases=saved.aliases,
        recent=saved.recent,
        releases=saved.releases,
        trials=saved.trials,
        limit_bytes_per_s=limit_bytes_per_s,
    )
    agent, effects = _try(agent, trial.Restarted(now_s))
    for alias in saved.aliases:
        agent, more = _install(agent, alias, install.Restarted(now_s))
        effects += more
    agent, more = _pursue(agent, now_s)
    return agent, effects + more


def saved_of(agent: Agent) -> Saved:
    return Saved(
        aliases=agent.aliases,
        recent=agent.recent,
        releases=agent.releases,
        trials=agent.trials,
    )


def must_save(before: Agent, after: Agent) -> bool:
    """Say whether a step changed what outlives the process (measured windows alone do not)."""
    return (
        before.aliases != after.aliases
        or before.releases != after.releases
        or before.trials != after.trials
    )


def step(agent: Agent, event: Event, now_s: float) -> tuple[Agent, Effects]:
    """Return the agent after `event` at the monotonic time `now_s`, and what to do about it."""
    after, effects = _dispatch(agent, event, now_s)
    after, way = _give_way(after, now_s)
    after, turn = _give_turn(after, now_s)
    after, pursuit = _pursue(after, now_s)
    return after, (*effects, *way, *turn, *pursuit)


def _dispatch(agent: Agent, event: Event, now_s: float) -> tuple[Agent, Effects]:
    match event:
        case OrderCame():
            return _follow_order(agent, event, now_s)
        case Reenrolled():
            return _withdraw_all(agent)
        case ManifestAccepted():
            return _take_manifest(agent, event, now_s)
        case BundleRefused(bundle, reason, detail):
            return _refuse(agent, bundle, reason, detail)
        case Assembled(bundle):
            agent = replace(agent, fetched=agent.fetched | _fetching(agent, bundle))
            return _try(agent, trial.Fetched(bundle))
        case FetchLink(online, chance):
            return _link_up(agent, now_s) if online else _link_down(agent, chance, now_s)
        case Installed(alias, change):
            return _install(agent, alias, change)
        case Measured():
            return _weigh(agent, event)
        case trial.Ran():
            return _try(agent, event)
        case Tick():
            return _tick(agent, now_s)
        case session.Connected() | session.Lost() | session.Stored() | session.Acked():
            return _speak(agent, event)
        case _:
            return _fetch(agent, event)


def _follow_order(agent: Agent, came: OrderCame, now_s: float) -> tuple[Agent, Effects]:
    order, verdicts = came.order, came.verdicts
    noted = orders.note_releases(agent.releases, order, verdicts, agent.aliases)
    turns = orders.turns_of(order, verdicts, agent.aliases, noted, now_s=now_s)
    agent = replace(agent, releases=noted)
    told: Effects = ()
    for alias, turn in turns.items():
        agent, more = _install(agent, alias, turn)
        told += more
    agent, more = _try(agent, trial.Ordered(order.trials, came.trials))
    return agent, (*told, *more, session.Announce())


def _withdraw_all(agent: Agent) -> tuple[Agent, Effects]:
    told: Effects = ()
    for alias, state in agent.aliases.items():
        agent, more = _install(agent, alias, install.Withdrawn(state.revoked))
        told += more
    agent, more = _try(agent, trial.Ordered(()))
    return agent, told + more


def _take_manifest(agent: Agent, came: ManifestAccepted, now_s: float) -> tuple[Agent, Effects]:
    """Go on with the download, unless the bundle is for another use than it was ordered for."""
    bundle = came.bundle
    if agent.download is None or agent.download.bundle != bundle:
        return agent, ()
    if came.measuring and _fetching(agent, bundle):
        wrong = "the bundle is for measuring only: order the version's variant"
        return _refuse_deployments(agent, bundle, Reason.ONLY_FOR_MEASURING, wrong)
    if not came.measuring and trial.fetching_of(agent.trials) == bundle:
        wrong = "the bundle is one to serve: order a trial of one that is for measuring"
        return _try(agent, trial.Refused(bundle, Reason.NOT_FOR_MEASURING, wrong))
    return _fetch(agent, download.ManifestCame(came.missing, now_s))


def _link_up(agent: Agent, now_s: float) -> tuple[Agent, Effects]:
    agent = replace(agent, fetch_online=True, fetch_failures=0, open_fetch_at_s=None)
    return _fetch(agent, download.Connected(now_s))


def _link_down(agent: Agent, chance: float, now_s: float) -> tuple[Agent, Effects]:
    if agent.download is None:
        return replace(agent, fetch_online=False), ()  # As `CloseFetch` wanted it.
    again_s = now_s + delay_s(agent.fetch_failures, chance)
    failures = agent.fetch_failures + 1
    agent = replace(agent, fetch_online=False, fetch_failures=failures, open_fetch_at_s=again_s)
    return _fetch(agent, download.Disconnected())


def _reopen_fetch(agent: Agent, now_s: float) -> tuple[Agent, Effects]:
    if agent.download is None or agent.fetch_online or agent.open_fetch_at_s is None:
        return agent, ()
    if now_s < agent.open_fetch_at_s:
        return agent, ()
    return replace(agent, open_fetch_at_s=None), (OpenFetch(),)


def _tick(agent: Agent, now_s: float) -> tuple[Agent, Effects]:
    agent, effects = _speak(agent, session.Tick(now_s))
    agent, more = _reopen_fetch(agent, now_s)
    effects += more
    for alias in agent.aliases:
        agent, more = _install(agent, alias, install.Tick(now_s))
        effects += more
    agent, more = _try(agent, trial.Tick(now_s))
    effects += more
    agent, more = _fetch(agent, download.Tick(now_s))
    return agent, effects + more


def _refuse(agent: Agent, bundle: Digest, reason: Reason, detail: str) -> tuple[Agent, Effects]:
    agent, effects = _refuse_deployments(agent, bundle, reason, detail)
    agent, more = _try(agent, trial.Refused(bundle, reason, detail))
    return agent, effects + more


def _refuse_deployments(
    agent: Agent, bundle: Digest, reason: Reason, detail: str
) -> tuple[Agent, Effects]:
    effects: Effects = ()
    for alias, state in agent.aliases.items():
        if isinstance(state, install.Fetching) and state.wanted.bundle == bundle:
            refused = install.Refused(state.wanted.deployment, reason, detail)
            agent, more = _install(agent, alias, refused)
            effects += more
    return agent, effects


def _install(agent: Agent, alias: AliasName, event: install.Event) -> tuple[Agent, Effects]:
    before = agent.aliases.get(alias, install.Idle())
    after, effects = install.step(before, event)
    agent = replace(agent, aliases={**agent.aliases, alias: after})
    if isinstance(after, install.Probation) and not isinstance(before, install.Probation):
        watch = Watch(incumbent=merge(agent.recent.get(alias, ())))
        agent = replace(agent, watches={**agent.watches, alias: watch})
    if isinstance(before, install.Probation) and isinstance(after, install.Idle):
        agent = _end_watch(agent, alias, before, after)
    told: list[Effect] = []
    for effect in effects:
        match effect:
            case install.Report(outcome):
                told.append(Tell(alias, outcome))
            case install.Fetch():
                pass  # `_pursue` follows the states.
            case install.Serve() | install.Retire() | install.Keep() | install.Load():
                told.append(For(alias, effect))
            case _:
                assert_never(effect)
    deployment = install.deployment_of(after)
    if (
        deployment
        and not deployment.status.is_final
        and deployment != install.deployment_of(before)
    ):
        told.append(Tell(alias, deployment))
    return agent, tuple(told)


def _end_watch(
    agent: Agent, alias: AliasName, before: install.Probation, after: install.Idle
) -> Agent:
    """A confirmed bundle's windows become the incumbent's; after a revert the old ones stay."""
    recent = agent.recent
    if after.confirmed[:1] == (before.wanted.bundle,):
        recent = {**recent, alias: agent.watches[alias].compute[-RECENT_WINDOWS:]}
    watches = {name: watch for name, watch in agent.watches.items() if name != alias}
    return replace(agent, recent=recent, watches=watches)


def _weigh(agent: Agent, window: Measured) -> tuple[Agent, Effects]:
    alias = window.alias
    state = agent.aliases.get(alias, install.Idle())
    if isinstance(state, install.Probation) and window.bundle == state.wanted.bundle:
        watch = observe(
            agent.watches[alias],
            requests=window.requests,
            errors=window.errors,
            compute=window.compute,
        )
        agent = replace(agent, watches={**agent.watches, alias: watch})
        sickness = diagnose(watch)
        if sickness is None:
            return agent, ()
        sickened = install.Sickened(state.wanted.deployment, sickness.reason, sickness.detail)
        return _install(agent, alias, sickened)
    if window.bundle == install.slots_of(state).active:
        recent = (*agent.recent.get(alias, ()), window.compute)[-RECENT_WINDOWS:]
        return replace(agent, recent={**agent.recent, alias: recent}), ()
    return agent, ()


def _give_way(agent: Agent, now_s: float) -> tuple[Agent, Effects]:
    """Let trials run while no alias is on its way to a bundle."""
    is_free = all(isinstance(state, install.Idle) for state in agent.aliases.values())
    return _try(agent, trial.Freed(now_s) if is_free else trial.Occupied())


def _try(agent: Agent, event: trial.Event) -> tuple[Agent, Effects]:
    after, effects = trial.step(agent.trials, event)
    return replace(agent, trials=after), effects


def _give_turn(agent: Agent, now_s: float) -> tuple[Agent, Effects]:
    """Let the next fetched bundle load, unless an alias is past fetching already."""
    busy = (install.Loading, install.Probation)
    if any(isinstance(state, busy) for state in agent.aliases.values()):
        return agent, ()
    waiting = {
        state.wanted.deployment: alias
        for alias, state in agent.aliases.items()
        if isinstance(state, install.Fetching)
    }
    agent = replace(agent, fetched=agent.fetched & waiting.keys())
    turn = next((deployment for deployment in waiting if deployment in agent.fetched), None)
    if turn is None:
        return agent, ()
    return _install(agent, waiting[turn], install.Fetched(turn))


def _pursue(agent: Agent, now_s: float) -> tuple[Agent, Effects]:
    """Make the download be of the first bundle that is wanted and not on disk, a trial's last."""
    wanted = next(
        (
            state.wanted.bundle
            for state in agent.aliases.values()
            if isinstance(state, install.Fetching) and state.wanted.deployment not in agent.fetched
        ),
        trial.fetching_of(agent.trials),
    )
    current = agent.download
    if (current.bundle if current else None) == wanted:
        return agent, ()
    drop: Effects = ()
    if current is not None and current.asked:
        drop = (download.DropChunks(current.asked),)
    if current is not None and current.missing is None:
        drop = (download.DropManifest(current.bundle),)
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
    if not agent.fetch_online:
        return agent, (*drop, OpenFetch())
    agent, ask = _fetch(agent, download.Connected(now_s))
    return agent, (*drop, *ask)


def _advise(agent: Agent, advice: download.Advised) -> Agent:
    """Keep what is true of later downloads too."""
    return replace(
        agent,
        limit_bytes_per_s=advice.bytes_per_s,
        left_bytes=advice.left_bytes,
        sources=advise(agent.sources, advice.sources),
    )


def _fetch(agent: Agent, event: download.Event) -> tuple[Agent, Effects]:
    if isinstance(event, download.Advised):
        agent = _advise(agent, event)
    if agent.download is None:
        return agent, ()
    after, effects = download.step(agent.download, event)
    # What was spent and who lied is true of the next download too.
    agent = replace(agent, download=after, left_bytes=after.left_bytes, sources=after.sources)
    told: list[Effect] = []
    for effect in effects:
        match effect:
            case download.Complete():
                told.append(Assemble(after.bundle))
            case download.GiveUp(chunk):
                times = download.SPOILS_ALLOWED + 1
                spoiled = f"chunk {chunk[:12]} came with wrong bytes {times} times"
                for deployment in _fetching(agent, after.bundle):
                    alias = _alias_of(agent, deployment)
                    sickened = install.Sickened(deployment, Reason.WRONG_BYTES, spoiled)
                    agent, more = _install(agent, alias, sickened)
                    told.extend(more)
                refused = trial.Refused(after.bundle, Reason.WRONG_BYTES, spoiled)
                agent, more = _try(agent, refused)
                told.extend(more)
            case _:
                told.append(effect)
    return agent, tuple(told)


def _fetching(agent: Agent, bundle: Digest) -> frozenset[DeploymentId]:
    return frozenset(
        state.wanted.deployment
        for state in agent.aliases.values()
        if isinstance(state, install.Fetching) and state.wanted.bundle == bundle
    )


def _alias_of(agent: Agent, deployment: DeploymentId) -> AliasName:
    return next(
        alias
        for alias, state in agent.aliases.items()
        if isinstance(state, install.Fetching) and state.wanted.deployment == deployment
    )


def _speak(agent: Agent, event: session.Event) -> tuple[Agent, Effects]:
    after, effects = session.step(agent.session, event)
    return replace(agent, session=after), effects
