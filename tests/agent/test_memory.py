"""What was decided is on the disk as a whole before anything is done about it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.stores import a_full_disk
from tests.builders import A_TIME, a_bundle_of, a_deployment_id, a_digest, a_profile, an_alias
from tests.threats.devices import PROBATION_S, Broker, Device, a_device
from tests.threats.test_orders import an_order_for, desired, stamp
from tests.trusted import a_repository
from tests.vectors.cases import Case, read
from wherry.codec import decode
from wherry.measures import Feedback
from wherry.messages import EventKind, Receipt, Shadow, Split
from wherry.names import Digest
from wherry.reasons import Reason, Status
from wherry_agent.core import agent as machine
from wherry_agent.core import install, trial
from wherry_agent.core.acceptance import DesiredCame, Vouched
from wherry_agent.memory import MOST_BEFORE_REFUSALS
from wherry_agent.outbox import Outbox
from wherry_agent.store import Store, look
from wherry_agent.telling import Teller

VECTORS = Path(__file__).parent.parent / "vectors"
BUNDLE = a_bundle_of(b"model" * 500, profile=a_profile())
REPOSITORY = a_repository([BUNDLE])
ORDER = an_order_for(1, {an_alias(): BUNDLE.digest})


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    broker = Broker()
    broker.retain(REPOSITORY, BUNDLE)
    with a_device(tmp_path, REPOSITORY, broker) as device:
        yield device


def under_way(device: Device) -> None:
    """Bring the device to a bundle in probation."""
    device.hear(stamp(REPOSITORY), desired(REPOSITORY, ORDER))
    assert isinstance(device.memory.agent.aliases[an_alias()], install.Probation)


def a_teller(device: Device) -> Teller:
    return Teller(
        store_id=device.store.store_id, profile=a_profile().name, simulated=False, versions={}
    )


@pytest.mark.parametrize("table", ["trust", "fact", "event"])
def test_an_order_whose_writing_broke_off_is_not_known_and_followed_when_it_comes_again(
    device: Device, table: str
) -> None:
    device.hear(stamp(REPOSITORY))
    torn = "BEGIN SELECT RAISE(ABORT, 'power'); END"
    device.store.database.execute(f"CREATE TEMP TRIGGER torn BEFORE INSERT ON main.{table} {torn}")
    with pytest.raises(sqlite3.IntegrityError, match="power"):
        device.hear(desired(REPOSITORY, ORDER))
    device.kill()
    seen = look(device.folder)
    assert seen.trust is not None
    assert (seen.trust.generation, seen.saved.aliases) == (0, {})
    device.start()
    device.connect()
    under_way(device)
    assert device.refused == []


def test_after_a_kill_the_order_that_was_accepted_goes_on(device: Device) -> None:
    under_way(device)
    device.kill()
    device.start()
    assert device.memory.acceptance.trust.generation == 1
    device.wait(PROBATION_S)
    assert device.serving == {an_alias(): BUNDLE.digest}


def test_a_signed_time_is_remembered(device: Device) -> None:
    device.hear(Vouched("certificate", A_TIME + 5.0))
    device.kill()
    device.start()
    assert device.memory.acceptance.trust.floors["certificate"] == A_TIME + 5.0


def fault_of(device: Device) -> Reason | None:
    return device.memory.fault


def test_on_a_full_disk_a_sick_bundle_still_gives_way_and_it_is_told_once_there_is_room(
    device: Device,
) -> None:
    under_way(device)
    sick = install.Sickened(a_deployment_id("d-1-default"), Reason.SLOW)
    with a_full_disk():
        done = device.memory.step(machine.Installed(an_alias(), sick))
        assert fault_of(device) is Reason.DISK_FULL
        assert [effect.effect for effect in done if isinstance(effect, machine.For)] == [
            install.Serve(None),
            install.Retire(),
        ]
        assert not [effect for effect in done if isinstance(effect, machine.Tell)]
        assert device.memory.note(a_teller(device).refusal(Reason.REVOKED, "", at=A_TIME)) == ()
    before = len(device.events())
    later = device.memory.step(machine.Tick())
    assert fault_of(device) is None
    assert [type(effect) for effect in later[:2]] == [machine.For, machine.Tell]
    assert [event.kind for event in device.events()[before:]] == [
        EventKind.OUTCOME,
        EventKind.REFUSAL,
    ]


def test_on_a_full_disk_told_events_are_forgotten_once_there_is_room(device: Device) -> None:
    under_way(device)
    first, last = Outbox(device.store.database, keep_windows=1).span()
    assert first < last
    with a_full_disk():
        device.memory.forget(last - 1)
        assert fault_of(device) is Reason.DISK_FULL
        assert [event.seq for event in device.events()] == list(range(first, last + 1))
    device.memory.step(machine.Tick())
    assert fault_of(device) is None
    assert [event.seq for event in device.events()] == [last]
    written: list[str] = []
    device.store.database.set_trace_callback(written.append)
    device.memory.step(machine.Tick())
    assert written == []  # What is done is not done at each step again.


def test_nobody_fills_the_disk_with_what_is_refused(device: Device) -> None:
    refusal = a_teller(device).refusal(Reason.MALFORMED_PACKET, "it is cut short", at=A_TIME)
    outbox = Outbox(device.store.database, keep_windows=1)
    with device.store.transaction():
        for _ in range(MOST_BEFORE_REFUSALS - 1):
            outbox.add_event(refusal)
    assert len(list(device.memory.note_refusal(refusal))) == 1
    assert list(device.memory.note_refusal(refusal)) == []
    assert outbox.span() == (1, MOST_BEFORE_REFUSALS)
    device.memory.note(refusal)  # What the device itself did is told whatever waits.
    assert outbox.span() == (1, MOST_BEFORE_REFUSALS + 1)


def test_a_new_enrolment_begins_trust_anew_ends_what_was_ordered_and_serves_on(
    device: Device,
) -> None:
    under_way(device)
    device.wait(PROBATION_S)
    other = a_repository(alias=None)
    device.kill()
    device.epoch, device.root = 2, other.roots[0].data
    device.start()
    trust = device.memory.acceptance.trust
    assert (trust.epoch, trust.generation, trust.timestamp) == (2, 0, "")
    assert device.serving == {an_alias(): BUNDLE.digest}
    device.connect()
    device.hear(stamp(REPOSITORY), desired(REPOSITORY, ORDER))
    assert device.refused == [Reason.WRONG_EPOCH]


def test_a_deployment_in_flight_ends_with_the_enrolment_that_ordered_it(device: Device) -> None:
    under_way(device)
    device.kill()
    device.epoch = 2
    device.start()
    outcome = device.outcome(an_alias())
    assert outcome is not None
    assert (outcome.status, outcome.reason) == (Status.CANCELED, Reason.WITHDRAWN)
    assert device.told("d-1-default")[-1].deployment == outcome


def restore(folder: Path, name: str) -> None:
    """Put a store of an earlier release into `folder`."""
    database = sqlite3.connect(folder / "agent.db")
    database.executescript((VECTORS / name).read_text())
    database.close()


def test_a_kept_store_serves_on_and_knows_the_kept_order(tmp_path: Path) -> None:
    restore(tmp_path, "device-store-2.sql")
    kept = Device(tmp_path, kept_text("metadata", "root/1"), Broker())
    try:
        kept.connect()
        fetching = kept.outcome(an_alias("detector"))
        assert fetching is not None and fetching.status is Status.IN_PROGRESS
        assert kept.memory.acceptance.trust.generation == 2
        before = kept.keeps()
        assert before["serving"] and before["confirmed"]
        kept.hear(DesiredCame(kept_text("desired", "order_alone")))
        assert kept.refused == [Reason.STALE_ORDER]
        assert kept.keeps() == before
    finally:
        kept.kill()


def test_a_kept_store_goes_on_to_shadow_and_to_sign_what_it_claims(tmp_path: Path) -> None:
    restore(tmp_path, "device-store-3.sql")
    # Its clock began anew: what was of the monotonic clock is not waited for.
    kept = Device(tmp_path, kept_text("metadata", "root/1"), Broker(), now_s=5.0)
    try:
        agent = kept.memory.agent
        assert [claim.deployment for claim in agent.receipts.claims] == ["d-2"]
        receipt = decode(Receipt, bytes(agent.receipts.signed[an_alias()].signed))
        assert receipt.deployment == "d-1"
        assert agent.watching.labels[an_alias()] == Feedback(20, 19)
        state = agent.aliases[an_alias()]
        # The vector keeps no files: what is to shadow is loaded again, and is gone.
        assert isinstance(state, install.Idle) and state.settled is not None
        assert (state.settled.deployment, state.settled.reason) == ("d-3", Reason.LOAD_FAILED)
        assert kept.serving[an_alias()] == state.confirmed[0] == receipt_claimed(kept)
    finally:
        kept.kill()


def receipt_claimed(device: Device) -> Digest:
    return device.memory.agent.receipts.claims[0].bundle


def test_what_shadowed_in_a_kept_store_is_read_whole(tmp_path: Path) -> None:
    restore(tmp_path, "device-store-3.sql")
    state = look(tmp_path).saved.aliases[an_alias()]
    assert isinstance(state, install.Shadowing)
    assert (state.compared, state.restarts) == (120, 0)
    assert state.wanted.shadow == Shadow(share=0.5, min_requests=200, min_agreement=0.9)
    assert state.wanted.split == Split(share=0.2)
    assert state.shown is not None and state.shown.memory_bytes == 60_000_000


def kept_text(name: str, case: str) -> bytes:
    (found,) = (one for one in read(f"{name}.json", Case) if one.name == case)
    return found.text.encode()


@pytest.mark.parametrize(
    "name",
    [
        "device-store-1.sql",
        "device-store-0.3.0.sql",
        "device-store-2.sql",
        "device-store-3.sql",
    ],
)
def test_a_store_of_every_release_comes_to_the_schema_of_a_new_one(
    tmp_path: Path, name: str
) -> None:
    for folder in (tmp_path / "kept", tmp_path / "new"):
        folder.mkdir()
    restore(tmp_path / "kept", name)
    kept, new = Store(tmp_path / "kept"), Store(tmp_path / "new")
    assert schema_of(kept) == schema_of(new)
    kept.close()
    new.close()


def schema_of(store: Store) -> tuple[set[tuple[str, str]], int]:
    tables = store.database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    version: int = store.database.execute("PRAGMA user_version").fetchone()[0]
    return {(name, " ".join(sql.split())) for name, sql in tables}, version


def test_a_store_of_the_release_before_serves_on_and_its_orders_end(tmp_path: Path) -> None:
    restore(tmp_path, "device-store-0.3.0.sql")
    with a_device(tmp_path, REPOSITORY, Broker()) as device:
        detector = an_alias("detector")
        assert device.serving == {an_alias(): a_digest("new"), detector: a_digest("old")}
        canceled = device.outcome(detector)
        assert canceled is not None
        assert (canceled.status, canceled.reason) == (Status.CANCELED, Reason.WITHDRAWN)
        assert device.memory.agent.trials == trial.State()
        assert [event.seq for event in device.events()] == [2, 3, 4]
        assert device.store.store_id == "0123456789abcdef" * 2
        assert device.store.next_report_seq() == 5
    seen = look(tmp_path)
    assert seen.trust is not None
    assert (seen.trust.epoch, seen.trust.generation) == (1, 0)
