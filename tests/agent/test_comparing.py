"""Candidates that are held against the incumbent before they serve alone, on a real agent.

A local client asks all the while, and knows who answered each of its requests, and when.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.agent.agents import Agent, Controller, a_controller, agents_at, until
from tests.agent.benches import ALIAS, an_input
from tests.agent.bundles import a_bundle, images, logits_of
from tests.brokers import Mosquitto, a_mosquitto
from wherry import codec
from wherry.bundle import Bundle
from wherry.measures import ShadowCounts
from wherry.messages import Flip, Receipt, Shadow, SignedReceipt, Split, SwapPolicy
from wherry.names import Digest
from wherry.reasons import Phase, Reason, Status
from wherry_agent.client import NotReachable, NotServing
from wherry_agent.core.sharing import falls_to
from wherry_agent.settings import CERTIFICATE_FILE

pytestmark = pytest.mark.system

Start = Callable[..., Agent]

KEYS = tuple(f"caller-{number}" for number in range(12))
ALL = Shadow(share=1.0, for_s=0.3, min_requests=30, core_share=1.0, largest_temperature_c=200.0)
HALF = Split(share=0.5)
OLD_SHIFT, NEW_SHIFT = 1.0, 3.0


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with a_mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture
def controller(broker: Mosquitto) -> Iterator[Controller]:
    with a_controller(broker.port) as controller:
        yield controller


@pytest.fixture
def start(tmp_path: Path, broker: Mosquitto) -> Iterator[Start]:
    with agents_at(tmp_path, broker.port) as start:
        yield start


@dataclass(frozen=True)
class Answered:
    """Who answered a caller, with which shift of the logits, and when."""

    by: Digest
    key: str
    shift: float
    at: float


@dataclass
class Asked:
    """What became of the requests of one client, in their order."""

    answers: list[Answered] = field(default_factory=list)
    failed: list[Exception] = field(default_factory=list)

    def by(self, bundle: Bundle) -> list[Answered]:
        return [answer for answer in self.answers if answer.by == bundle.digest]

    def of(self, key: str) -> list[Digest]:
        return [answer.by for answer in self.answers if answer.key == key]

    def more_by(self, bundle: Bundle, count: int) -> None:
        """Wait until a bundle has answered so many requests more."""
        enough = len(self.by(bundle)) + count
        until(lambda: len(self.by(bundle)) >= enough)


@contextmanager
def asking(agent: Agent) -> Iterator[Asked]:
    """Ask back to back during the block, one caller after the other."""
    asked, over = Asked(), threading.Event()

    def run() -> None:
        rows = images(1)
        right = logits_of(rows)
        with agent.client() as client:
            for key in itertools.cycle(KEYS):
                if over.is_set():
                    return
                try:
                    answer = client.infer(ALIAS, an_input(rows), parameters={"key": key})
                except (NotReachable, NotServing) as error:
                    asked.failed.append(error)
                    continue
                shift = np.mean(np.asarray(answer.values("logits")) - right.ravel())
                who = Digest(answer.version)
                asked.answers.append(Answered(who, key, round(float(shift), 3), time.time()))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield asked
    finally:
        over.set()
        thread.join()


def an_incumbent(controller: Controller, agent: Agent) -> Bundle:
    """Have the agent confirm a bundle that answers with `OLD_SHIFT`."""
    bundle = a_bundle(version="incumbent", shift=OLD_SHIFT)
    controller.publish_bundle(bundle)
    controller.order(agent.device, bundle, generation=1)
    controller.succeeded(agent, "d-1")
    return bundle


def a_candidate(
    controller: Controller,
    version: str,
    *,
    class_shift: int = 0,
    work: int = 0,
    golden_error: float = 0.0,
) -> Bundle:
    bundle = a_bundle(
        version=version,
        shift=NEW_SHIFT,
        class_shift=class_shift,
        work=work,
        golden_error=golden_error,
    )
    controller.publish_bundle(bundle)
    return bundle


def phases_of(controller: Controller, agent: Agent, deployment: str) -> dict[Phase | None, float]:
    """Return when the agent came to each phase of a deployment; None is its end."""
    told = [(event.deployment, event.at) for event in controller.events(agent) if event.deployment]
    return {one.phase: at for one, at in told if one.deployment == deployment}


def has_ended(controller: Controller, agent: Agent, deployment: str) -> bool:
    """Say whether the event of the end has come: `reported` says it first."""
    return None in phases_of(controller, agent, deployment)


def flips_of(controller: Controller, agent: Agent) -> list[Flip]:
    return [event.flip for event in controller.events(agent) if event.flip]


def shadowed(controller: Controller, agent: Agent, bundle: Bundle) -> ShadowCounts:
    """Return what all windows say of the copies that a bundle got."""
    counts = ShadowCounts()
    for window in controller.telemetry(agent):
        if window.bundle == bundle.digest and window.shadow is not None:
            counts += window.shadow
    return counts


def counted(controller: Controller, agent: Agent, bundle: Bundle) -> int:
    """Return how many requests all windows say that a bundle answered."""
    told = controller.telemetry(agent)
    return sum(window.requests for window in told if window.bundle == bundle.digest)


def receipt_of(controller: Controller, agent: Agent, deployment: str) -> SignedReceipt | None:
    signed = controller.reported(agent).receipts.get(ALIAS)
    if signed is None or codec.decode(Receipt, bytes(signed.signed)).deployment != deployment:
        return None
    return signed


def verify(receipt: SignedReceipt, agent: Agent) -> Receipt:
    """Return what a receipt says if the key of the device's certificate signed it."""
    certificate = x509.load_pem_x509_certificate((agent.home / CERTIFICATE_FILE).read_bytes())
    public, signed = certificate.public_key(), bytes(receipt.signed)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(bytes.fromhex(receipt.sig), signed, ec.ECDSA(hashes.SHA256()))
    return codec.decode(Receipt, signed)


def assert_all_is_right(asked: Asked, old: Bundle, new: Bundle) -> None:
    """Check that no request failed, and that each answer is of the bundle that it names."""
    shifts = {old.digest: OLD_SHIFT, new.digest: NEW_SHIFT}
    assert not asked.failed
    assert all(answer.shift == shifts[answer.by] for answer in asked.answers)


# Shadowing


def test_a_shadowing_candidate_answers_nobody_is_measured_and_then_serves(
    controller: Controller, start: Start
) -> None:
    agent = start()
    old = an_incumbent(controller, agent)
    new = a_candidate(controller, "shadowing")
    with asking(agent) as asked:
        controller.order(agent.device, new, generation=2, probation_s=0.5, shadow=ALL)
        controller.succeeded(agent, "d-2")
        asked.more_by(new, 10)
    until(partial(has_ended, controller, agent, "d-2"))
    phases = phases_of(controller, agent, "d-2")
    assert list(phases) == [
        Phase.FETCHING,
        Phase.LOADING,
        Phase.SHADOWING,
        Phase.PROBATION,
        None,
    ]
    assert phases[Phase.PROBATION] - phases[Phase.SHADOWING] >= ALL.for_s
    assert min(answer.at for answer in asked.by(new)) >= phases[Phase.PROBATION]
    assert_all_is_right(asked, old, new)
    counts = shadowed(controller, agent, new)
    assert counts.requests >= ALL.min_requests
    assert counts.agreed == counts.rows == counts.requests
    assert counts.distance > 0 and not counts.errors
    assert counts.compute.total == counts.incumbent_compute.total == counts.requests


def test_what_was_compared_ends_with_a_receipt_of_the_devices_own_key(
    controller: Controller, start: Start
) -> None:
    agent = start()
    an_incumbent(controller, agent)
    new = a_candidate(controller, "attested")
    with asking(agent) as asked:
        controller.order(agent.device, new, generation=2, probation_s=1.0, shadow=ALL)
        controller.succeeded(agent, "d-2")
        signed = until(partial(receipt_of, controller, agent, "d-2"))
    receipt = verify(signed, agent)
    assert (receipt.device, receipt.alias, receipt.bundle) == (agent.device, ALIAS, new.digest)
    assert 0 < receipt.requests <= len(asked.by(new))
    assert receipt.p50_ms and receipt.p99_ms and receipt.memory_bytes
    assert receipt.runtime == "onnxruntime"


def test_a_candidate_that_disagrees_while_it_shadows_fails_and_never_answers(
    controller: Controller, start: Start
) -> None:
    agent = start()
    old = an_incumbent(controller, agent)
    sick = a_candidate(controller, "disagreeing", class_shift=1)
    strict = Shadow(
        share=1.0, min_requests=30, core_share=1.0, largest_temperature_c=200.0, min_agreement=0.9
    )
    with asking(agent) as asked:
        controller.order(agent.device, sick, generation=2, shadow=strict)
        outcome = controller.outcome(agent, "d-2")
        asked.more_by(old, 20)
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.DISAGREES)
    assert "and 90.0% are wanted" in outcome.detail
    assert not asked.by(sick) and not asked.failed
    assert [flip.bundle for flip in flips_of(controller, agent)] == [old.digest]
    assert shadowed(controller, agent, sick).agreed == 0


# Split


def test_a_split_is_sticky_by_key_both_sides_are_measured_and_the_confirm_serves_wholly(
    controller: Controller, start: Start
) -> None:
    agent = start()
    old = an_incumbent(controller, agent)
    new = a_candidate(controller, "sharing")
    with asking(agent) as asked:
        asked.more_by(old, len(KEYS))
        controller.order(agent.device, new, generation=2, probation_s=1.5, split=HALF)
        asked.more_by(new, 50)
        both = len(asked.answers)
        until(lambda: counted(controller, agent, new) and counted(controller, agent, old))
        controller.succeeded(agent, "d-2")
        asked.more_by(new, 2 * len(KEYS))
    assert_all_is_right(asked, old, new)
    theirs = {key for key in KEYS if falls_to(new.digest, key, HALF.share)}
    assert theirs and theirs != set(KEYS)
    assert {answer.key for answer in asked.answers[:both] if answer.by == new.digest} == theirs
    for key in KEYS:  # Each caller goes from the old one to the new one once, and never back.
        answers = asked.of(key)
        assert answers == sorted(answers, key=lambda digest: digest == new.digest)
    assert {answer.by for answer in asked.answers[-len(KEYS) :]} == {new.digest}
    until(lambda: [flip.share for flip in flips_of(controller, agent)] == [1.0, HALF.share, 1.0])


def test_a_sick_side_of_a_split_is_reverted_and_no_request_fails(
    controller: Controller, start: Start
) -> None:
    agent = start()
    old = an_incumbent(controller, agent)
    slow = a_candidate(controller, "slow-side", work=200)
    with asking(agent) as asked:
        controller.order(agent.device, slow, generation=2, probation_s=60.0, split=HALF)
        outcome = controller.outcome(agent, "d-2")
        asked.more_by(old, 2 * len(KEYS))
    assert (outcome.status, outcome.reason) == (Status.REVERTED, Reason.SLOW)
    assert asked.by(slow)
    assert {answer.by for answer in asked.answers[-len(KEYS) :]} == {old.digest}
    assert_all_is_right(asked, old, slow)


# One resident at a time


def test_a_swap_by_resource_under_load_lets_no_request_fail(
    controller: Controller, start: Start
) -> None:
    agent = start()
    old = an_incumbent(controller, agent)
    new = a_candidate(controller, "by-resource")
    with asking(agent) as asked:
        asked.more_by(old, 10)
        controller.order(agent.device, new, generation=2, policy=SwapPolicy.RESOURCE)
        controller.succeeded(agent, "d-2")
        asked.more_by(new, 10)
    assert_all_is_right(asked, old, new)
    flip = until(lambda: flips_of(controller, agent)[1:])[0]
    assert (flip.bundle, flip.policy) == (new.digest, SwapPolicy.RESOURCE)


def test_by_resource_a_candidate_that_does_not_load_brings_the_incumbent_back(
    controller: Controller, start: Start
) -> None:
    agent = start()
    old = an_incumbent(controller, agent)
    unfaithful = a_candidate(controller, "unloadable", golden_error=1.0)
    with asking(agent) as asked:
        asked.more_by(old, 10)
        controller.order(agent.device, unfaithful, generation=2, policy=SwapPolicy.RESOURCE)
        outcome = controller.outcome(agent, "d-2")
        asked.more_by(old, 10)
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.GOLDEN_MISMATCH)
    assert not asked.by(unfaithful)
    assert_all_is_right(asked, old, unfaithful)
