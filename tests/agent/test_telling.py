"""What a device says holds who it is, and what its states mean."""

from __future__ import annotations

import msgspec
import pytest

from tests.builders import a_deployment, a_digest, a_histogram, a_store_id, a_wanted, an_alias
from wherry.measures import Feedback, HostFacts, Seen, ShadowCounts, Traffic
from wherry.messages import EventKind, Flip, Presence, SignedReceipt, Slots, TrustReport
from wherry.names import AliasName, ProfileName
from wherry.profile import Facts
from wherry.reasons import Phase, Reason, Status
from wherry_agent.core.install import Idle, Probation, State
from wherry_agent.telemetry import WindowCounts
from wherry_agent.telling import Teller

FACTS = Facts(arch="aarch64", model="Raspberry Pi 5 Model B Rev 1.0", cpu_features=("asimddp",))
TELLER = Teller(
    store_id=a_store_id(),
    profile=ProfileName("pi"),
    simulated=True,
    versions={"litert": "2.3"},
    facts=FACTS,
)
OLD, NEW = a_digest("old"), a_digest("new")
SEEN = Seen(name="x", rows=1, values=1, counts=(1,), zeros=0, not_finite=0)


@pytest.mark.parametrize("status", Status)
def test_a_deployment_that_ended_is_an_outcome_and_else_progress(status: Status) -> None:
    event = TELLER.deployment(an_alias(), a_deployment(status), at=5.0)
    assert (event.kind is EventKind.OUTCOME) == status.is_final
    assert (event.kind is EventKind.PROGRESS) == (not status.is_final)
    assert (event.store_id, event.at, event.alias) == (a_store_id(), 5.0, an_alias())
    assert event.deployment == a_deployment(status)


def test_a_flip_and_a_refusal_say_what_they_are() -> None:
    flip = Flip(bundle=NEW, replaced=OLD, in_flight=2)
    told = TELLER.flip(an_alias(), flip, at=1.0)
    assert (told.kind, told.flip, told.alias) == (EventKind.FLIP, flip, an_alias())
    refusal = TELLER.refusal(Reason.WRONG_BYTES, "x" * 1000, at=1.0)
    assert (refusal.kind, refusal.reason) == (EventKind.REFUSAL, Reason.WRONG_BYTES)
    assert len(refusal.detail) == 500


def test_a_receipt_is_told_as_it_was_signed_and_of_which_alias() -> None:
    signed = SignedReceipt(signed=msgspec.Raw(b'{"at":1}'), keyid="key", sig="00")
    told = TELLER.receipt(an_alias("detector"), signed, at=3.0)
    assert (told.kind, told.alias, told.receipt) == (
        EventKind.RECEIPT,
        an_alias("detector"),
        signed,
    )
    assert (told.store_id, told.at, told.deployment) == (a_store_id(), 3.0, None)


def test_reported_is_enough_by_itself() -> None:
    done = a_deployment(bundle=OLD)
    states: dict[AliasName, State] = {
        an_alias(): Idle((OLD,), done),
        an_alias("detector"): Probation(
            wanted=a_wanted("d-2", bundle=NEW),
            confirmed=(OLD,),
            revoked=frozenset(),
            began_s=0.0,
        ),
        an_alias("empty"): Idle(),
    }
    trust = TrustReport(epoch=1, root=2)
    told = TELLER.reported(states, generation=4, seq=9, oldest_event=3, trust=trust)
    assert (told.trust, told.degraded) == (trust, ())
    assert (told.store_id, told.report_seq, told.generation) == (a_store_id(), 9, 4)
    assert (told.profile, told.simulated, told.versions) == ("pi", True, {"litert": "2.3"})
    assert told.facts == FACTS
    assert told.oldest_event == 3
    assert told.slots == {
        "default": Slots(active=OLD),
        "detector": Slots(active=NEW, previous=OLD),
        "empty": Slots(),
    }
    assert told.deployments[an_alias()] == done
    assert told.deployments[an_alias("detector")].phase is Phase.PROBATION
    assert an_alias("empty") not in told.deployments


def test_telemetry_says_what_was_counted_and_where() -> None:
    window = WindowCounts(
        alias=an_alias(),
        bundle=NEW,
        requests=3,
        errors={"timed_out": 1},
        latency=a_histogram(1, 2, 3),
        compute=a_histogram(0.5),
        feedback=Feedback(labelled=2, right=1),
        inputs=(SEEN,),
        outputs=(SEEN, SEEN),
        shadow=ShadowCounts(requests=4),
        restarts=5,
        worker_bytes=6,
    )
    facts, traffic = HostFacts(cpu_percent=3.0), Traffic(sent_bytes=1, received_bytes=2)
    told = TELLER.telemetry(window, facts, traffic, window_s=10.0, at=7.0)
    assert (told.alias, told.bundle, told.requests) == (window.alias, window.bundle, 3)
    assert (told.errors, told.latency, told.compute) == (
        window.errors,
        window.latency,
        window.compute,
    )
    assert (told.feedback, told.host, told.traffic) == (window.feedback, facts, traffic)
    assert (told.window_s, told.at, told.store_id) == (10.0, 7.0, a_store_id())
    assert (told.inputs, told.outputs, told.shadow) == ((SEEN,), (SEEN, SEEN), window.shadow)
    assert (told.restarts, told.worker_bytes) == (5, 6)


def test_presence_names_the_store() -> None:
    assert TELLER.presence(online=False) == Presence(online=False, store_id=a_store_id())


def test_a_device_that_can_serve_only_what_is_revoked_says_that_it_is_degraded() -> None:
    both: dict[AliasName, State] = {an_alias(): Idle((OLD, NEW), None, frozenset({OLD, NEW}))}
    told = TELLER.reported(
        both,
        generation=1,
        seq=1,
        oldest_event=1,
        trust=TrustReport(),
        degraded=(Reason.CLOCK_AHEAD, Reason.ALL_REVOKED),
    )
    assert told.degraded == (Reason.ALL_REVOKED, Reason.CLOCK_AHEAD)
