"""Writes this release's device store and database as SQL: `python -m tests.vectors.stores FOLDER`.

Stores outlive releases, so what is kept beside this module is never written again: a release whose
schema is another one adds files of its own.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from tests import builders as a
from tests.builders import A_TIME
from tests.controller.services.test_comparing import comparing, run_release, start
from tests.controller.services.test_rollouts import PI_1, PI_2, PI_3, Bench
from tests.threats.devices import PROBATION_S, Broker, Device, a_device
from tests.threats.test_orders import desired, stamp
from tests.trusted import a_repository
from tests.vectors import papers
from tests.vectors.repository import V1, V2
from wherry import __version__, codec
from wherry.blobs import digest_of
from wherry.measures import Feedback, Seen, ShadowCounts, Traffic
from wherry.messages import Receipt, Shadow, SignedReceipt, Split, Telemetry, Wanted
from wherry.names import DeviceId, Digest
from wherry_agent.core import agent as machine
from wherry_agent.core.budget import Spent
from wherry_agent.core.health import Window
from wherry_agent.core.receipts import Attested
from wherry_controller.authority import read_request
from wherry_controller.core.audit import Kind
from wherry_controller.core.identity import Certificate, Decision, Pending, TokenRecord
from wherry_controller.services import audit, receipts
from wherry_controller.services.ingest import Message
from wherry_controller.store import deltas, identities
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import KeptDelta

DEFAULT = a.an_alias()
REPOSITORY = a_repository([V1, V2])
SHADOW, SPLIT = Shadow(share=0.5, min_requests=200, min_agreement=0.9), Split(share=0.2)


def device_store(folder: Path) -> Path:
    """Leave a store whose device has confirmed two bundles, and lets the first shadow again.

    It has a receipt of that one; its incumbent has labels, and a claim that is yet to be signed.
    """
    broker = Broker()
    broker.retain(REPOSITORY, V1, V2)
    with a_device(folder, REPOSITORY, broker) as device:
        first, second = a.a_wanted("d-1", bundle=V1.digest), a.a_wanted("d-2", bundle=V2.digest)
        third = replace(a.a_wanted("d-3", bundle=V1.digest), shadow=SHADOW, split=SPLIT)
        device.hear(stamp(REPOSITORY))
        order(device, 1, first)
        device.wait(PROBATION_S)
        device.hear(Attested(first.deployment, sign(a.a_receipt("d-1", bundle=V1.digest))))
        order(device, 2, second)
        device.wait(PROBATION_S)
        labelled = Window(
            requests=3, compute=a.a_histogram(1, 2, 3), feedback=Feedback(labelled=20, right=19)
        )
        device.hear(machine.Measured(DEFAULT, V2.digest, labelled))
        order(device, 3, third)
        counts = ShadowCounts(requests=120, rows=120, agreed=119, distance=0.5)
        device.hear(machine.Measured(DEFAULT, V1.digest, Window(shadow=counts)))
        device.store.save_spent(Spent(((500_000, 4096),)))
        with device.store.transaction():
            device.store.save_traffic(Traffic(sent_bytes=1000, received_bytes=2000))
        device.store.next_report_seq()
    return folder / "agent.db"


def order(device: Device, generation: int, wanted: Wanted) -> None:
    """Have the device follow an order for its one alias."""
    wish = a.an_order(generation=generation, aliases={DEFAULT: wanted})
    device.hear(desired(REPOSITORY, wish))


def sign(receipt: Receipt) -> SignedReceipt:
    data = codec.encode(receipt)
    algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    asked = read_request(papers.request_pem(papers.DEVICE))
    return SignedReceipt(
        signed=msgspec.Raw(data),
        keyid=asked.fingerprint,
        sig=papers.DEVICE.sign(data, algorithm).hex(),
    )


def controller_database(folder: Path) -> Path:
    """Leave a database of a fleet that has enrolled, serves one version, and tries another.

    The candidate shadows on `pi-1`, which has attested that it confirmed the version before.
    """
    bench = Bench(folder)
    old = bench.release("v1")
    confirmed = bench.order_for(PI_1)
    assert confirmed is not None
    run_release(bench, "0.5.0")
    new = bench.build("v2")
    start(bench, comparing("v2"))
    bench.say(Message(PI_1, a_shadowing_window(bench.next_seq(PI_1), new.digest), live=True))
    with bench.store.transaction() as tx:
        for number, device in enumerate((PI_1, PI_2, PI_3)):
            add_identity(tx, device, number)
        add_waiting_key(tx)
        deployment = confirmed.aliases[DEFAULT].deployment
        receipts.take(tx, PI_1, sign(a.a_receipt(deployment, bundle=old.digest)), A_TIME)
        made = KeptDelta(
            base=a.a_digest("base"),
            blob=new.manifest.files["model"].digest,
            index=a.a_digest("index"),
            size_bytes=4096,
            made_at=A_TIME,
        )
        deltas.save_delta(tx, made)
    bench.store.close()
    return folder / "wherry.db"


def a_shadowing_window(seq: int, bundle: Digest) -> Telemetry:
    seen = Seen(name="image", rows=5, values=20, counts=(5, 10, 5), zeros=0, not_finite=0)
    counts = ShadowCounts(
        requests=120,
        rows=120,
        agreed=119,
        distance=0.5,
        largest_distance=0.25,
        compute=a.a_histogram(1, 2),
        incumbent_compute=a.a_histogram(1, 1),
        skipped={"busy": 3},
    )
    window = a.a_telemetry(seq, bundle=bundle, requests=0)
    return replace(
        window, inputs=(seen,), shadow=counts, worker_bytes=60_000_000, dropped_windows=1
    )


def add_identity(tx: Transaction, device: DeviceId, number: int) -> None:
    """Add a token that was used, and the certificate it gave; the last one is revoked."""
    asked = read_request(papers.request_pem(papers.DEVICE))
    revoked_at = A_TIME + 60.0 if number == 2 else None
    token = TokenRecord(
        id=f"t{number}",
        digest=digest_of(device.encode()),
        device=device,
        created_at=A_TIME,
        expires_at=A_TIME + 86_400.0,
        used_at=A_TIME + 1.0,
        csr=asked.digest,
    )
    certificate = Certificate(
        serial=f"{papers.SERIAL + number:x}",
        device=device,
        epoch=1,
        csr=asked.digest,
        fingerprint=asked.fingerprint,
        pem=papers.certificate_pem(papers.certificate()),
        not_before=A_TIME,
        not_after=A_TIME + 30 * 86_400.0,
        issued_at=A_TIME,
        revoked_at=revoked_at,
    )
    identities.save_token(tx, token)
    identities.save_certificate(tx, certificate)
    audit.note(tx, Kind.ENROLLED, {"device": device, "epoch": 1}, A_TIME)
    if revoked_at is not None:
        audit.note(tx, Kind.REVOKED, {"device": device}, revoked_at)


def add_waiting_key(tx: Transaction) -> None:
    asked = read_request(papers.request_pem(papers.NEXT))
    pending = Pending(
        fingerprint=asked.fingerprint,
        csr=asked.digest,
        device=a.a_device_id("pi-4"),
        profile=a.a_profile().name,
        facts=None,
        address="192.0.2.1",
        asked_at=A_TIME,
        seen_at=A_TIME,
        decision=Decision.WAITING,
    )
    identities.save_pending(tx, pending)


def dump(database: Path, about: str) -> str:
    """Return a database as SQL, with the version of its schema where SQLite keeps it."""
    with closing(sqlite3.connect(database)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        *lines, commit = connection.iterdump()
    pragma = [f"PRAGMA user_version = {version};"] if version else []
    return "\n".join([f"-- {about}", *lines, *pragma, commit, ""])


def main() -> None:
    to = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        store, database = device_store(Path(one)), controller_database(Path(other))
        about = f"as release {__version__} wrote it"
        (to / "device-store-3.sql").write_text(dump(store, f"A device's store {about}."))
        (to / "controller-database-5.sql").write_text(dump(database, f"A database {about}."))


if __name__ == "__main__":
    main()
