"""What a bundle costs the controller in bytes, by its own count and by the broker's."""

from __future__ import annotations

import queue
from collections.abc import Sequence

import msgspec
import pytest

from tests.controller.test_mqtt import Inbox, a_link
from tests.system.sites import Site, until
from tests.system.tiny import add_version, answers_as
from wherry.bundle import Bundle
from wherry.topics import BundleTopic, text
from wherry_controller.mqtt import Arrived, Link
from wherry_sim.demo.processes import Agent

pytestmark = pytest.mark.system

RECEIVED = "$SYS/broker/bytes/received"
SIZE_BYTES = 4_000_000
NOISE_BYTES = 20_000  # Half a percent: what is said of windows and acks while one looks.


class Traffic(msgspec.Struct, frozen=True):
    """Bytes to and from the broker, as a device or the controller counts them."""

    sent_bytes: int | None
    received_bytes: int | None


class Scales:
    """The broker's own count of what it received, and what of it came from here."""

    def __init__(self, link: Link, inbox: Inbox) -> None:
        self._link, self._inbox = link, inbox
        self._received = 0
        self.topics: set[str] = set()

    def weigh(self) -> int:
        """Return the bytes that the broker received from others, as it last told."""
        while True:
            try:
                came = self._inbox.queue.get_nowait()
            except queue.Empty:
                return self._received - self._link.traffic().sent_bytes
            if isinstance(came, Arrived):
                self.topics.add(came.topic)
                if came.topic == RECEIVED:
                    self._received = int(came.payload)


def test_three_devices_fetch_what_the_controller_sent_once(site: Site) -> None:
    bundle = add_version(site, "v1", size_bytes=SIZE_BYTES)
    agents = [site.add_agent(name) for name in ("one", "two", "three")]
    site.set_group("all", *agents)
    topic = text(BundleTopic(bundle.digest))
    with a_link(site.open_port, RECEIVED, topic, client_id="scales") as (link, inbox):
        scales = Scales(link, inbox)
        site.start_rollout("v1", ["all"])

        # No agent runs yet, so all that the broker received is the controller's.
        until(lambda: agrees(scales, sent_by(site)) and topic in scales.topics)
        alone = sent_by(site)
        assert size_of(bundle) < alone <= 1.1 * size_of(bundle)

        for agent in agents:
            agent.start()
        assert site.until_over("v1").status == "succeeded"
        assert all(answers_as(agent, bundle) for agent in agents)

        # The rest is the agents', who tell their own count with the windows of what they answered.
        until(lambda: all(traffic_of(site, agent).sent_bytes for agent in agents))
        until(lambda: agrees(scales, sent_by(site) + sent_by_agents(site, agents)))
    assert sent_by(site) - alone < NOISE_BYTES
    assert sent_by(site) <= 1.3 * size_of(bundle)
    for agent in agents:
        received = traffic_of(site, agent).received_bytes or 0
        assert size_of(bundle) < received <= 1.1 * size_of(bundle)


def agrees(scales: Scales, counted: int) -> bool:
    return abs(scales.weigh() - counted) <= NOISE_BYTES and counted > SIZE_BYTES


def sent_by(site: Site) -> int:
    told = msgspec.json.decode(site.controller.remote.get("/broker"), type=Traffic)
    return told.sent_bytes or 0


def traffic_of(site: Site, agent: Agent) -> Traffic:
    told = site.controller.remote.get(f"/devices/{agent.id}/telemetry")
    return msgspec.json.decode(told, type=Traffic)


def sent_by_agents(site: Site, agents: Sequence[Agent]) -> int:
    return sum(traffic_of(site, agent).sent_bytes or 0 for agent in agents)


def size_of(bundle: Bundle) -> int:
    return len(bundle.envelope) + sum(map(len, bundle.blobs.values()))
