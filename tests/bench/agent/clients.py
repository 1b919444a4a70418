"""One client for every server: whole requests made before, sent as they are, answers read whole.

It adds as little as Python can to what is timed, and the same to each server.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Address = Path | int  # A Unix socket, or a port on loopback.

PATIENCE_S = 30.0
INFER = "/v2/models/default/infer"
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


class Refused(Exception):
    """An answer that is none: its status and what it says."""

    def __init__(self, status: int, said: bytes) -> None:
        super().__init__(status, said[:200])
        self.status = status


def binary_request(rows: Floats) -> bytes:
    """Return a request of the Open Inference Protocol with binary tensors in and out."""
    described: dict[str, object] = {
        "id": "1",
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": rows.shape,
                "parameters": {"binary_data_size": rows.nbytes},
            }
        ],
        "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
    }
    head = msgspec.json.encode(described)
    length = f"inference-header-content-length: {len(head)}\r\n"
    return _post(INFER, head + rows.tobytes(), "application/octet-stream", length)


def json_request(rows: Floats) -> bytes:
    """Return a request of the Open Inference Protocol in JSON."""
    values = rows.ravel().tolist()
    sent = {"name": "x", "datatype": "FP32", "shape": rows.shape, "data": values}
    return _post(INFER, msgspec.json.encode({"id": "1", "inputs": [sent]}), "application/json")


def bento_request(rows: Floats) -> bytes:
    """Return the same rows as BentoML's JSON has them."""
    return _post("/infer", msgspec.json.encode({"x": rows.tolist()}), "application/json")


def _post(path: str, body: bytes, kind: str, more: str = "") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {kind}\r\n{more}"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Wire:
    """One kept connection."""

    def __init__(self, address: Address) -> None:
        if isinstance(address, Path):
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(PATIENCE_S)
            self._socket.connect(str(address))
        else:
            self._socket = socket.create_connection(("127.0.0.1", address), PATIENCE_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 20)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: bytes) -> bytes:
        """Return the body of the answer; raise `Refused` for any status but 200, or OSError."""
        self._socket.sendall(request)
        got, view = 0, memoryview(self._buffer)
        while True:
            received = self._socket.recv_into(view[got:])
            if not received:
                raise ConnectionResetError("the server closed the connection")
            got += received
            end = self._buffer.find(_HEAD_END, 0, got)
            if end >= 0:
                break
        head = bytes(view[:end]).lower()
        start, place = end + len(_HEAD_END), head.find(_LENGTH)
        if place < 0:
            body = self._chunks(bytes(view[start:got]))
        else:
            length = int(head[place + len(_LENGTH) :].split(b"\r\n", 1)[0])
            body = self._rest(bytes(view[start:got]), length)
        status = int(head[9:12])
        if status != 200:
            raise Refused(status, body)
        return body

    def timed(self, request: bytes) -> int:
        """Return how many nanoseconds an answer took."""
        began = time.perf_counter_ns()
        self.ask(request)
        return time.perf_counter_ns() - began

    def _rest(self, body: bytes, length: int) -> bytes:
        while len(body) < length:
            body += self._more()
        return body

    def _chunks(self, body: bytes) -> bytes:
        while not body.endswith(b"0\r\n\r\n"):
            body += self._more()
        return body

    def _more(self) -> bytes:
        more = self._socket.recv(1 << 20)
        if not more:
            raise ConnectionResetError("the server closed the connection")
        return more


def answers(address: Address, request: bytes) -> bool:
    """Say whether a server gives an answer to a request."""
    try:
        with Wire(address) as wire:
            wire.ask(request)
    except (OSError, Refused):
        return False
    return True
