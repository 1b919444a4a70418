"""The whole agent as one machine: session, download and an install machine for each alias.

The app and the simulator feed the same `step` and perform the same effects. What holds across
the parts is decided here:

* The download follows the states (`pursuing`).
* One alias at a time is past fetching; the others wait with their bundles on disk.
* Shadowing and probation are judged from the measured windows (`watching`), and a probation that
  was passed is attested (`receipts`).
* Each change of a deployment is told: outcomes by `Report`, the way there by `Progress`.
* Trials wait for what is deployed, and give way to it; a bundle is for the one or the other.

`Saved` is what outlives the process; everything else is made anew from it and from the disk
(`saved`). Its words stand in `events`.
"""

from __future__ import annotations

from msgspec.structs import replace
from typing_extensions import assert_never

from wherry.names import AliasName, Digest
from wherry.reasons import Reason
from wherry_agent.core import (
    download,
    install,
    orders,
    pursuing,
    receipts,
    session,
    trial,
    watching,
)
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
from wherry_agent.core.health import Bounds, Window
from wherry_agent.core.saved import Agent, Saved, must_save, saved_of

__all__ = [
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
    "Window",
    "concludes",
    "must_save",
    "saved_of",
    "step",
    "wake",
]


def wake(
    saved: Saved,
    now_s: float,
    *,
    outbox_first: int,
    outbox_last: int,
    limit_bytes_per_s: float | None = None,
    bounds: Bounds | None = None,
) -> tuple[Agent, Effects]:
    """Return the agent as it comes up with what it had saved, and what to do first.

    The outbox holds the events from `outbox_first` to `outbox_last` (one less: it is empty).
    """
    agent = Agent(
        session=session.Session(last=outbox_last, acked=outbox_first - 1),
        aliases=saved.aliases,
        watching=watching.Watching(
            recent=saved.recent, labels=saved.labels, bounds=bounds or Bounds()
        ),
        releases=saved.releases,
        trials=saved.trials,
        receipts=receipts.Receipts(claims=saved.claims, signed=saved.receipts),
        limit_bytes_per_s=limit_bytes_per_s,
    )
    agent, effects = _try(agent, trial.Restarted(now_s))
    for alias in saved.aliases:
        agent, more = _install(agent, alias, install.Restarted(now_s))
        effects += more
    agent, more = _pursue(agent, now_s)
    return agent, (*effects, *more, *receipts.begin(agent.receipts))


def concludes(agent: Agent, now_s: float) -> bool:
    """Say whether the next tick ends a probation: then all that was measured must be in."""
    return any(
        isinstance(state, install.Probation) and now_s - state.began_s >= state.wanted.probation_s
        for state in agent.aliases.values()
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
            fetched = pursuing.fetching_of(agent, bundle).values()
            agent = replace(agent, fetched=agent.fetched.union(fetched))
            return _try(agent, trial.Fetched(bundle))
        case FetchLink():
            return _link(agent, event, now_s)
        case Tick():
            return _tick(agent, now_s)
        case (
            session.Connected()
            | session.Lost()
            | session.Stored()
            | session.Acked()
            | session.Advised()
        ):
            return _speak(agent, event)
        case Installed() | Measured() | trial.Ran() | receipts.Attested():
            return _read(agent, event, now_s)
        case _:
            return _fetch(agent, event)


def _read(
    agent: Agent, event: Installed | Measured | trial.Ran | receipts.Attested, now_s: float
) -> tuple[Agent, Effects]:
    """Take what the engine, the recorder, the gauge or the child that signs has done."""
    match event:
        case Installed(alias, change):
            return _install(agent, alias, change)
        case Measured():
            return _weigh(agent, event)
        case trial.Ran():
            return _try(agent, event)
        case receipts.Attested():
            return _attest(agent, receipts.take(agent.receipts, event, now_s))
        case _:
            assert_never(event)


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
    # Its key is another one now, and nobody could verify what the last one signed.
    return replace(agent, receipts=receipts.Receipts()), told + more


def _take_manifest(agent: Agent, came: ManifestAccepted, now_s: float) -> tuple[Agent, Effects]:
    """Go on with the download, unless the bundle is for another use than it was ordered for."""
    bundle = came.bundle
    if agent.download is None or agent.download.bundle != bundle:
        return agent, ()
    if came.measuring and pursuing.fetching_of(agent, bundle):
        wrong = "the bundle is for measuring only: order the version's variant"
        return _refuse_deployments(agent, bundle, Reason.ONLY_FOR_MEASURING, wrong)
    if not came.measuring and trial.fetching_of(agent.trials) == bundle:
        wrong = "the bundle is one to serve: order a trial of one that is for measuring"
        return _try(agent, trial.Refused(bundle, Reason.NOT_FOR_MEASURING, wrong))
    return _fetch(agent, download.ManifestCame(came.missing, now_s))


def _link(agent: Agent, link: FetchLink, now_s: float) -> tuple[Agent, Effects]:
    if link.online:
        return _fetch(pursuing.link_up(agent), download.Connected(now_s))
    return _fetch(pursuing.link_down(agent, link.chance, now_s), download.Disconnected())


def _tick(agent: Agent, now_s: float) -> tuple[Agent, Effects]:
    agent, effects = _speak(agent, session.Tick(now_s))
    agent, more = pursuing.reopen(agent, now_s)
    effects += more
    for alias in agent.aliases:
        agent, more = _install(agent, alias, install.Tick(now_s))
        effects += more
    agent, more = _try(agent, trial.Tick(now_s))
    effects += more
    agent, more = _attest(agent, receipts.tick(agent.receipts, now_s))
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
    for alias, deployment in pursuing.fetching_of(agent, bundle).items():
        agent, more = _install(agent, alias, install.Refused(deployment, reason, detail))
        effects += more
    return agent, effects


def _install(agent: Agent, alias: AliasName, event: install.Event) -> tuple[Agent, Effects]:
    before = agent.aliases.get(alias, install.Idle())
    after, effects = install.step(before, event)
    told = (*_told(alias, effects), *_progress(alias, before, after))
    agent, attests = _claim(agent, alias, before, after)
    watched = watching.follow(agent.watching, alias, before, after)
    agent = replace(agent, aliases={**agent.aliases, alias: after}, watching=watched)
    return agent, (*told, *attests)


def _told(alias: AliasName, effects: install.Effects) -> Effects:
    """Return an alias's effects as the agent's."""
    told: list[Effect] = []
    for effect in effects:
        match effect:
            case install.Report(outcome):
                told.append(Tell(alias, outcome))
            case install.Fetch():
                pass  # `_pursue` follows the states.
            case (
                install.Load()
                | install.Shadow()
                | install.Share()
                | install.Serve()
                | install.Retire()
                | install.Keep()
            ):
                told.append(For(alias, effect))
            case _:
                assert_never(effect)
    return tuple(told)


def _progress(alias: AliasName, before: install.State, after: install.State) -> Effects:
    deployment = install.deployment_of(after)
    if deployment is None or deployment.status.is_final:
        return ()
    return () if deployment == install.deployment_of(before) else (Tell(alias, deployment),)


def _claim(
    agent: Agent, alias: AliasName, before: install.State, after: install.State
) -> tuple[Agent, Effects]:
    """Attest a probation that was passed."""
    if not isinstance(before, install.Probation) or not isinstance(after, install.Idle):
        return agent, ()
    settled = after.settled
    if settled is None or settled.reason is not Reason.CONFIRMED:
        return agent, ()
    claim = receipts.claim_of(alias, before, agent.watching.watches[alias])
    return (agent, ()) if claim is None else _attest(agent, receipts.add(agent.receipts, claim))


def _attest(
    agent: Agent, step: tuple[receipts.Receipts, receipts.Effects]
) -> tuple[Agent, Effects]:
    return replace(agent, receipts=step[0]), step[1]


def _weigh(agent: Agent, measured: Measured) -> tuple[Agent, Effects]:
    alias = measured.alias
    state = agent.aliases.get(alias, install.Idle())
    watched, found = watching.weigh(agent.watching, alias, state, measured.bundle, measured.window)
    agent = replace(agent, watching=watched)
    return (agent, ()) if found is None else _install(agent, alias, found)


def _give_way(agent: Agent, now_s: float) -> tuple[Agent, Effects]:
    """Let trials run while no alias is on its way to a bundle."""
    is_free = all(isinstance(state, install.Idle) for state in agent.aliases.values())
    return _try(agent, trial.Freed(now_s) if is_free else trial.Occupied())


def _try(agent: Agent, event: trial.Event) -> tuple[Agent, Effects]:
    after, effects = trial.step(agent.trials, event)
    return replace(agent, trials=after), effects


def _give_turn(agent: Agent, now_s: float) -> tuple[Agent, Effects]:
    """Let the next fetched bundle load, unless an alias is past fetching already."""
    if any(isinstance(state, install.PAST_FETCHING) for state in agent.aliases.values()):
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
    before = agent.download
    agent, effects = pursuing.pursue(agent)
    if agent.download is before or not agent.fetch_online:
        return agent, effects
    agent, ask = _fetch(agent, download.Connected(now_s))
    return agent, (*effects, *ask)


def _fetch(agent: Agent, event: download.Event) -> tuple[Agent, Effects]:
    if isinstance(event, download.Advised):
        agent = pursuing.heed(agent, event)
    if agent.download is None:
        return agent, ()
    after, effects = download.step(agent.download, event)
    agent = pursuing.take(agent, after)
    told: list[Effect] = []
    for effect in effects:
        match effect:
            case download.Complete():
                told.append(Assemble(after.bundle))
            case download.GiveUp(chunk):
                agent, more = _give_up(agent, after.bundle, chunk)
                told.extend(more)
            case _:
                told.append(effect)
    return agent, tuple(told)


def _give_up(agent: Agent, bundle: Digest, chunk: Digest) -> tuple[Agent, Effects]:
    """End what waits for a bundle of which a chunk comes with wrong bytes only."""
    times = download.SPOILS_ALLOWED + 1
    spoiled = f"chunk {chunk[:12]} came with wrong bytes {times} times"
    effects: Effects = ()
    for alias, deployment in pursuing.fetching_of(agent, bundle).items():
        sickened = install.Sickened(deployment, Reason.WRONG_BYTES, spoiled)
        agent, more = _install(agent, alias, sickened)
        effects += more
    agent, more = _try(agent, trial.Refused(bundle, Reason.WRONG_BYTES, spoiled))
    return agent, effects + more


def _speak(agent: Agent, event: session.Event) -> tuple[Agent, Effects]:
    after, effects = session.step(agent.session, event)
    return replace(agent, session=after), effects
