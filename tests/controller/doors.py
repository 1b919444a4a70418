"""Real doors of a controller, on real sockets, and devices that come to them.

Everything is real but the broker's rights and the fleet, which only remember what they were told.
Time stands still until a test moves it.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from pathlib import Path
from typing import TypeAlias, TypeVar

import httpx
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.controller.stores import a_store, add_devices
from tests.trusted import a_repository
from wherry import codec
from wherry.enrolment import (
    ENROL_PATH,
    RENEW_PATH,
    Enrolled,
    EnrolRequest,
    Renewal,
    RenewRequest,
    Waiting,
    parse_token,
)
from wherry.names import DeviceId, parse_device_id
from wherry_controller.authority import (
    Authority,
    ca_fingerprint,
    certificate_pem,
    found_authority,
    private_pem,
)
from wherry_controller.core.audit import Entry
from wherry_controller.core.bucket import Rate
from wherry_controller.door.enrolment import DoorContext
from wherry_controller.door.serving import Doors
from wherry_controller.services.admission import Policy
from wherry_controller.services.crl import Revocations
from wherry_controller.services.identity import Identities, Places
from wherry_controller.settings import Door
from wherry_controller.store import devices, identities
from wherry_controller.store.audit import list_entries
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store

T = TypeVar("T")
Shown: TypeAlias = tuple[Enrolled, ec.EllipticCurvePrivateKey]

DAY_S = 86_400.0
NO_CHECK_TIME = 0x200000
NOW_S = float(int(time.time()))  # The doors' TLS goes by the machine's clock.
PI = parse_device_id("pi-1")


@dataclass
class Rights:
    """The broker's rights: what was granted and revoked, in order."""

    told: list[tuple[str, DeviceId]] = field(default_factory=list)

    def grant(self, device: DeviceId) -> None:
        self.told.append(("grant", device))

    def revoke(self, device: DeviceId) -> None:
        self.told.append(("revoke", device))


@dataclass
class Published:
    """A fleet that counts how often its orders were published."""

    times: int = 0

    def publish(self, now: float) -> None:
        self.times += 1


@dataclass
class Guarded:
    """A controller's doors, and its desk."""

    store: Store
    authority: Authority
    identities: Identities
    revocations: Revocations
    rights: Rights
    folder: Path
    blobs: BlobFolder
    fleet: Published = field(default_factory=Published)
    doors: Doors | None = None
    now: float = NOW_S
    lock: threading.Lock = field(default_factory=threading.Lock)

    def decide(self, work: Callable[[Guarded], T], /) -> T:
        with self.lock:
            return work(self)

    @property
    def url(self) -> str:
        assert self.doors is not None
        return f"https://localhost:{self.doors.port}"

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def a_token(self, device: DeviceId = PI, *, lifetime_s: float | None = None) -> str:
        admission = self.identities.admission
        return admission.create_token(device, lifetime_s=lifetime_s, now=self.now).text

    def epoch_of(self, device: DeviceId = PI) -> int:
        with self.store.reading() as tx:
            record = devices.get_device(tx, device)
            assert record is not None
            return record.epoch

    def serials_of(self, device: DeviceId = PI) -> dict[str, bool]:
        """Return the serials that a device has, and whether each is still good."""
        with self.store.reading() as tx:
            held = identities.certificates_of(tx, device)
            return {one.serial: one.revoked_at is None for one in held}

    def state(self) -> tuple[object, ...]:
        """Return all that an enrolment could change."""
        with self.store.reading() as tx:
            held = tuple(identities.certificates_of(tx, PI))
            known = devices.get_device(tx, PI)
            tokens = tuple(identities.list_tokens(tx))
        return held, known, tokens, tuple(self.rights.told), self.fleet.times

    def audited(self) -> list[tuple[str, str]]:
        """Return the kind and the reason of each entry in the audit log."""
        with self.store.reading() as tx:
            entries = [codec.decode(Entry, body.encode()) for body in list_entries(tx)]
        return [(one.kind, one.facts.get("reason", "")) for one in entries]

    def revoked_serials(self) -> set[str]:
        crl = self.revocations.newest
        assert crl is not None
        return {f"{one.serial_number:x}" for one in x509.load_der_x509_crl(crl.der)}

    # What strangers send

    def post(self, path: str, body: bytes, **headers: str) -> httpx.Response:
        with httpx.Client(verify=self.dialling(None)) as client:
            return client.post(f"{self.url}{path}", content=body, headers=headers)

    def enrol(
        self, key: ec.EllipticCurvePrivateKey, token: str | None, **more: str
    ) -> httpx.Response:
        return self.send(a_request(key), token, **more)

    def send(self, csr: str, token: str | None, **more: str) -> httpx.Response:
        secret = parse_token(token).secret if token else None
        device = parse_device_id(more["device"]) if "device" in more else None
        return self.post(
            ENROL_PATH, codec.encode(EnrolRequest(csr=csr, token=secret, device=device))
        )

    def renew(
        self,
        old: Enrolled,
        by: ec.EllipticCurvePrivateKey,
        csr: str,
        *,
        at: float | None = None,
        device: DeviceId | None = None,
    ) -> httpx.Response:
        renewal = codec.encode(
            Renewal(
                device=device or old.device,
                serial=old.serial,
                csr=csr,
                at=int(self.now if at is None else at),
            )
        )
        signature = by.sign(renewal, ec.ECDSA(hashes.SHA256())).hex()
        proved = RenewRequest(renewal=msgspec.Raw(renewal), signature=signature)
        return self.post(RENEW_PATH, codec.encode(proved))

    def an_enrolled(self, device: DeviceId = PI) -> Shown:
        key = a_device_key()
        return enrolled(self.enrol(key, self.a_token(device))), key

    def read_blob(self, path: str, papers: Shown | None, **headers: str) -> tuple[int, bytes]:
        """Ask the blob door with a device's papers; raise `OSError` where TLS refuses."""
        assert self.doors is not None
        port, tls = self.doors.blob_port, self.dialling(papers)
        connection = HTTPSConnection("localhost", port, timeout=10, context=tls)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def dialling(self, papers: Shown | None) -> ssl.SSLContext:
        """Return TLS as a device with these papers speaks it."""
        tls = ssl.create_default_context(cafile=str(self.ca_file))
        tls.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
        if papers is not None:
            file = self.folder / "device.pem"
            file.write_bytes(private_pem(papers[1]) + papers[0].certificate.encode())
            tls.load_cert_chain(file)
        return tls


@contextmanager
def guarded_doors(
    folder: Path,
    *,
    policy: Policy | None = None,
    rate: Rate | None = None,
    now: float = NOW_S,
    names: tuple[str, ...] = ("localhost", "127.0.0.1"),
) -> Iterator[Guarded]:
    """Open the doors of a controller with one device, `pi-1`, that was never enrolled."""
    store = a_store(folder)
    with store.transaction() as tx:
        add_devices(tx, PI)
    authority = found_authority(folder, now)
    revocations = Revocations(store, authority, folder)
    rights = Rights()
    root = a_repository().roots[0].data
    made = Identities(
        store,
        authority,
        revocations,
        rights=rights,
        root=lambda _: root,
        places=Places(broker="mqtts://broker.example", blobs="https://controller.example:8323"),
        policy=policy or Policy(),
    )
    blobs = BlobFolder(folder / "blobs")
    here = Guarded(store, authority, made, revocations, rights, folder, blobs, now=now)
    made.tick(now)
    context = DoorContext(
        decide=here.decide,
        clock=lambda: here.now,
        ca_pem=certificate_pem(authority),
        rate=rate or Rate(1000.0, 1000),
    )
    settings = Door(port=0, blob_port=0, names=names)
    here.doors = Doors(settings, authority, folder, context=context, blobs=blobs)
    revocations.tell(here.doors.refresh)
    here.doors.start()
    try:
        yield here
    finally:
        here.doors.close()
        store.close()


def a_device_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def a_request(key: ec.EllipticCurvePrivateKey, name: str = "whatever it says") -> str:
    """Return a request for a certificate, in PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def enrolled(response: httpx.Response) -> Enrolled:
    assert response.status_code == 200, response.text
    return codec.decode(Enrolled, response.content)


def waiting(response: httpx.Response) -> Waiting:
    assert response.status_code == 202, response.text
    return codec.decode(Waiting, response.content)


def refused(response: httpx.Response) -> tuple[int, str]:
    """Return the status and the reason of a problem document."""
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["detail"].endswith("."), problem
    return response.status_code, problem["reason"]


def name_in(certificate: str) -> str:
    subject = x509.load_pem_x509_certificate(certificate.encode()).subject
    (name,) = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(name.value)


def fingerprint_of_ca(here: Guarded) -> str:
    return ca_fingerprint(here.authority)
