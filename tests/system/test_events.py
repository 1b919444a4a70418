"""What a device tells arrives once and whole, whichever processes are killed meanwhile."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.system.fleets import a_fleet_on_v1
from tests.system.sites import Killable, Site, until
from tests.system.tiny import add_version, answers_as
from wherry_agent.database import FILE
from wherry_sim.demo.processes import Agent

pytestmark = pytest.mark.system

LATEST_S = 1.5  # After its start, when a rollout is somewhere between its order and its end.
AWAY_S = 0.3


def test_no_event_is_lost_when_brokers_agents_and_controllers_are_killed(site: Site) -> None:
    agents, _ = a_fleet_on_v1(site)
    chance = random.Random(5)
    victims: list[Killable] = [*agents, site.broker, site.controller] * 2
    chance.shuffle(victims)
    for number, victim in enumerate(victims, start=2):
        version = f"v{number}"
        bundle = add_version(site, version, shift=float(number))
        site.start_rollout(version, ["one", "two"])
        time.sleep(chance.uniform(0.0, LATEST_S))
        victim.kill()
        time.sleep(AWAY_S)
        victim.start()
        assert site.until_over(version).status == "succeeded"
    assert all(answers_as(one, bundle, shift=float(len(victims) + 1)) for one in agents)
    for agent in agents:
        until(partial(has_told_all, site, agent))
        assert given(agent) > len(victims)


def has_told_all(site: Site, agent: Agent) -> bool:
    return not waiting(agent) and arrived(site, agent) == list(range(1, given(agent) + 1))


def arrived(site: Site, agent: Agent) -> list[int]:
    """Return the numbers of a device's events that the controller has."""
    place = site.controller.folder / "wherry.db"
    return _numbers(place, "SELECT seq FROM event WHERE device = ? ORDER BY seq", agent.id)


def given(agent: Agent) -> int:
    """Return the last number that the device gave to an event."""
    statement = "SELECT seq FROM sqlite_sequence WHERE name = ?"
    return max(_numbers(agent.home / "state" / FILE, statement, "event"))


def waiting(agent: Agent) -> list[int]:
    """Return the numbers of the events that a device has not got rid of."""
    return _numbers(agent.home / "state" / FILE, "SELECT seq FROM event WHERE seq > ?", 0)


def _numbers(place: Path, statement: str, argument: str | int) -> list[int]:
    with closing(sqlite3.connect(f"{place.as_uri()}?mode=ro", uri=True)) as database:
        return [number for (number,) in database.execute(statement, (argument,))]
