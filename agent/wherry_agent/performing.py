"""What the engine and the gauge do of what the machines order, each order perhaps twice."""

from __future__ import annotations

from collections.abc import Iterator

from typing_extensions import assert_never

from wherry.messages import Reason
from wherry.names import AliasName
from wherry_agent.core import agent as machine
from wherry_agent.core import install, trial
from wherry_agent.engine import Engine
from wherry_agent.gauge import Gauge
from wherry_agent.shelf import Shelf

GONE = "its files are gone from the disk"


def perform_install(
    effect: install.Serve | install.Retire | install.Load,
    alias: AliasName,
    engine: Engine,
    shelf: Shelf,
) -> Iterator[machine.Event]:
    """Order the engine; yield what cannot be done."""
    match effect:
        case install.Serve(bundle):
            place = shelf.place(bundle) if bundle else None
            if bundle and place is None:
                yield machine.Installed(alias, install.Unservable(bundle))
            else:
                engine.serve(alias, place)
        case install.Retire():
            engine.retire(alias)
        case install.Load(wanted):
            place = shelf.place(wanted.bundle)
            if place is None:
                sickened = install.Sickened(wanted.deployment, Reason.LOAD_FAILED, GONE)
                yield machine.Installed(alias, sickened)
            else:
                engine.load(alias, wanted.deployment, place)
        case _:
            assert_never(effect)


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
