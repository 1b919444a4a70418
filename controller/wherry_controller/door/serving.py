"""The two doors on their sockets: TLS 1.3 by the controller's own CA, each in a thread of its own.

The server's certificate is renewed in time and the list of revoked certificates replaced while the
doors are open; both take effect with the next connection. Nothing is resumed: each connection to
the blob door shows its certificate anew.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi import FastAPI

from wherry.errors import Unavailable
from wherry.files import write_whole
from wherry_controller.authority import CA, CRL_PEM, Authority, Crl, issue_server, private_pem
from wherry_controller.door.blobs import make_blob_door
from wherry_controller.door.enrolment import DoorContext, make_door
from wherry_controller.settings import Door
from wherry_controller.store.blobs import BlobFolder

log = logging.getLogger(__name__)

SERVER = "door.pem"  # Key and certificate in one file, so that neither is ever another's.
MOST_CONNECTIONS = 256
START_S = 30.0


class PortTaken(Unavailable):
    """An address that a door cannot listen on."""

    def __init__(self, host: str, port: int, problem: str) -> None:
        super().__init__(host, port, problem)
        self.host, self.port, self.problem = host, port, problem

    def __str__(self) -> str:
        return (
            f"{self.host}:{self.port} cannot be listened on ({self.problem}): "
            "end what listens there, or set door.port and door.blob_port in wherry.toml."
        )


class Doors:
    """Both doors; `start` and `close` once each, `refresh` from any thread."""

    def __init__(
        self,
        settings: Door,
        authority: Authority,
        folder: Path,
        *,
        context: DoorContext,
        blobs: BlobFolder,
    ) -> None:
        self._settings = settings
        self._authority = authority
        self._folder = folder
        self._clock = context.clock
        ensure_server(authority, folder, settings.names, self._clock())
        self._enrolment = _Served(
            lambda lifespan: make_door(context, lifespan=lifespan),
            _listen(settings.host, settings.port),
            server_context(folder),
        )
        self._blobs = _Served(
            lambda lifespan: make_blob_door(blobs, lifespan=lifespan),
            _listen(settings.host, settings.blob_port),
            device_context(folder),
        )

    @property
    def port(self) -> int:
        return self._enrolment.port

    @property
    def blob_port(self) -> int:
        return self._blobs.port

    def start(self) -> None:
        for door in (self._enrolment, self._blobs):
            door.start()
        log.info("doors.open", extra={"port": self.port, "blob_port": self.blob_port})

    def close(self) -> None:
        for door in (self._enrolment, self._blobs):
            door.shut()
        for door in (self._enrolment, self._blobs):
            door.close()

    def refresh(self, _: Crl) -> None:
        """Go by the newest list of revoked certificates, and renew the doors' own where it is due.

        There is a new list each day.
        """
        server = self._folder / SERVER
        self._blobs.change(lambda tls: tls.load_verify_locations(self._folder / CRL_PEM))
        if ensure_server(self._authority, self._folder, self._settings.names, self._clock()):
            for door in (self._enrolment, self._blobs):
                door.change(lambda tls: tls.load_cert_chain(server))


def server_context(folder: Path) -> ssl.SSLContext:
    """Return TLS as the doors speak it: 1.3, nothing resumed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(folder / SERVER)
    return context


def device_context(folder: Path) -> ssl.SSLContext:
    """Return TLS that also asks for a device's certificate, one that is not revoked."""
    context = server_context(folder)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    context.load_verify_locations(folder / CA)
    context.load_verify_locations(folder / CRL_PEM)
    return context


def ensure_server(authority: Authority, folder: Path, names: Sequence[str], now: float) -> bool:
    """Write a certificate for the doors where there is none that will do; say whether it did."""
    if _will_do(folder / SERVER, authority, names, now):
        return False
    key = ec.generate_private_key(ec.SECP256R1())
    issued = issue_server(authority, names, key.public_key(), now=now)
    write_whole(folder / SERVER, private_pem(key) + issued.pem.encode(), mode=0o600)
    return True


def _will_do(path: Path, authority: Authority, names: Sequence[str], now: float) -> bool:
    """Say whether a certificate is of this CA, bears these names and is not past two thirds."""
    try:
        known = x509.load_pem_x509_certificate(path.read_bytes())
        found = known.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    hosts = found.get_values_for_type(x509.DNSName)
    addresses = found.get_values_for_type(x509.IPAddress)
    begins, ends = known.not_valid_before_utc.timestamp(), known.not_valid_after_utc.timestamp()
    is_fresh = begins <= now < begins + (ends - begins) * 2 / 3
    is_ours = known.issuer == authority.certificate.subject
    return is_ours and is_fresh and {*hosts, *map(str, addresses)} == set(names)


Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


class _Served:
    """One application on one socket, in a thread with a loop of its own."""

    def __init__(
        self,
        make: Callable[[Lifespan], FastAPI],
        listener: socket.socket,
        tls: ssl.SSLContext,
    ) -> None:
        self._listener = listener
        self._tls = tls
        self._is_open = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        config = uvicorn.Config(
            make(self._lifespan),
            log_config=None,
            access_log=False,
            lifespan="on",
            limit_concurrency=MOST_CONNECTIONS,
            server_header=False,
            proxy_headers=False,  # TLS ends here: what claims to be a proxy's is a stranger's.
        )
        config.load()
        config.ssl = tls
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def start(self) -> None:
        self._thread.start()
        self._is_open.wait(START_S)

    def shut(self) -> None:
        """Let nobody in any more."""
        self._server.should_exit = True

    def close(self) -> None:
        self.shut()
        if self._thread.is_alive():
            self._thread.join()
        self._listener.close()

    def change(self, act: Callable[[ssl.SSLContext], None]) -> None:
        """Change TLS between two of its steps: on the loop's thread, once the door is open."""
        if self._loop is None or self._loop.is_closed():
            act(self._tls)
        else:
            self._loop.call_soon_threadsafe(act, self._tls)

    def _run(self) -> None:
        self._server.run(sockets=[self._listener])

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        self._is_open.set()
        yield
        self._loop = None


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise PortTaken(host, port, error.strerror or str(error)) from error
    return listener
