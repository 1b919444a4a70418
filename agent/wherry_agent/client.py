"""A client of the local API, for applications: the standard library, msgspec and one connection.

    with Client("/run/wherry-agent/api.sock") as client:
        answer = client.infer("default", {"image": Input("FP32", (1, 784), pixels)})
        client.feedback("default", answer.id, [7])

A client belongs to one thread. It keeps its connection, and connects again by itself where the
agent has closed it.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from wherry.errors import Malformed, Unavailable

TIMEOUT_S = 30.0

T = TypeVar("T")


class NotReachable(Unavailable):
    """No agent answers at the address."""

    def __init__(self, address: str, problem: str) -> None:
        super().__init__(address, problem)
        self.address, self.problem = address, problem

    def __str__(self) -> str:
        return (
            f"no agent answers at {self.address}: {self.problem}; "
            "start it with `wherry-agent run`, or give the address it listens on."
        )


class NotServing(Unavailable):
    """The agent has no answer; `sentence` is its own, and ends with what to do."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status, sentence)
        self.status, self.sentence = status, sentence

    def __str__(self) -> str:
        return f"the agent has no answer (HTTP {self.status}): {self.sentence}."


class RequestRefused(Malformed):
    """The agent refuses the request as it is; `sentence` is its own, and ends with what to do."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(status, sentence)
        self.status, self.sentence = status, sentence

    def __str__(self) -> str:
        return f"the agent refuses the request (HTTP {self.status}): {self.sentence}."


@dataclass(frozen=True, slots=True)
class Input:
    """One input tensor; `data` holds its values in row-major order, flat or nested."""

    datatype: str
    shape: tuple[int, ...]
    data: Sequence[object]


class Output(msgspec.Struct, frozen=True):
    """One output tensor; `data` holds its values flat, in row-major order."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[float | int | bool]


class Answer(msgspec.Struct, frozen=True):
    """`version` is the digest of the bundle that answered."""

    id: str
    version: str = msgspec.field(name="model_version")
    outputs: list[Output] = msgspec.field()

    def values(self, name: str) -> list[float | int | bool]:
        """Return the values of one output, flat; KeyError where the model has none so named."""
        return {output.name: output.data for output in self.outputs}[name]


class Judged(msgspec.Struct, frozen=True):
    """How many of an answer's rows were labelled, and how many of them were right."""

    labelled: int
    right: int


class _Error(msgspec.Struct):
    error: str


class _OnSocket(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """`address` is the path of a Unix socket, or `http://127.0.0.1:PORT`."""

    def __init__(self, address: str | Path, timeout_s: float = TIMEOUT_S) -> None:
        self.address = str(address)
        self._connection = _connection(self.address, timeout_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def infer(
        self, alias: str, inputs: Mapping[str, Input], request_id: str | None = None
    ) -> Answer:
        """Return the serving bundle's answer.

        Raises `RequestRefused`, `NotServing` or `NotReachable`.
        """
        return decode_answer(self.infer_raw(alias, encode_request(inputs, request_id)))

    def infer_raw(self, alias: str, body: bytes) -> bytes:
        """Return the response to a request in JSON, for programs that ask the same often."""
        return self._send("POST", f"/v2/models/{alias}/infer", body)

    def feedback(self, alias: str, request_id: str, labels: Sequence[int]) -> Judged:
        """Tell the agent which class each row of an answer was in truth."""
        body = msgspec.json.encode({"id": request_id, "labels": list(labels)})
        return _decode(Judged, self._send("POST", f"/v2/models/{alias}/feedback", body))

    def metadata(self, alias: str) -> dict[str, object]:
        """Return what the model under an alias takes and gives."""
        return _decode(dict[str, object], self._send("GET", f"/v2/models/{alias}"))

    def is_ready(self, alias: str) -> bool:
        """Say whether a bundle answers under an alias; raises `NotReachable`."""
        return self._reach("GET", f"/v2/models/{alias}/ready")[0] < 400

    def _send(self, method: str, path: str, body: bytes | None = None) -> bytes:
        status, data = self._reach(method, path, body)
        if status < 400:
            return data
        sentence = _decode(_Error, data).error.rstrip(".")
        raise (NotServing if status >= 500 else RequestRefused)(status, sentence)

    def _reach(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        try:
            return self._exchange(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise NotReachable(self.address, str(error) or type(error).__name__) from error

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        fresh = self._connection.sock is None
        try:
            self._connection.request(method, path, body)
            response = self._connection.getresponse()
        except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
            if fresh:
                raise
            # A kept connection that the agent has closed meanwhile.
            self._connection.close()
            return self._exchange(method, path, body)
        return response.status, response.read()


def encode_request(inputs: Mapping[str, Input], request_id: str | None = None) -> bytes:
    """Return the body of an inference request."""
    body: dict[str, object] = {
        "inputs": [
            {"name": name, "datatype": sent.datatype, "shape": sent.shape, "data": sent.data}
            for name, sent in inputs.items()
        ]
    }
    return msgspec.json.encode(body if request_id is None else {"id": request_id, **body})


def decode_answer(body: bytes) -> Answer:
    """Return the answer that a response holds."""
    return _decode(Answer, body)


def _connection(address: str, timeout_s: float) -> http.client.HTTPConnection:
    if address.startswith("http://"):
        return http.client.HTTPConnection(address.removeprefix("http://"), timeout=timeout_s)
    return _OnSocket(address, timeout_s)


def _decode(kind: type[T], data: bytes) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise NotReachable("that address", f"what answers is no agent ({error})") from error
