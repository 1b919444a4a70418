"""TLS as a device speaks it: its own certificate, the controller's authority, and no clock.

OpenSSL's look at dates is off; `core.dates` judges those of the peer by what signed times prove.
The name that was dialled must stand in the peer's certificate, which must be a server's.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wherry.errors import Untrusted
from wherry_agent.core.dates import Dates, Verdict, judge
from wherry_agent.settings import CA_FILE, CERTIFICATE_FILE, KEY_FILE

NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of openssl/x509_vfy.h.


class PeerExpired(Untrusted):
    """A peer whose certificate ended before a time that something signed has proved."""

    def __init__(self, dates: Dates, floor: float) -> None:
        super().__init__(dates, floor)
        self.dates, self.floor = dates, floor

    def __str__(self) -> str:
        return (
            f"the peer's certificate ended at {_date(self.dates.ends)} and it is "
            f"{_date(self.floor)} or later: give it a new one (`wherry broker config`)."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Secured:
    """How connections of one device are secured.

    `context` is asked for each connection, so a renewed certificate is shown from the next one on.
    `floor` is the latest time that is proved, and `on_peer` hears what a peer's dates prove; both
    are called on the connection's thread.
    """

    context: Callable[[], ssl.SSLContext]
    floor: Callable[[], float]
    on_peer: Callable[[Dates, Verdict], None]

    def check(self, link: ssl.SSLSocket) -> None:
        """Judge the peer of a connection whose handshake is over; raise `PeerExpired`."""
        dates, floor = dates_of(link), self.floor()
        verdict = judge(dates, floor=floor, clock=time.time())
        self.on_peer(dates, verdict)
        if verdict is Verdict.EXPIRED:
            raise PeerExpired(dates, floor)


def context_of(home: Path) -> ssl.SSLContext:
    """Return what the device of `home` dials with; raise `OSError` where its files are broken."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
    context.load_verify_locations(home / CA_FILE)
    context.load_cert_chain(home / CERTIFICATE_FILE, home / KEY_FILE)
    return context


def dates_of(link: ssl.SSLSocket) -> Dates:
    """Return the dates of the certificate that the peer showed and TLS verified."""
    shown = link.getpeercert() or {}
    begins, ends = shown["notBefore"], shown["notAfter"]
    assert isinstance(begins, str)
    assert isinstance(ends, str)
    return Dates(ssl.cert_time_to_seconds(begins), ssl.cert_time_to_seconds(ends))


def _date(time_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(time_s))
