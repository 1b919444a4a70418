"""A controller's API on a real server, with everything real but the broker and the builder.

Nobody listens behind the broker, as when all devices are offline; what devices would have said
is put into the database by the test. Time stands still until a test moves it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec
import uvicorn
from msgspec.structs import replace

from tests.builders import a_key, a_receipt, a_reported
from tests.controller.doors import a_device_key, a_request
from tests.controller.scripted import AtOnce, ScriptedBuilder, a_bench, a_trials, builds_all
from tests.controller.stores import a_store
from tests.controller.trusts import a_fleet, a_trust
from wherry import codec
from wherry.enrolment import EnrolRequest
from wherry.messages import Event, Reported, SignedReceipt, Slots
from wherry.names import (
    AliasName,
    Digest,
    parse_alias_name,
    parse_deployment_id,
    parse_device_id,
    parse_rollout_name,
)
from wherry.reasons import Phase, Reason, Status
from wherry_controller.api.application import make_api
from wherry_controller.api.context import Context
from wherry_controller.api.door import token_digest
from wherry_controller.authority import ca_fingerprint, found_authority, read_request
from wherry_controller.cli.serving import address_of, listen
from wherry_controller.core.build import Limits
from wherry_controller.mqtt import Traffic
from wherry_controller.services.admission import Asked, Policy
from wherry_controller.services.builds import Builds
from wherry_controller.services.crl import Revocations
from wherry_controller.services.fleet import Fleet
from wherry_controller.services.identity import Identities, OpenBroker, Places
from wherry_controller.services.publisher import Pace, Publisher
from wherry_controller.services.rollouts import Rollouts, rollout_of
from wherry_controller.services.sides import BothSides
from wherry_controller.store import devices, receipts, telemetry
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store
from wherry_controller.store.records import EventRecord, ReceiptRecord
from wherry_controller.store.trust import newest_root

T = TypeVar("T")

TOKEN = "the right token"
BUDGET_BYTES = 1 << 20
NOW_S = 1000.0


class DeafBroker:
    """A broker that nobody ever connects to."""

    backlog = 0

    def publish(self, topic: str, payload: bytes) -> None:
        pass

    def subscribe(self, filters: Sequence[str]) -> int | None:
        return None

    def unsubscribe(self, filters: Sequence[str]) -> None:
        pass


@dataclass
class Served:
    """The controller behind `url`; `now` is its clock."""

    store: Store
    blobs: BlobFolder
    fleet: Fleet
    rollouts: Rollouts
    identities: Identities
    builds: Builds
    builder: ScriptedBuilder
    url: str = ""
    now: float = NOW_S
    requests: dict[int, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def decide(self, work: Callable[[Served], T], /) -> T:
        with self.lock:
            return work(self)

    def client(self, token: str = TOKEN) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, verify=False)

    def device_tells(self, device: str, event: Event) -> None:
        body = codec.encode(event).decode()
        record = EventRecord(
            device=parse_device_id(device),
            store_id=event.store_id,
            seq=event.seq,
            body=body,
            received_at=self.now,
        )
        with self.store.transaction() as tx:
            telemetry.add_events(tx, [record])

    def device_says(self, device: str, reported: Reported) -> None:
        with self.store.transaction() as tx:
            record = devices.get_device(tx, parse_device_id(device))
            assert record is not None
            devices.save_device(tx, replace(record, reported=reported, online=True))

    def device_serves(self, device: str, bundle: Digest) -> None:
        slots: dict[AliasName, Slots] = {parse_alias_name("default"): Slots(active=bundle)}
        self.device_says(device, replace(a_reported(), slots=slots))

    def device_ends(self, deployment: str, status: Status, reason: Reason) -> None:
        """Let a deployment end, and the gate judge by it."""
        with self.store.transaction() as tx:
            journey = devices.get_journey(tx, parse_deployment_id(deployment))
            assert journey is not None
            devices.save_journey(
                tx, replace(journey, status=status, reason=reason, ended_at=self.now)
            )
        self.decide(lambda desk: desk.rollouts.tick(self.now))

    def device_is_at(self, deployment: str, phase: Phase) -> None:
        with self.store.transaction() as tx:
            journey = devices.get_journey(tx, parse_deployment_id(deployment))
            assert journey is not None
            devices.save_journey(tx, replace(journey, status=Status.IN_PROGRESS, phase=phase))

    def device_attests(self, deployment: str, *, p50_ms: float) -> None:
        """Keep a receipt of a device as one that was verified."""
        with self.store.transaction() as tx:
            journey = devices.get_journey(tx, parse_deployment_id(deployment))
            assert journey is not None
            says = replace(a_receipt(), deployment=journey.id, bundle=journey.bundle, p50_ms=p50_ms)
            signed = SignedReceipt(signed=msgspec.Raw(codec.encode(says)), keyid="11", sig="22")
            record = ReceiptRecord(
                deployment=journey.id,
                device=journey.device,
                body=codec.encode(signed).decode(),
                received_at=self.now,
            )
            receipts.save_receipt(tx, record)

    def stranger_asks(self, number: int) -> None:
        """Let a stranger ask for a certificate without a token, each with a request of its own."""
        csr = self.requests.setdefault(number, a_request(a_device_key()))
        asked = Asked(EnrolRequest(csr=csr), read_request(csr), "10.0.0.9")
        self.now += 1
        self.decide(lambda desk: desk.identities.enrol(asked, now=self.now))

    def status_of(self, rollout: str) -> str:
        with self.store.reading() as tx:
            return rollout_of(tx, parse_rollout_name(rollout)).status


@contextmanager
def a_served_controller(folder: Path) -> Iterator[Served]:
    store = a_store(folder)
    blobs = BlobFolder(folder / "blobs")
    trust = a_trust(store)
    fleet = a_fleet(store, Publisher(DeafBroker(), blobs, Pace()), trust)
    rollouts = Rollouts(store, fleet, trust, incumbent_span_s=86_400.0, budget_bytes=BUDGET_BYTES)
    builder = ScriptedBuilder(builds_all)
    builds = Builds(
        store,
        blobs,
        a_key(2),
        vouch=trust.add_bundle,
        vouches_at_once=trust.vouches_at_once,
        builder=builder,
        executor=AtOnce(),
        bench=a_bench(folder),
        trials=a_trials(store, fleet),
        clock=lambda: served.now,
        limits=Limits(),
    )
    authority = found_authority(folder, NOW_S)
    revocations = Revocations(store, authority, folder)
    identities = Identities(
        store,
        authority,
        revocations,
        rights=OpenBroker(),
        root=newest_root,
        places=Places(broker="mqtt://127.0.0.1:1883"),
        policy=Policy(),
    )
    identities.tick(NOW_S)
    served = Served(store, blobs, fleet, rollouts, identities, builds, builder)
    builds.start()
    context = Context(
        store=store,
        blobs=blobs,
        builds=builds,
        trust=trust,
        decide=served.decide,
        traffic=Traffic,
        clock=lambda: served.now,
        broker_url="mqtt://127.0.0.1:1883",
        door_url="https://localhost:8322",
        ca=ca_fingerprint(authority),
        revocations=revocations,
        sides=BothSides(before_s=86_400.0),
    )
    try:
        with _listening(context) as served.url:
            yield served
    finally:
        store.close()


@contextmanager
def _listening(context: Context) -> Iterator[str]:
    api = make_api(context, token_sha256=token_digest(TOKEN))
    server = uvicorn.Server(uvicorn.Config(api, log_config=None, lifespan="off"))
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield address_of(listener)
        finally:
            server.should_exit = True
            thread.join()
