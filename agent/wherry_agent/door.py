"""The controller's device door as a device speaks to it: HTTPS, with no more than one answer each.

The door is known by its CA, and the CA by the fingerprint that an operator gave: it is fetched
first, over a connection that nothing is said on, and compared. From then on only a server that
this CA vouches for is spoken to. TLS looks at no dates: `core.dates` judges them by what is proved.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar

import msgspec

from wherry import codec
from wherry.enrolment import (
    CA_PATH,
    ENROL_PATH,
    LARGEST_ANSWER_BYTES,
    RENEW_PATH,
    Enrolled,
    EnrolRequest,
    RenewRequest,
    Waiting,
    fingerprint_of,
)
from wherry.errors import Malformed, Unavailable, Untrusted
from wherry.names import Digest
from wherry_agent.core.dates import Dates, Verdict, judge
from wherry_agent.settings import parse_door
from wherry_agent.tls import NO_CHECK_TIME, PeerExpired, dates_of

TIMEOUT_S = 30.0

_T = TypeVar("_T")


class NoDoor(Unavailable):
    """A door that does not answer."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(url, problem)
        self.url, self.problem = url, problem

    def __str__(self) -> str:
        return (
            f"no controller answers at {self.url} ({self.problem}): check the address and the "
            "network, and that `wherry serve` runs there."
        )


class WrongDoor(Untrusted):
    """A door of another controller than the one whose fingerprint was given."""

    def __init__(self, url: str, found: Digest, wanted: Digest) -> None:
        super().__init__(url, found, wanted)
        self.url, self.found, self.wanted = url, found, wanted

    def __str__(self) -> str:
        return (
            f"the CA of {self.url} has the fingerprint {self.found[:16]}… and not "
            f"{self.wanted[:16]}…: it is another controller, or someone between you and it; "
            "check the address, and the token or fingerprint that you gave."
        )


class NotVouchedFor(Untrusted):
    """A server that the CA does not vouch for under this name."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(url, problem)
        self.url, self.problem = url, problem

    def __str__(self) -> str:
        return (
            f"{self.url} cannot show that it is that controller ({self.problem}): "
            "use a name that door.names in its wherry.toml holds."
        )


class DoorRefused(Untrusted):
    """What the controller refused: its own reason and sentence."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(reason, sentence)
        self.reason, self.sentence = reason, sentence

    def __str__(self) -> str:
        return self.sentence


class DoorBusy(Unavailable):
    """A door that has no answer now, and when it may have one."""

    def __init__(self, status: int, sentence: str, wait_s: float) -> None:
        super().__init__(status, sentence, wait_s)
        self.status, self.sentence, self.wait_s = status, sentence, wait_s

    def __str__(self) -> str:
        return self.sentence


class BadAnswer(Malformed):
    """An answer that no controller gives."""

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(url, problem)
        self.url, self.problem = url, problem

    def __str__(self) -> str:
        return f"{self.url} answers as no controller does ({self.problem}): check the address."


class _Problem(msgspec.Struct):
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    retry_after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """A door whose CA is known; `floor` is the latest time that something signed has proved.

    `on_peer` hears what the dates of the server's certificate prove.
    """

    url: str
    ca: bytes
    floor: float
    on_peer: Callable[[Dates, Verdict], None]

    def enrol(self, request: EnrolRequest) -> Enrolled | Waiting:
        """Ask for a first certificate; raise what this module raises."""
        answer = self._post(ENROL_PATH, request)
        if answer.status == HTTPStatus.ACCEPTED:
            return self._read(Waiting, answer)
        return self._read(Enrolled, answer)

    def renew(self, request: RenewRequest) -> Enrolled:
        """Ask for the next certificate; raise what this module raises."""
        return self._read(Enrolled, self._post(RENEW_PATH, request))

    def _post(self, path: str, document: msgspec.Struct) -> _Answer:
        return _ask(
            self.url, "POST", path, codec.encode(document), tls=_pinned(self.ca), check=self._check
        )

    def _check(self, link: ssl.SSLSocket) -> None:
        dates = dates_of(link)
        verdict = judge(dates, floor=self.floor, clock=time.time())
        self.on_peer(dates, verdict)
        if verdict is Verdict.EXPIRED:
            raise PeerExpired(dates, self.floor)

    def _read(self, kind: type[_T], answer: _Answer) -> _T:
        try:
            return codec.decode(kind, answer.body, limit_bytes=LARGEST_ANSWER_BYTES)
        except codec.BadDocument as error:
            raise BadAnswer(self.url, error.problem) from error


def fetch_ca(url: str, fingerprint: Digest) -> bytes:
    """Return the CA of the door at `url` in PEM; raise `WrongDoor` where it is not the one.

    Nobody is trusted on the way: the fingerprint decides.
    """
    body = _ask(url, "GET", CA_PATH, b"", tls=_blind(), check=_let_be).body
    try:
        der = ssl.PEM_cert_to_DER_cert(body.decode("ascii"))
    except ValueError as error:
        raise BadAnswer(url, "what it gives for its CA is none") from error
    found = fingerprint_of(der)
    if found != fingerprint:
        raise WrongDoor(url, found, fingerprint)
    return ssl.DER_cert_to_PEM_cert(der).encode()


def _ask(
    url: str,
    method: str,
    path: str,
    body: bytes,
    *,
    tls: ssl.SSLContext,
    check: Callable[[ssl.SSLSocket], None],
) -> _Answer:
    host, port = parse_door(url)
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=tls)
    try:
        connection.connect()
        assert isinstance(connection.sock, ssl.SSLSocket)
        check(connection.sock)  # Before anything is said.
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read(LARGEST_ANSWER_BYTES + 1)
        answer = _Answer(response.status, data, response.headers.get("Retry-After"))
    except ssl.SSLCertVerificationError as error:
        raise NotVouchedFor(url, error.verify_message) from error
    except (TimeoutError, OSError, http.client.HTTPException) as error:
        raise NoDoor(url, str(error) or type(error).__name__) from error
    finally:
        connection.close()
    _raise_for(url, answer)
    return answer


def _raise_for(url: str, answer: _Answer) -> None:
    if answer.status in (HTTPStatus.OK, HTTPStatus.ACCEPTED):
        return
    try:
        problem = msgspec.json.decode(answer.body, type=_Problem)
    except msgspec.DecodeError as error:
        raise BadAnswer(url, f"status {answer.status}") from error
    is_passing = answer.status == HTTPStatus.TOO_MANY_REQUESTS or answer.status >= 500
    if is_passing:
        wait = answer.retry_after or ""
        raise DoorBusy(answer.status, problem.detail, float(wait) if wait.isdecimal() else 0.0)
    raise DoorRefused(problem.reason, problem.detail)


def _pinned(ca: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    context.load_verify_locations(cadata=ca.decode("ascii"))
    return context


def _blind() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _let_be(_: ssl.SSLSocket) -> None:
    """Check nothing: the fingerprint does."""
