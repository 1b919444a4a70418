"""TLS handshakes in memory: what either end makes of the other."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path

from tests.certificates import Certificate

ROUNDS = 3


def a_server(folder: Path, shown: Certificate) -> ssl.SSLContext:
    """Return what shows a certificate and asks for none."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*shown.write(folder, "served"))
    return server


def shake_hands(dialler: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Have one dial the other as 127.0.0.1; raise what either raises."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        dialler.wrap_bio(back, there, server_hostname="127.0.0.1"),
        server.wrap_bio(there, back, server_side=True),
    )
    for _ in range(ROUNDS):
        for end in ends:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
