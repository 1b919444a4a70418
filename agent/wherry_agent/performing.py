"""What the engine and the gauge are told to do, each perhaps twice, and what comes of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from typing_extensions import assert_never

from wherry.messages import detail
from wherry.names import AliasName
from wherry.reasons import Reason
from wherry_agent import engine
from wherry_agent.core import agent as machine
from wherry_agent.core import install, trial
from wherry_agent.gauge import Gauge
from wherry_agent.shelf import Shelf

log = logging.getLogger("wherry_agent")

GONE = "its files are gone from the disk"


def perform_install(
    effect: install.Serve | install.Retire | install.Load,
    alias: AliasName,
    serving: engine.Engine,
    shelf: Shelf,
) -> Iterator[machine.Event]:
    """Order the engine; yield what cannot be done."""
    match effect:
        case install.Serve(bundle):
            place = shelf.place(bundle) if bundle else None
            if bundle and place is None:
                yield machine.Installed(alias, install.Unservable(bundle))
            else:
                serving.serve(alias, place)
        case install.Retire():
            serving.retire(alias)
        case install.Load(wanted):
            place = shelf.place(wanted.bundle)
            if place is None:
                sickened = install.Sickened(wanted.deployment, Reason.LOAD_FAILED, GONE)
                yield machine.Installed(alias, sickened)
            else:
                serving.load(alias, wanted.deployment, place)
        case _:
            assert_never(effect)


def read_engine(
    item: engine.Loaded | engine.LoadFailed | engine.Unservable | engine.WorkerDied,
    state: install.State,
    now_s: float,
) -> Iterator[machine.Event]:
    """Say what news of the engine mean for its alias, which stands at `state`."""
    match item:
        case engine.Loaded(alias, deployment):
            yield machine.Installed(alias, install.Loaded(deployment, now_s))
        case engine.LoadFailed(alias, deployment, _, reason, why):
            sickened = install.Sickened(deployment, reason, detail(why))
            yield machine.Installed(alias, sickened)
        case engine.Unservable(alias, bundle, reason, why):
            log.error("bundle.unservable", extra={"bundle": bundle, "reason": reason.value})
            yield machine.Installed(alias, install.Unservable(bundle))
            yield from _sickened(item, state, reason)
        case engine.WorkerDied(_, bundle, why):
            log.warning("worker.died", extra={"bundle": bundle, "why": why})
            yield from _sickened(item, state, Reason.WORKER_DIED)
        case _:
            assert_never(item)


def _sickened(
    item: engine.Unservable | engine.WorkerDied, state: install.State, reason: Reason
) -> Iterator[machine.Event]:
    """End a probation whose bundle does not run; any other goes on."""
    if isinstance(state, install.Probation) and state.wanted.bundle == item.bundle:
        sickened = install.Sickened(state.wanted.deployment, reason, detail(item.detail))
        yield machine.Installed(item.alias, sickened)


def perform_trial(
    effect: trial.Run | trial.Stop, gauge: Gauge, shelf: Shelf
) -> Iterator[machine.Event]:
    """Order the gauge; yield what cannot be done."""
    match effect:
        case trial.Run(wanted, deadline_s):
            place = shelf.place(wanted.bundle)
            if place is None:
                yield trial.Ran(wanted.trial, None, Reason.LOAD_FAILED, GONE)
            else:
                gauge.run(wanted, place, deadline_s=deadline_s)
        case trial.Stop():
            gauge.stop()
        case _:
            assert_never(effect)
