"""What applications and intruders see of a fleet that moves from one bundle to the next."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from tests.agent.bundles import logits_of
from tests.builders import a_key, a_wanted, an_order
from tests.controller.test_mqtt import a_link
from tests.system.fleets import a_fleet_on_v1
from tests.system.sites import Site, ask, logged, until
from tests.system.tiny import IMAGE, REQUEST, add_version, answers_as
from wherry import codec, signing
from wherry.messages import Desired
from wherry.names import parse_alias_name, parse_device_id
from wherry.topics import DesiredTopic, text
from wherry_agent.client import NotServing
from wherry_controller.mqtt import Connected, Delivered
from wherry_sim.demo.processes import Agent

pytestmark = pytest.mark.system

DEFAULT = parse_alias_name("default")


@dataclass(slots=True)
class Seen:
    """What one application got: how often which bundle answered, what was wrong or failed."""

    answers: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


@contextmanager
def an_application(agent: Agent, shifts: dict[str, float]) -> Iterator[Seen]:
    """Ask the agent back to back; `shifts` tells each bundle's answers from the others'."""
    seen, ended = Seen(), threading.Event()
    right = {bundle: logits_of(IMAGE, shift=shift).ravel() for bundle, shift in shifts.items()}

    def run() -> None:
        with ask(agent) as client:
            while not ended.is_set():
                try:
                    answer = client.infer("default", REQUEST)
                except NotServing as error:
                    seen.failed.append(str(error))
                    continue
                seen.answers[answer.version] = seen.answers.get(answer.version, 0) + 1
                if not np.allclose(answer.values("logits"), right[answer.version], atol=1e-4):
                    seen.wrong.append(answer.version)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def test_no_request_fails_while_a_fleet_goes_forth_and_back(site: Site) -> None:
    (one, _), v1 = a_fleet_on_v1(site)
    v2 = add_version(site, "v2", shift=2.0)
    with an_application(one, {v1.digest: 1.0, v2.digest: 2.0}) as seen:
        site.start_rollout("v2", ["one", "two"])
        assert site.until_over("v2").status == "succeeded"
        assert site.wherry("rollout", "revert", "v2").status == 0
        until(lambda: site.rollout("v2").status == "reverted")
        before = seen.answers[v1.digest]
        until(lambda: seen.answers[v1.digest] > before)
    assert seen.failed == []
    assert seen.wrong == []
    assert min(seen.answers[v1.digest], seen.answers[v2.digest]) > 100
    assert answers_as(one, v1, shift=1.0)


def test_an_order_that_a_stranger_signed_changes_nothing(site: Site) -> None:
    (one, _), v1 = a_fleet_on_v1(site)
    device = parse_device_id("one")
    order = an_order(device="one", generation=99, aliases={DEFAULT: a_wanted("forged:one")})
    forged = Desired(order=msgspec.Raw(signing.sign(order, a_key(9))))
    with a_link(site.open_port, client_id="stranger") as (link, inbox):
        inbox.wait_for(Connected)
        link.publish(text(DesiredTopic(device)), codec.encode(forged))
        inbox.wait_for(Delivered)
    refused = until(lambda: logged(one, "bytes.refused"))
    assert refused[0].fields["reason"] == "untrusted_signature"
    assert answers_as(one, v1, shift=1.0)
    assert site.serving(one) == v1.digest
