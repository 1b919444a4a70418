"""The client's errors say what to do, and its connection heals."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from wherry_agent.client import (
    Client,
    Input,
    NoTensor,
    NotReachable,
    Placed,
    Region,
    Room,
    decode_answer,
    encode_binary,
    encode_request,
    tensor,
)

READY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@contextmanager
def a_server(path: Path, responses: list[bytes]) -> Iterator[None]:
    """Answer one request on each connection, then close it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def answer() -> None:
        for response in responses:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(response)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)
        listener.close()


def test_an_agent_that_is_not_there_is_said_with_its_address(tmp_path: Path) -> None:
    path = tmp_path / "none.sock"
    with Client(path) as client, pytest.raises(NotReachable, match=f"no agent answers at {path}"):
        client.is_ready("default")


def test_a_connection_that_the_agent_closed_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with a_server(path, [READY, READY]), Client(path) as client:
        assert [client.is_ready("default") for _ in range(2)] == [True, True]


@pytest.mark.parametrize(
    "response",
    [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nnonsens"],
    ids=["nothing", "no http", "no json"],
)
def test_what_answers_and_is_no_agent_is_said_to_be_none(tmp_path: Path, response: bytes) -> None:
    path = tmp_path / "api.sock"
    with a_server(path, [response]), Client(path) as client, pytest.raises(NotReachable):
        client.metadata("default")


# Tensors


@pytest.mark.parametrize(
    ("dtype", "datatype"),
    [
        ("?", "BOOL"),
        ("u1", "UINT8"),
        ("i1", "INT8"),
        ("<i4", "INT32"),
        ("<i8", "INT64"),
        ("<f2", "FP16"),
        ("<f4", "FP32"),
        ("<f8", "FP64"),
    ],
)
def test_an_array_is_sent_as_its_bytes_and_its_numbers_come_back(dtype: str, datatype: str) -> None:
    values = np.array([[0, 1, 1], [1, 0, 1]], dtype)
    sent = tensor(values.data)
    assert (sent.datatype, sent.shape) == (datatype, (2, 3))
    parts, headers = encode_binary({"x": sent}, "a request")
    head, raw = parts
    assert headers["inference-header-content-length"] == str(len(head))
    assert bytes(raw) == values.tobytes()
    assert json.loads(bytes(head)) == {
        "id": "a request",
        "inputs": [
            {
                "name": "x",
                "datatype": datatype,
                "shape": [2, 3],
                "parameters": {"binary_data_size": values.nbytes},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
    came = a_reply({"name": "y", "datatype": datatype, "shape": [2, 3]}, values.tobytes())
    assert list(decode_answer(*came).values("y")) == values.ravel().tolist()


def test_what_is_no_tensor_is_refused_with_what_to_give() -> None:
    with pytest.raises(NoTensor, match="give a contiguous array of numbers"):
        tensor(np.zeros((4, 4), np.float32)[:, ::2].data)
    with pytest.raises(NoTensor, match="its format is 'Zf'"):
        tensor(np.zeros(2, np.complex64).data)


def test_numbers_and_bytes_go_together_and_keep_their_order() -> None:
    inputs = {
        "a": Input("INT8", (2,), b"\x01\x02"),
        "b": Input("INT32", (1,), [7]),
        "c": Input("UINT8", (1,), memoryview(b"\x03")),
    }
    (head, *tails), _ = encode_binary(inputs)
    assert [bytes(part) for part in tails] == [b"\x01\x02", b"\x03"]
    assert [sent.get("data") for sent in json.loads(bytes(head))["inputs"]] == [None, [7], None]


def test_an_answer_that_ends_too_early_is_none() -> None:
    body, head_bytes = a_reply({"name": "y", "datatype": "FP32", "shape": [2]}, bytes(8))
    with pytest.raises(NotReachable, match="'y' ends too early"):
        decode_answer(body[:-1], head_bytes)


def test_a_region_is_there_for_its_block_and_holds_what_fits() -> None:
    region = Region(8)
    path = Path("/dev/shm") / region.name
    region.write(b"abcd", 4)
    assert (path.read_bytes(), region.read(2, 5)) == (b"\0\0\0\0abcd", b"bc")
    with pytest.raises(ValueError, match="5 bytes at 4 do not fit 8"):
        region.write(bytes(5), 4)
    region.remove()
    assert not path.exists()


def test_tensors_in_a_region_and_room_for_outputs_are_named_in_the_request() -> None:
    placed, room = Placed("FP32", (2, 3), "wherry-1", 64), Room("wherry-1", 24)
    assert json.loads(encode_request({"x": placed}, outputs={"y": room})) == {
        "inputs": [
            {
                "name": "x",
                "datatype": "FP32",
                "shape": [2, 3],
                "parameters": {
                    "shared_memory_region": "wherry-1",
                    "shared_memory_byte_size": 24,
                    "shared_memory_offset": 64,
                },
            }
        ],
        "outputs": [
            {
                "name": "y",
                "parameters": {
                    "shared_memory_region": "wherry-1",
                    "shared_memory_byte_size": 24,
                },
            }
        ],
    }


def a_reply(output: dict[str, object], raw: bytes) -> tuple[bytes, int]:
    """Return the body of a binary answer with one output, and the length of its JSON."""
    described = {**output, "parameters": {"binary_data_size": len(raw)}}
    head = json.dumps({"id": "1", "model_version": "v", "outputs": [described]}).encode()
    return head + raw, len(head)
