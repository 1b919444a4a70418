"""Inference requests in JSON fit the signature or are refused with a sentence."""

from __future__ import annotations

import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.agent.bundles import a_bundle
from wherry.errors import Malformed
from wherry.names import AliasName
from wherry.signature import BATCH, SIZE_BYTES, Datatype
from wherry.signature import Tensor as SignedTensor
from wherry_agent.frames import Tensor
from wherry_agent.serving import numbers, v2
from wherry_agent.serving.regions import UnknownRegion

BUNDLE = a_bundle()
SIGNATURE = BUNDLE.manifest.signature
GOOD: dict[str, object] = {
    "name": "image",
    "datatype": "FP32",
    "shape": [1, 2, 2],
    "data": [0.5] * 4,
}

NUMBERS: dict[Datatype, st.SearchStrategy[object]] = {
    Datatype.BOOL: st.booleans(),
    Datatype.UINT8: st.integers(0, 255),
    Datatype.INT8: st.integers(-128, 127),
    Datatype.INT32: st.integers(-(2**31), 2**31 - 1),
    Datatype.INT64: st.integers(-(2**63), 2**63 - 1),
    Datatype.FP16: st.floats(width=16, allow_nan=False, allow_infinity=False),
    Datatype.FP32: st.floats(width=32, allow_nan=False, allow_infinity=False),
    Datatype.FP64: st.floats(allow_nan=False, allow_infinity=False),
}


def a_body(**changes: object) -> bytes:
    return json.dumps({"inputs": [{**GOOD, **changes}]}).encode()


def read_nothing(part: v2.Part) -> bytes:
    raise UnknownRegion(part.region)


def decode(body: bytes, json_bytes: str | None = None, key: str | None = None) -> v2.Asked:
    return v2.decode_infer(body, SIGNATURE, json_bytes=json_bytes, read=read_nothing, key=key)


@pytest.mark.parametrize("datatype", list(Datatype))
@pytest.mark.parametrize("form", ["flat", "nested"])
@given(data=st.data())
def test_values_of_every_type_come_out_as_they_went_in(
    datatype: Datatype, form: str, data: st.DataObject
) -> None:
    row = st.lists(NUMBERS[datatype], min_size=2, max_size=2)
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    flat = [value for values in rows for value in values]
    shape = (len(rows), 2)
    sent = json.dumps(flat if form == "flat" else rows).encode()
    packed = numbers.pack(numbers.decode_numbers(sent, datatype, shape), datatype)
    assert len(packed) == len(flat) * SIZE_BYTES[datatype]
    assert numbers.numbers_of(Tensor("x", datatype, shape, packed)) == flat


@pytest.mark.parametrize(
    "datatypes", [(Datatype.FP32,), (Datatype.INT64,), (Datatype.BOOL,), tuple(Datatype)]
)
@pytest.mark.parametrize("form", ["flat", "nested"])
def test_inputs_of_one_type_and_of_many_come_flat_or_nested(
    datatypes: tuple[Datatype, ...], form: str
) -> None:
    rows = {each: [[1, 0]] if each is not Datatype.BOOL else [[True, False]] for each in datatypes}
    wanted = tuple(SignedTensor(each, each, (BATCH, 2)) for each in datatypes)
    inputs = [
        {
            "name": each,
            "datatype": each,
            "shape": [1, 2],
            "data": sent[0] if form == "flat" else sent,
        }
        for each, sent in rows.items()
    ]
    asked = v2.decode_infer(
        json.dumps({"inputs": inputs}).encode(),
        replace(SIGNATURE, inputs=wanted),
        json_bytes=None,
        read=read_nothing,
    )
    assert [numbers.numbers_of(tensor) for tensor in asked.inputs] == [[1, 0]] * len(datatypes)
    assert [tensor.datatype for tensor in asked.inputs] == list(datatypes)


def test_a_request_without_an_id_gets_one() -> None:
    first, second = (decode(a_body()) for _ in range(2))
    assert first.request != second.request
    assert first.inputs == second.inputs


def test_an_answer_holds_the_outputs_that_were_asked_for() -> None:
    body = json.dumps({"id": "r-1", "inputs": [GOOD], "outputs": []}).encode()
    asked = decode(body)
    logits = Tensor("logits", Datatype.FP32, (1, 1), bytes(4))
    answer = v2.encode_answer(AliasName("default"), BUNDLE.digest, asked, (logits,), {})
    assert json.loads(answer.body) == {
        "model_name": "default",
        "model_version": BUNDLE.digest,
        "id": "r-1",
        "outputs": [],
    }


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "no inference request"),
        (b"[]", "no inference request"),
        (b"\xff", "no inference request"),
        (b'{"inputs":' + b"[" * 100_000, "no inference request"),
        (b'{"inputs":[]}', "send image"),
        (json.dumps({"inputs": [GOOD, GOOD]}).encode(), "send image"),
        (json.dumps({"inputs": [GOOD], "id": "x" * 256}).encode(), "its id has 256"),
        (json.dumps({"inputs": [GOOD], "outputs": [{"name": "y"}]}).encode(), "no output 'y'"),
        (a_body(name="other"), "send image"),
        (a_body(datatype="FP64"), "came as FP64; send it as FP32"),
        (a_body(shape=[1, 4]), "send it as"),
        (a_body(shape=[0, 2, 2], data=[]), "at least one row"),
        (a_body(shape=[1, -2, -2]), "at least one row"),
        (a_body(shape=[17, 2, 2], data=[0.0] * 68), "at most 16 rows"),
        (a_body(data=[0.5] * 3), "came with 3 values"),
        (a_body(data=[[[0.5, 0.5]]]), "not nested as"),
        (a_body(data=[[0.5] * 4]), "not nested as"),
        (a_body(data=["a"] * 4), "are not FP32"),
        (a_body(data="abcd"), "are not FP32"),
        (a_body(data=None), "are not FP32"),
        (
            b'{"inputs":[{"name":"image","datatype":"FP32","shape":[1,2,2],"data":[NaN]}]}',
            "no infer",
        ),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_the_next_step(
    body: bytes, sentence: str
) -> None:
    with pytest.raises(Malformed, match=sentence):
        decode(body)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        (Datatype.UINT8, b"[256]"),
        (Datatype.INT8, b"[1.5]"),
        (Datatype.FP16, b"[1e30]"),
        (Datatype.FP32, b"[1e39]"),
    ],
)
def test_a_number_that_its_type_cannot_hold_is_refused(datatype: Datatype, data: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, OverflowError)):
        numbers.pack(numbers.decode_numbers(data, datatype, (1,)), datatype)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda s: st.lists(s), max_leaves=20))
def test_any_data_are_taken_or_refused(data: object) -> None:
    with suppress(Malformed):
        decode(a_body(data=data))


def test_the_class_is_where_the_last_axis_is_largest() -> None:
    tensor = Tensor("logits", Datatype.FP32, (2, 3), b"")
    assert numbers.classes_of(tensor, [1.0, 3.0, 2.0, 5.0, 5.0, -1.0]) == (1, 0)
