"""Raw tensors after JSON fit their sizes to the byte, or the request is refused with a sentence."""

from __future__ import annotations

import json

import pytest

from tests.agent.bundles import a_bundle
from wherry.errors import Malformed
from wherry.names import AliasName
from wherry.signature import Datatype, Signature, StatePair
from wherry.signature import Tensor as Wanted
from wherry_agent.frames import Tensor
from wherry_agent.serving import binary, v2

BUNDLE = a_bundle()
SIGNATURE = BUNDLE.manifest.signature
IMAGE: dict[str, object] = {"name": "image", "datatype": "FP32", "shape": [1, 2, 2]}
BINARY = {"parameters": {"binary_data_size": 16}}
REGION = {
    "parameters": {
        "shared_memory_region": "r",
        "shared_memory_byte_size": 16,
        "shared_memory_offset": 8,
    }
}
RAW = bytes(range(16))


def decode(
    document: object, raw: bytes = b"", *, signature: Signature = SIGNATURE, key: str | None = None
) -> v2.Asked:
    head = json.dumps(document).encode()
    return v2.decode_infer(
        head + raw,
        signature,
        json_bytes=str(len(head)) if raw else None,
        read=lambda part: f"{part.region}@{part.offset}".encode().ljust(part.size_bytes),
        key=key,
    )


def a_request(*inputs: dict[str, object], **rest: object) -> dict[str, object]:
    return {"inputs": list(inputs), **rest}


def test_raw_bytes_are_the_tensor_and_are_not_copied() -> None:
    asked = decode(a_request({**IMAGE, **BINARY}), RAW)
    (tensor,) = asked.inputs
    assert (bytes(tensor.data), tensor.shape) == (RAW, (1, 2, 2))
    assert isinstance(tensor.data, memoryview)


def test_a_part_of_shared_memory_is_the_tensor() -> None:
    (tensor,) = decode(a_request({**IMAGE, **REGION})).inputs
    assert bytes(tensor.data) == b"r@8".ljust(16)


def test_no_more_is_read_from_shared_memory_than_a_body_may_have() -> None:
    head = json.dumps(a_request({**IMAGE, **REGION})).encode()
    read: list[v2.Part] = []

    def note(part: v2.Part) -> bytes:
        read.append(part)
        return RAW

    def ask(largest_bytes: int) -> v2.Asked:
        return v2.decode_infer(
            head, SIGNATURE, json_bytes=None, read=note, largest_bytes=largest_bytes
        )

    with pytest.raises(v2.BadRequest, match="send at most 15 in a request"):
        ask(15)
    assert not read
    assert bytes(ask(16).inputs[0].data) == RAW


def test_each_tensor_takes_its_bytes_in_the_order_in_which_it_is_named() -> None:
    rest = binary.Rest(memoryview(b"aabbb"))
    assert (bytes(rest.take("x", 2)), bytes(rest.take("y", 3))) == (b"aa", b"bbb")
    rest.finish()


@pytest.mark.parametrize(
    ("document", "raw", "sentence"),
    [
        (a_request({**IMAGE, **BINARY}), RAW[:-1], "end after 15 bytes"),
        (a_request({**IMAGE, **BINARY}), RAW + b"x", "1 bytes follow the tensors"),
        (a_request({**IMAGE, "data": [0.5] * 4}), b"x", "1 bytes follow the tensors"),
        (a_request({**IMAGE, **BINARY}), b"", "end after 0 bytes"),
        (
            a_request({**IMAGE, "parameters": {"binary_data_size": 12}}),
            RAW,
            "send 16 for the shape",
        ),
        (a_request({**IMAGE, "parameters": {"binary_data_size": -1}}), RAW, "no inference request"),
        (a_request({**IMAGE, **BINARY, "shape": [1 << 40, 2, 2]}), RAW, "with 16 bytes; send"),
        (a_request({**IMAGE, **BINARY, "data": [0.5] * 4}), RAW, "came in 2 ways"),
        (a_request(IMAGE), b"", "came in 0 ways"),
        (
            a_request({**IMAGE, "parameters": {**REGION["parameters"], "binary_data_size": 16}}),
            RAW,
            "came in 2 ways",
        ),
        (
            a_request({**IMAGE, "parameters": {"shared_memory_region": "r"}}),
            b"",
            "came with 0 bytes",
        ),
        (
            a_request(
                {**IMAGE, "data": [0.5] * 4},
                outputs=[{"name": "logits", "parameters": {"classification": 3}}],
            ),
            b"",
            "take the largest",
        ),
    ],
)
def test_bytes_that_do_not_fit_are_refused(document: object, raw: bytes, sentence: str) -> None:
    with pytest.raises(Malformed, match=sentence):
        decode(document, raw)


@pytest.mark.parametrize(
    "length", ["", "0", "-1", "99999", "1e3", "٣", "9" * 30, "9" * 5000, "+5", "5, 5"]
)
def test_a_length_that_is_none_is_refused(length: str) -> None:
    with pytest.raises(Malformed, match="give the bytes of its JSON"):
        binary.split(b'{"inputs":[]}', length)


def two(state: Wanted) -> Signature:
    return Signature(
        inputs=(*SIGNATURE.inputs, state),
        outputs=SIGNATURE.outputs,
        states=(StatePair("logits", state.name),),
    )


def test_a_state_that_was_left_out_is_zeros_of_the_batch_length() -> None:
    signature = two(Wanted("h", Datatype.INT64, ("batch", 3)))
    image = {**IMAGE, "shape": [2, 2, 2], "data": [0.5] * 8}
    _, state = decode(a_request(image), signature=signature).inputs
    assert (state.name, state.shape, state.data) == ("h", (2, 3), bytes(2 * 3 * 8))


def test_a_state_of_a_length_that_varies_cannot_be_left_out() -> None:
    signature = two(Wanted("h", Datatype.FP32, ("batch", "time")))
    with pytest.raises(Malformed, match="begin with zeros of the length that you want"):
        decode(a_request({**IMAGE, "data": [0.5] * 4}), signature=signature)


def test_inputs_of_different_batch_lengths_are_refused() -> None:
    signature = two(Wanted("h", Datatype.FP32, ("batch", 1)))
    state: dict[str, object] = {"name": "h", "datatype": "FP32", "shape": [2, 1], "data": [0, 0]}
    with pytest.raises(Malformed, match="send as many rows of each"):
        decode(a_request({**IMAGE, "data": [0.5] * 4}, state), signature=signature)


def test_only_zeros_and_ones_are_truths() -> None:
    signature = Signature(
        inputs=(Wanted("on", Datatype.BOOL, ("batch", 2)),),
        outputs=SIGNATURE.outputs,
    )
    sent: dict[str, object] = {
        "name": "on",
        "datatype": "BOOL",
        "shape": [1, 2],
        "parameters": {"binary_data_size": 2},
    }
    assert bytes(decode(a_request(sent), b"\0\1", signature=signature).inputs[0].data) == b"\0\1"
    with pytest.raises(Malformed, match="no BOOL"):
        decode(a_request(sent), b"\1\2", signature=signature)


@pytest.mark.parametrize(
    ("asked", "is_binary"),
    [
        ({}, False),
        ({"parameters": {"binary_data_output": True}}, True),
        ({"outputs": [{"name": "logits"}]}, False),
        ({"outputs": [{"name": "logits"}], "parameters": {"binary_data_output": True}}, True),
        ({"outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}, True),
        (
            {
                "outputs": [{"name": "logits", "parameters": {"binary_data": False}}],
                "parameters": {"binary_data_output": True},
            },
            False,
        ),
    ],
)
def test_an_output_leaves_as_it_was_asked_for(asked: dict[str, object], is_binary: bool) -> None:
    request = decode(a_request({**IMAGE, "data": [0.5] * 4}, id="r", **asked))
    logits = memoryview(b"\0\0\0\0\0\0\x80?")
    tensor = Tensor("logits", Datatype.FP32, (1, 2), logits)
    response = v2.encode_answer(
        AliasName("default"), BUNDLE.digest, request, (tensor,), {"state_of": "x"}
    )
    told = json.loads(response.body)
    assert told["parameters"] == {"state_of": "x"}
    (output,) = told["outputs"]
    if is_binary:
        assert response.tensors == (logits,)
        assert (output["parameters"], "data" in output) == ({"binary_data_size": 8}, False)
    else:
        assert (response.tensors, output["data"]) == ((), [0.0, 1.0])


@pytest.mark.parametrize(
    ("rest", "header", "key"),
    [
        ({"id": "r"}, None, "r"),
        ({"id": "r"}, "camera-1", "camera-1"),
        ({"id": "r", "parameters": {"key": "belt"}}, "camera-1", "belt"),
        ({"id": "r", "parameters": {"key": 7}}, None, "7"),
    ],
)
def test_what_belongs_together_has_one_key(
    rest: dict[str, object], header: str | None, key: str
) -> None:
    assert decode(a_request({**IMAGE, "data": [0.5] * 4}, **rest), key=header).key == key


def test_parameters_that_nobody_knows_are_left_alone() -> None:
    unknown = {"sequence_id": 1, "priority": {"deep": []}, "content_type": "np"}
    document = a_request(
        {**IMAGE, "data": [0.5] * 4, "parameters": unknown}, parameters=unknown, model_name="x"
    )
    assert decode(document).state_of is None


def test_the_json_stays_as_it_was_read_and_the_tensors_are_not_copied() -> None:
    body = bytearray(b'{"a":1}rest')
    head, rest = binary.split(body, "7")
    body[:] = b"-----------"
    assert bytes(head) == b'{"a":1}'
    assert bytes(rest.data) == b"----"
