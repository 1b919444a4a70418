"""Processes that die in the middle of a rollout: it goes on, and ends as it should."""

from __future__ import annotations

import os
import shutil
import signal
from collections import defaultdict
from functools import partial

import pytest

from tests.agent.processes import is_alive, worker_pids
from tests.controller.test_mqtt import Inbox, a_link
from tests.controller.trusts import order_in
from tests.system.fleets import a_fleet_on_v1, is_in_mid_download
from tests.system.sites import Site, is_up, logged, until
from tests.system.tiny import add_version, answers_as
from wherry.bundle import Bundle
from wherry.messages import Order
from wherry.names import parse_alias_name
from wherry.topics import DesiredTopic, filter_of, parse_topic
from wherry_controller.foundation import read_keys
from wherry_controller.mqtt import Arrived
from wherry_sim.demo.processes import Agent

pytestmark = pytest.mark.system

DEFAULT = parse_alias_name("default")
LARGE_BYTES = 2_000_000  # 16 chunks, which take seconds over a slow link.


def test_a_controller_that_is_killed_in_a_rollout_brings_it_to_its_end(site: Site) -> None:
    agents, v1 = a_fleet_on_v1(site, slow=True)
    v2 = add_version(site, "v2", shift=2.0, size_bytes=LARGE_BYTES)
    with a_link(site.open_port, filter_of(DesiredTopic), client_id="witness") as (_, inbox):
        site.start_rollout("v2", ["one", "two"])
        for agent in agents:
            until(partial(is_in_mid_download, agent, v2))
            site.controller.kill()
            site.controller.start()
        assert site.until_over("v2").status == "succeeded"
        seen = orders_seen(inbox, site)
    assert all(answers_as(agent, v2, shift=2.0) for agent in agents)
    assert seen == {agent.id: [v1.digest, v2.digest] for agent in agents}


def orders_seen(inbox: Inbox, site: Site) -> dict[str, list[str]]:
    """Return the bundles of each device's orders, each of which is newer than the one before."""
    director = read_keys(site.controller.settings).director
    orders: dict[str, list[Order]] = defaultdict(list)
    while not inbox.queue.empty():
        came = inbox.queue.get()
        if isinstance(came, Arrived) and isinstance(parse_topic(came.topic), DesiredTopic):
            order = order_in(came.payload, director)
            if order not in orders[order.device]:
                orders[order.device].append(order)
    for said in orders.values():
        assert [order.generation for order in said] == sorted({one.generation for one in said})
    return {d: [order.aliases[DEFAULT].bundle for order in said] for d, said in orders.items()}


def test_a_kill_in_mid_download_and_one_after_the_switch_cost_only_time(site: Site) -> None:
    (one, two), _ = a_fleet_on_v1(site, slow=True)
    v2 = add_version(site, "v2", shift=2.0, size_bytes=LARGE_BYTES)
    site.start_rollout("v2", ["one", "two"], probation_s=2.0)
    until(lambda: is_in_mid_download(one, v2))
    one.kill()
    one.start()
    until(lambda: has_flipped_to(two, v2))
    two.kill()
    assert not logged(two, "deployment.succeeded")[1:]
    two.start()
    assert site.until_over("v2").status == "succeeded"
    for agent in (one, two):
        assert answers_as(agent, v2, shift=2.0)
        stored = [line.fields["chunk"] for line in logged(agent, "chunk.stored")]
        assert len(stored) == len(set(stored)), "a verified chunk was fetched again"


def has_flipped_to(agent: Agent, bundle: Bundle) -> bool:
    return any(line.fields["bundle"] == bundle.digest for line in logged(agent, "bundle.flipped"))


def test_a_worker_that_is_killed_is_replaced_and_the_model_answers_again(site: Site) -> None:
    (one, _), v1 = a_fleet_on_v1(site)
    assert one.process is not None
    (worker,) = worker_pids(v1.digest, of=one.process.pid)
    os.kill(worker, signal.SIGKILL)
    until(lambda: logged(one, "worker.died") and is_up(one, v1.digest))
    assert answers_as(one, v1, shift=1.0)
    assert not is_alive(worker)
    assert site.serving(one) == v1.digest


def test_a_device_whose_disk_was_replaced_comes_back_to_its_bundle_and_goes_on(site: Site) -> None:
    (one, two), v1 = a_fleet_on_v1(site)
    one.kill()
    shutil.rmtree(one.home / "state")
    one.start()
    until(lambda: is_up(one, v1.digest))
    v2 = add_version(site, "v2", shift=2.0)
    site.start_rollout("v2", ["one", "two"])
    assert site.until_over("v2").status == "succeeded"
    assert all(answers_as(agent, v2, shift=2.0) for agent in (one, two))
