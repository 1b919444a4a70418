"""A client of the local API, for applications on the device: one connection, JSON or binary.

    with Client("/run/wherry-agent/api.sock") as client:
        answer = client.infer("default", {"image": tensor(pixels)})  # An array, sent as bytes.
        client.feedback("default", answer.id, [7])

A client belongs to one thread. It keeps its connection, and connects again by itself where the
agent has closed it. Tensors may lie in shared memory too (`region`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from wherry.errors import Malformed, Unavailable
from wherry_agent.client.region import Region
from wherry_agent.client.tensors import (
    Answer,
    Input,
    NoTensor,
    Output,
    Placed,
    Room,
    answer_of,
    decode_answer,
    encode_binary,
    encode_request,
    tensor,
    travels_binary,
)
from wherry_agent.client.wire import NotReachable, Part, Reply, Wire

__all__ = [
    "Answer",
    "Client",
    "Input",
    "Judged",
    "NoTensor",
    "NotReachable",
    "NotServing",
    "Output",
    "Placed",
    "Region",
    "RequestRefused",
    "Room",
    "decode_answer",
    "encode_binary",
    "encode_request",
    "tensor",
]

TIMEOUT_S = 30.0

T = TypeVar("T")


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


class Judged(msgspec.Struct, frozen=True):
    """How many of an answer's rows were labelled, and how many of them were right."""

    labelled: int
    right: int


class _Error(msgspec.Struct):
    error: str


class Client:
    """`address` is the path of a Unix socket, or `http://127.0.0.1:PORT`."""

    def __init__(self, address: str | Path, timeout_s: float = TIMEOUT_S) -> None:
        self.address = str(address)
        self._wire = Wire(self.address, timeout_s)

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
        self._wire.close()

    def infer(
        self,
        alias: str,
        inputs: Mapping[str, Input | Placed],
        request_id: str | None = None,
        *,
        outputs: Mapping[str, Room] | None = None,
        parameters: Mapping[str, object] | None = None,
    ) -> Answer:
        """Return the serving bundle's answer; `outputs` are put where there is room for them.

        As `parameters` the agent knows `key` (whose requests one side of a split answers) and
        `state_of` (`Answer.state_of`). Raises `RequestRefused`, `NotServing` or `NotReachable`.
        """
        path = f"/v2/models/{alias}/infer"
        if travels_binary(inputs):
            parts, headers = encode_binary(
                inputs, request_id, outputs=outputs, parameters=parameters
            )
            return answer_of(self._send("POST", path, parts, headers))
        body = encode_request(inputs, request_id, outputs=outputs, parameters=parameters)
        return answer_of(self._send("POST", path, (body,)))

    def infer_raw(self, alias: str, body: bytes) -> bytes:
        """Return the response to a request in JSON, for programs that ask the same often."""
        return self._send("POST", f"/v2/models/{alias}/infer", (body,)).body

    def feedback(self, alias: str, request_id: str, labels: Sequence[int]) -> Judged:
        """Tell the agent which class each row of an answer was in truth."""
        body = msgspec.json.encode({"id": request_id, "labels": list(labels)})
        return _decode(Judged, self._send("POST", f"/v2/models/{alias}/feedback", (body,)).body)

    def metadata(self, alias: str) -> dict[str, object]:
        """Return what the model under an alias takes and gives."""
        return _decode(dict[str, object], self._send("GET", f"/v2/models/{alias}").body)

    def is_ready(self, alias: str) -> bool:
        """Say whether a bundle answers under an alias; raises `NotReachable`."""
        return self._wire.exchange("GET", f"/v2/models/{alias}/ready").status < 400

    def all_ready(self) -> bool:
        """Say whether there is an alias, and a bundle answers under each; raises `NotReachable`."""
        return self._wire.exchange("GET", "/v2/health/ready").status < 400

    @contextmanager
    def region(self, size_bytes: int) -> Iterator[Region]:
        """Share so many bytes with the agent for the length of the block."""
        region = Region(size_bytes)
        place = f"/v2/systemsharedmemory/region/{region.name}"
        wish = {"key": region.key, "offset": 0, "byte_size": size_bytes}
        try:
            self._send("POST", f"{place}/register", (msgspec.json.encode(wish),))
            try:
                yield region
            finally:
                self._send("POST", f"{place}/unregister")
        finally:
            region.remove()

    def _send(
        self,
        method: str,
        path: str,
        parts: Sequence[Part] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        reply = self._wire.exchange(method, path, parts, headers)
        if reply.status < 400:
            return reply
        sentence = _decode(_Error, reply.body).error.rstrip(".")
        raise (NotServing if reply.status >= 500 else RequestRefused)(reply.status, sentence)


def _decode(kind: type[T], data: bytes) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotReachable("that address", f"what answers is no agent ({error})") from error
