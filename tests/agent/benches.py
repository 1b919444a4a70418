"""A running engine with its local API on a socket, for tests: real workers, real bundles."""

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import TypeVar

import numpy as np

from tests.agent.bundles import Floats, write_bundle
from tests.agent.waiting import PATIENCE_S as PATIENCE_S
from wherry.bundle import Bundle
from wherry.messages import SwapPolicy
from wherry.names import AliasName, DeploymentId, Digest
from wherry_agent import host
from wherry_agent.asking import BundlePlace
from wherry_agent.client import Client, Input, encode_request
from wherry_agent.engine import Duty, Engine, EngineEvent, EngineSettings, Flipped, Loaded
from wherry_agent.serving import ListenSettings, Server
from wherry_agent.serving.arriving import HttpLimits
from wherry_agent.telemetry import Recorder, WindowCounts

ALIAS = AliasName("default")

E = TypeVar("E")


class Bench:
    def __init__(self, folder: Path, settings: EngineSettings, http: HttpLimits) -> None:
        self.folder = folder
        self.socket = folder / "api.sock"
        self.recorder = Recorder()
        self._events: queue.Queue[EngineEvent] = queue.Queue()
        self.engine = Engine(
            on_event=self._events.put,
            settings=settings,
            recorder=self.recorder,
            memory_available_bytes=host.memory_available_bytes,
            temperature_c=lambda: None,
        )
        serving = ListenSettings(socket_path=self.socket, port=0, http=http)
        self.server = Server(self.engine, self.recorder, serving)

    def counted(self) -> tuple[WindowCounts, ...]:
        """Return what was counted of all that was answered until now, and begin anew."""
        turned: Future[None] = Future()
        self.engine.loop.call_soon_threadsafe(turned.set_result, None)
        turned.result(PATIENCE_S)
        return self.recorder.take()

    def place(self, bundle: Bundle) -> BundlePlace:
        manifest, blobs = write_bundle(bundle, self.folder)
        return BundlePlace(bundle.digest, manifest, blobs_folder=blobs, manifest=bundle.manifest)

    def expect(self, kind: type[E]) -> E:
        """Return the next event, which must be of one kind."""
        event = self.next_event()
        assert isinstance(event, kind), event
        return event

    def next_event(self) -> EngineEvent:
        return self._events.get(timeout=PATIENCE_S)

    def has_no_news(self) -> bool:
        return self._events.empty()

    def load(
        self,
        bundle: Bundle,
        deployment: str = "d-1",
        *,
        policy: SwapPolicy = SwapPolicy.AVAILABILITY,
        duty: Duty = Duty.ANSWER,
    ) -> Loaded:
        self.engine.load(ALIAS, DeploymentId(deployment), self.place(bundle), policy, duty)
        return self.expect(Loaded)

    def serve(self, bundle: Bundle) -> Flipped:
        self.engine.serve(ALIAS, self.place(bundle))
        return self.expect(Flipped)

    def client(self) -> Client:
        return Client(self.socket)

    def wire(self) -> Wire:
        return Wire(self.socket)

    def is_memory_known(self, bundle: Bundle) -> bool:
        return (ALIAS, bundle.digest) in self.engine.memory()

    def ask_and_leave(self, wire: Wire, rows: Floats) -> None:
        """Send a request that stands at its worker when this returns."""
        wire.send(an_infer_request(rows))
        with self.client() as other:
            for _ in range(2):  # What came before the second of these has been read.
                other.is_ready(ALIAS)


class Wire:
    """A connection to the local API on which the test decides about every byte."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(path))

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def response(self) -> tuple[int, bytes]:
        """Return the status and the body of the one response of this connection."""
        response = HTTPResponse(self.socket)
        response.begin()
        return response.status, response.read()

    def is_closed_by_the_server(self) -> bool:
        return self.socket.recv(1) == b""


@contextmanager
def a_bench(
    folder: Path,
    settings: EngineSettings | None = None,
    http: HttpLimits | None = None,
) -> Iterator[Bench]:
    """Run an engine and its API in `folder` until the end of the block."""
    bench = Bench(folder, settings or EngineSettings(), http or HttpLimits())
    bench.engine.start()
    bench.server.start()
    try:
        yield bench
    finally:
        bench.server.close()
        bench.engine.close()


def an_input(rows: Floats) -> dict[str, Input]:
    return {"image": Input("FP32", rows.shape, rows.ravel().tolist())}


def an_infer_request(rows: Floats, request_id: str | None = None) -> bytes:
    """Return the bytes of a whole HTTP request."""
    return a_post(f"/v2/models/{ALIAS}/infer", encode_request(an_input(rows), request_id))


def a_post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def a_get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: test\r\n\r\n".encode()


def ask(client: Client, rows: Floats, request_id: str | None = None) -> tuple[Digest, Floats]:
    """Return who answered, and the logits."""
    answer = client.infer(ALIAS, an_input(rows), request_id)
    logits = np.asarray(answer.values("logits"), np.float32).reshape(-1, 4)
    return Digest(answer.version), logits
