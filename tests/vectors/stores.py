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

from tests import builders as a
from tests.builders import A_TIME
from tests.controller.services.test_rollouts import PI_1, PI_2, PI_3, Bench
from tests.threats.devices import PROBATION_S, Broker, a_device
from tests.threats.test_orders import an_order_for, desired, stamp
from tests.vectors import papers
from tests.vectors.repository import DETECTOR, FIRST, V1, V2, order_for_v2
from wherry import __version__
from wherry.blobs import digest_of
from wherry.measures import Traffic
from wherry.names import DeviceId
from wherry_agent.core.budget import Spent
from wherry_controller.authority import read_request
from wherry_controller.core.audit import Kind
from wherry_controller.core.identity import Certificate, Decision, Pending, TokenRecord
from wherry_controller.services import audit
from wherry_controller.store import deltas, identities
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import KeptDelta


def device_store(folder: Path) -> Path:
    """Leave a store whose device has confirmed a bundle and fetches another."""
    broker = Broker()
    broker.retain(FIRST, V2)
    with a_device(folder, FIRST, broker) as device:
        device.hear(stamp(FIRST), desired(FIRST, order_for_v2()))
        device.wait(PROBATION_S)
        wanted = {a.an_alias(): V2.digest, DETECTOR: V1.digest}
        device.hear(desired(FIRST, an_order_for(2, wanted)))
        device.store.save_spent(Spent(((500_000, 4096),)))
        with device.store.transaction():
            device.store.save_traffic(Traffic(sent_bytes=1000, received_bytes=2000))
        device.store.next_report_seq()
    return folder / "agent.db"


def controller_database(folder: Path) -> Path:
    """Leave a database of a fleet that has enrolled, serves one version, and is given another."""
    bench = Bench(folder)
    bench.release("v1")
    new = bench.build("v2")
    bench.start("v2")
    with bench.store.transaction() as tx:
        for number, device in enumerate((PI_1, PI_2, PI_3)):
            add_identity(tx, device, number)
        add_waiting_key(tx)
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
        (to / "device-store-2.sql").write_text(dump(store, f"A device's store {about}."))
        (to / "controller-database-4.sql").write_text(dump(database, f"A database {about}."))


if __name__ == "__main__":
    main()
