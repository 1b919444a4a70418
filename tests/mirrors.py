"""HTTP sources for tests: one that serves what it is given, however it is told to misbehave."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from wherry.names import Digest


class Manner(Enum):
    HONEST = "honest"
    LYING = "lying"  # Other bytes of the right length.
    BOASTING = "boasting"  # It declares more than was asked for, and sends without end.
    ENDLESS = "endless"  # It declares nothing, and sends without end.
    DRIPPING = "dripping"  # A byte now and then.
    CUT = "cut"  # It closes in the middle.
    WHOLE = "whole"  # It knows no ranges.


@dataclass
class Mirror:
    """`asked` are the ranges that were asked for, in order."""

    blobs: Mapping[Digest, bytes]
    manner: Manner = Manner.HONEST
    url: str = ""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def a_mirror(blobs: Mapping[Digest, bytes], manner: Manner = Manner.HONEST) -> Iterator[Mirror]:
    """Serve blobs by digest for the length of the block."""
    mirror = Mirror(blobs, manner)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):
                _answer(self, mirror)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    mirror.url = f"http://127.0.0.1:{server.server_port}/blobs"
    try:
        yield mirror
    finally:
        mirror.over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(handler: BaseHTTPRequestHandler, mirror: Mirror) -> None:
    name, asked = handler.path.rsplit("/", 1)[1], handler.headers.get("Range")
    mirror.asked.append((name, asked))
    data = mirror.blobs.get(Digest(name))
    if data is None:
        handler.send_error(404)
        return
    bounds = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "")
    is_part = bounds is not None and mirror.manner is not Manner.WHOLE
    if bounds is not None and is_part:
        data = data[int(bounds[1]) : int(bounds[2]) + 1]
    handler.send_response(206 if is_part else 200)
    match mirror.manner:
        case Manner.ENDLESS:
            pass
        case Manner.BOASTING:
            handler.send_header("Content-Length", str(1 << 40))
        case _:
            handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    _send(handler, data, mirror)


def _send(handler: BaseHTTPRequestHandler, data: bytes, mirror: Mirror) -> None:
    write = handler.wfile.write
    match mirror.manner:
        case Manner.HONEST | Manner.WHOLE:
            write(data)
        case Manner.LYING:
            write(bytes(byte ^ 1 for byte in data))
        case Manner.CUT:
            write(data[: len(data) // 2])
        case Manner.BOASTING | Manner.ENDLESS:
            while not mirror.over.is_set():
                write(data)
        case Manner.DRIPPING:
            for byte in data:
                write(bytes([byte]))
                if mirror.over.wait(0.05):
                    return
