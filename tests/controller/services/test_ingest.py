"""What devices say, in any order and any number of times."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.builders import (
    a_bundle_of,
    a_deployment,
    a_device_id,
    a_presence,
    a_reported,
    a_store_id,
    a_telemetry,
    a_wanted,
    a_wants,
    an_alias,
    an_event,
)
from tests.controller.stores import a_store, add_built_version, add_devices
from wherry import codec
from wherry.messages import Ack, Deployment, EventKind, Slots, TrustReport
from wherry.names import DeviceId, Digest, parse_version_name
from wherry.reasons import Phase, Reason, Status
from wherry.topics import EventsTopic, ReportedTopic, WantsTopic, text
from wherry_controller.core.audit import Entry, Kind
from wherry_controller.services import fleet
from wherry_controller.services.ingest import Drop, Ingest, Message, Said, Taken
from wherry_controller.store import devices, telemetry
from wherry_controller.store.audit import list_entries
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store
from wherry_controller.store.records import Device, Journey

DEVICE = a_device_id()
BUNDLE = a_bundle_of(b"v1" * 1000, version=parse_version_name("v1")).digest


def a_fleet_of_one(folder: Path) -> Store:
    """Open a store with one device, which was ordered to one bundle."""
    store = a_store(folder)
    with store.transaction() as tx:
        add_devices(tx, DEVICE)
        bundle = add_built_version(tx, BlobFolder(folder / "blobs"), "v1", b"v1" * 1000)
        wanted = a_wanted(bundle=bundle.digest)
        fleet.order(tx, DEVICE, an_alias(), wanted, rollout=None, now=1.0)
    return store


def under_way(phase: Phase) -> Deployment:
    return a_deployment(Status.IN_PROGRESS, None, phase=phase, bundle=BUNDLE)


def ended(status: Status, reason: Reason) -> Deployment:
    return a_deployment(status, reason, bundle=BUNDLE)


def said(document: Said, *, device: DeviceId = DEVICE, retained: bool = False) -> Message:
    return Message(device, document, live=not retained)


def journey_of(store: Store) -> Journey:
    with store.reading() as tx:
        journey = devices.get_journey(tx, a_deployment().deployment)
    assert journey is not None
    return journey


def device_of(store: Store) -> Device:
    with store.reading() as tx:
        return fleet.device_of(tx, DEVICE)


def reported(seq: int, deployment: Deployment, *, store: int = 1, generation: int = 1) -> Message:
    document = a_reported(
        store_id=a_store_id(store),
        report_seq=seq,
        generation=generation,
        deployments={an_alias(): deployment},
    )
    return said(document)


def event(seq: int, deployment: Deployment, kind: EventKind = EventKind.PROGRESS) -> Message:
    return said(an_event(seq, kind, deployment=deployment))


STEPS = (
    under_way(Phase.FETCHING),
    under_way(Phase.LOADING),
    under_way(Phase.PROBATION),
    ended(Status.SUCCEEDED, Reason.CONFIRMED),
)
HISTORY = (
    *(reported(seq, step) for seq, step in enumerate(STEPS, 1)),
    *(event(seq, step) for seq, step in enumerate(STEPS, 1)),
    *(said(a_telemetry(seq, bundle=BUNDLE)) for seq in range(1, 4)),
)


@settings(max_examples=15, deadline=None)
@given(
    order=st.permutations(range(len(HISTORY))),
    again=st.lists(st.sampled_from(range(len(HISTORY))), max_size=8),
    batch=st.integers(1, 6),
)
@example(order=list(reversed(range(len(HISTORY)))), again=[0, 4], batch=1)
def test_a_history_in_any_order_and_repeated_leads_to_the_same_end(
    order: list[int], again: list[int], batch: int
) -> None:
    messages = [HISTORY[number] for number in (*order, *again)]
    with tempfile.TemporaryDirectory() as folder:
        store = a_fleet_of_one(Path(folder))
        ingest = Ingest(store)
        acks: dict[DeviceId, Ack] = {}
        for start in range(0, len(messages), batch):
            acks |= ingest.take(messages[start : start + batch], now=5.0).acks
        journey, device = journey_of(store), device_of(store)
        with store.reading() as tx:
            sums = telemetry.sums(tx, DEVICE, BUNDLE, since=0.0, until=9.0)
        store.close()
    assert (journey.status, journey.reason) == (Status.SUCCEEDED, Reason.CONFIRMED)
    assert (device.report_seq, device.online, device.last_seen_at) == (4, True, 5.0)
    assert acks == {DEVICE: Ack(store_id=a_store_id(), seq=4)}
    assert (sums.requests, sums.labelled, sums.right) == (9, 6, 3)


def test_an_outcome_is_not_taken_back_by_late_progress(tmp_path: Path) -> None:
    store = a_fleet_of_one(tmp_path)
    ingest = Ingest(store)
    ingest.take([event(2, ended(Status.REVERTED, Reason.SLOW), EventKind.OUTCOME)], now=5.0)
    ingest.take([event(1, under_way(Phase.PROBATION))], now=6.0)
    assert (journey_of(store).status, journey_of(store).ended_at) == (Status.REVERTED, 5.0)


def test_shadowing_is_between_loading_and_probation(tmp_path: Path) -> None:
    store = a_fleet_of_one(tmp_path)
    ingest = Ingest(store)
    ingest.take([event(1, under_way(Phase.LOADING)), event(2, under_way(Phase.SHADOWING))], 5.0)
    assert journey_of(store).phase is Phase.SHADOWING
    ingest.take([event(3, under_way(Phase.PROBATION)), event(4, under_way(Phase.SHADOWING))], 6.0)
    assert journey_of(store).phase is Phase.PROBATION


def test_a_device_made_anew_is_heard_from_its_first_report_on(tmp_path: Path) -> None:
    store = a_fleet_of_one(tmp_path)
    Ingest(store).take([reported(70, under_way(Phase.FETCHING))], now=5.0)
    Ingest(store).take([reported(1, under_way(Phase.LOADING), store=2)], now=6.0)
    assert (device_of(store).store_id, device_of(store).report_seq) == (a_store_id(2), 1)
    assert journey_of(store).phase is Phase.LOADING


def test_events_that_a_lost_database_had_acknowledged_are_not_waited_for(tmp_path: Path) -> None:
    ingest = Ingest(a_fleet_of_one(tmp_path))
    document = a_reported(store_id=a_store_id(), oldest_event=71)
    ingest.take([said(document)], now=5.0)
    taken = ingest.take([event(71, under_way(Phase.LOADING))], now=6.0)
    assert taken.acks == {DEVICE: Ack(store_id=a_store_id(), seq=71)}


def refusal(seq: int, reason: Reason = Reason.STALE_ORDER) -> Message:
    return said(an_event(seq, EventKind.REFUSAL, reason=reason, detail="generation 3 after 4"))


def audited(store: Store) -> list[Entry]:
    with store.reading() as tx:
        return [codec.decode(Entry, body.encode()) for body in list_entries(tx)]


def test_what_a_device_refused_is_audited_once(tmp_path: Path) -> None:
    store = a_fleet_of_one(tmp_path)
    ingest = Ingest(store)
    ingest.take([refusal(1), refusal(1)], now=5.0)
    ingest.take([refusal(1), event(2, under_way(Phase.FETCHING))], now=6.0)
    (entry,) = audited(store)
    assert (entry.kind, entry.at) == (Kind.REFUSED, 5.0)
    assert entry.facts == {
        "by": DEVICE,
        "reason": "stale_order",
        "detail": "generation 3 after 4",
    }


def trusting(epoch: int, *, root: int = 1, seq: int = 1) -> Message:
    trust = TrustReport(epoch=epoch, root=root, timestamp=3, snapshot=3, targets=1)
    return said(replace(a_reported(report_seq=seq), trust=trust))


def test_a_report_says_which_root_its_device_trusts(tmp_path: Path) -> None:
    store = a_fleet_of_one(tmp_path)
    Ingest(store).take([trusting(1, root=3)], now=5.0)
    assert device_of(store).root == 3


def test_what_an_ended_enrolment_says_is_dropped_and_counted(tmp_path: Path) -> None:
    store = a_fleet_of_one(tmp_path)
    with store.transaction() as tx:
        devices.save_device(tx, replace(fleet.device_of(tx, DEVICE), epoch=2))
    before = device_of(store)
    ingest = Ingest(store)
    ingest.take([trusting(1)], now=5.0)
    assert device_of(store) == before
    assert ingest.dropped[Drop.EARLIER_ENROLMENT] == 1
    ingest.take([trusting(2)], now=6.0)
    assert device_of(store).report_seq == 1


def test_an_order_overtakes_the_generation_that_its_device_has_accepted(tmp_path: Path) -> None:
    store = a_fleet_of_one(tmp_path)
    taken = Ingest(store).take([reported(1, under_way(Phase.FETCHING), generation=40)], now=5.0)
    with store.reading() as tx:
        desired = devices.get_desired(tx, DEVICE)
    assert taken.has_outrun and desired.generation == 41
    assert desired.aliases.keys() == {an_alias()}


def test_a_deployment_that_a_newer_order_replaced_is_superseded(tmp_path: Path) -> None:
    store = a_fleet_of_one(tmp_path)
    another = a_wanted("digits-v2:pi-1", bundle=BUNDLE)
    with store.transaction() as tx:
        fleet.order(tx, DEVICE, an_alias(), another, rollout=None, now=2.0)
    newer = a_deployment(deployment="digits-v2:pi-1", bundle=BUNDLE)
    Ingest(store).take([reported(1, newer, generation=2)], now=3.0)
    assert journey_of(store).status is Status.SUPERSEDED


def test_a_deployment_that_the_device_has_not_heard_of_stays_open(tmp_path: Path) -> None:
    store = a_fleet_of_one(tmp_path)
    another = a_wanted("digits-v2:pi-1", bundle=BUNDLE)
    with store.transaction() as tx:
        fleet.order(tx, DEVICE, an_alias(), another, rollout=None, now=2.0)
    old = a_deployment(deployment="digits-v0:pi-1")
    Ingest(store).take([reported(1, old, generation=0)], now=3.0)
    assert journey_of(store).status is Status.QUEUED


def test_a_sound_payload_is_read_as_what_its_topic_promises(tmp_path: Path) -> None:
    ingest = Ingest(a_fleet_of_one(tmp_path))
    payload = codec.encode(a_reported())
    read = ingest.read(text(ReportedTopic(DEVICE)), payload, retained=True)
    assert read == said(a_reported(), retained=True)
    assert ingest.read(text(EventsTopic(DEVICE)), payload, retained=True) is None
    assert ingest.read("wherry/v1/devices/pi-1/unheard", payload, retained=True) is None


def test_what_an_unknown_device_says_is_dropped_and_counted(tmp_path: Path) -> None:
    ingest = Ingest(a_fleet_of_one(tmp_path))
    stranger = a_device_id("stranger")
    taken = ingest.take([said(a_wants(), device=stranger)], now=5.0)
    assert taken == Taken()
    assert ingest.dropped[Drop.UNKNOWN_DEVICE] == 1


@pytest.mark.parametrize(
    "payload",
    [b"{", b"[]", b'{"format":"wherry.event/9"}', b" " * 300_000, b'{"seq":1,"seq":2}', b"\xff"],
)
def test_what_is_malformed_is_dropped_and_counted(tmp_path: Path, payload: bytes) -> None:
    ingest = Ingest(a_fleet_of_one(tmp_path))
    assert ingest.read(text(EventsTopic(DEVICE)), payload, retained=False) is None
    assert ingest.dropped[Drop.MALFORMED] == 1


def test_a_wish_for_more_than_eight_digests_is_malformed(tmp_path: Path) -> None:
    ingest = Ingest(a_fleet_of_one(tmp_path))
    digests = ",".join(f'"{number:064x}"' for number in range(9))
    payload = f'{{"format":"wherry.wants/1","digests":[{digests}]}}'.encode()
    assert ingest.read(text(WantsTopic(DEVICE)), payload, retained=False) is None
    assert ingest.dropped[Drop.MALFORMED] == 1


def test_the_will_of_an_earlier_store_does_not_take_a_device_offline(tmp_path: Path) -> None:
    store = a_fleet_of_one(tmp_path)
    ingest = Ingest(store)
    ingest.take([reported(1, under_way(Phase.FETCHING))], now=5.0)
    old = a_presence(online=False, store_id=a_store_id(9))
    ingest.take([said(old)], now=6.0)
    assert device_of(store).online
    ingest.take([said(a_presence(online=False))], now=7.0)
    assert not device_of(store).online


def test_what_the_broker_had_kept_is_no_sign_of_life(tmp_path: Path) -> None:
    store = a_fleet_of_one(tmp_path)
    kept = said(a_reported(), retained=True)
    Ingest(store).take([kept], now=5.0)
    assert (device_of(store).last_seen_at, device_of(store).report_seq) == (None, 1)


def test_a_device_that_is_silent_for_too_long_counts_as_offline(tmp_path: Path) -> None:
    store = a_fleet_of_one(tmp_path)
    Ingest(store).take([said(a_presence())], now=5.0)
    with store.transaction() as tx:
        assert devices.note_silent(tx, before=5.0) == []
        assert devices.note_silent(tx, before=5.1) == [DEVICE]
    assert not device_of(store).online


def serves(store: Store) -> Digest | None:
    with store.reading() as tx:
        return fleet.serving(tx, [DEVICE], an_alias())[DEVICE]


def test_an_outcome_that_overtakes_the_report_says_what_its_device_serves(tmp_path: Path) -> None:
    store = a_fleet_of_one(tmp_path)
    outcome = event(1, ended(Status.SUCCEEDED, Reason.CONFIRMED), EventKind.OUTCOME)
    Ingest(store).take([outcome], now=5.0)
    assert serves(store) == BUNDLE


def test_a_device_serves_what_it_reports_once_it_reports_the_outcome(tmp_path: Path) -> None:
    store = a_fleet_of_one(tmp_path)
    lost = a_reported(
        slots={an_alias(): Slots(active=None)},
        deployments={an_alias(): ended(Status.SUCCEEDED, Reason.CONFIRMED)},
    )
    Ingest(store).take([said(lost)], now=5.0)
    assert serves(store) is None
