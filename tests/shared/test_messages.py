"""Messages: each passes the wire, and what a device may not say is refused."""

from __future__ import annotations

import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import builders
from tests.builders import a_digest, a_telemetry, a_wants, an_ack, an_event, an_order
from tests.shared.altered import altered
from wherry.codec import BadDocument, decode, encode
from wherry.errors import Malformed
from wherry.histogram import BadHistogram
from wherry.measures import Feedback, HostFacts, Traffic
from wherry.messages import (
    LARGEST_DETAIL,
    LARGEST_WANTS,
    Ack,
    DeltaIndex,
    Desired,
    Event,
    Order,
    Presence,
    Reported,
    Telemetry,
    Wants,
    detail,
)
from wherry.reasons import Status

DOCUMENTS: list[msgspec.Struct] = [
    builders.an_order(),
    Desired(order=msgspec.Raw(b"{}"), packet="bm90aGluZw==", sources=("https://near.example",)),
    DeltaIndex(base=a_digest("base"), blob=a_digest("blob"), delta=builders.a_blob()),
    builders.a_reported(),
    builders.an_event(),
    builders.an_ack(),
    builders.a_telemetry(),
    builders.a_presence(),
    builders.a_wants(),
]
FORMATS: dict[type[msgspec.Struct], str] = {
    Order: "wherry.order/2",
    Desired: "wherry.desired/1",
    DeltaIndex: "wherry.delta_index/1",
    Reported: "wherry.reported/1",
    Event: "wherry.event/1",
    Ack: "wherry.ack/1",
    Telemetry: "wherry.telemetry/1",
    Presence: "wherry.presence/1",
    Wants: "wherry.wants/1",
}
FINAL = {"succeeded", "rejected", "failed", "reverted", "timed_out", "superseded", "canceled"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda value: type(value).__name__)
def test_a_document_passes_the_wire_and_says_its_format(document: msgspec.Struct) -> None:
    data = encode(document)
    assert decode(type(document), data) == document
    assert json.loads(data)["format"] == FORMATS[type(document)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda value: type(value).__name__)
def test_no_document_passes_for_another_kind(document: msgspec.Struct) -> None:
    for other in DOCUMENTS:
        if other is not document:
            with pytest.raises(BadDocument):
                decode(type(other), encode(document))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda value: type(value).__name__)
def test_every_document_refuses_what_is_critical_and_unknown(document: msgspec.Struct) -> None:
    strange = msgspec.structs.replace(document, critical=("escrow",))
    with pytest.raises(BadDocument, match="it needs escrow"):
        decode(type(document), encode(strange))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda value: type(value).__name__)
@given(choose=st.data())
def test_a_document_with_any_value_replaced_is_whole_or_malformed(
    document: msgspec.Struct, choose: st.DataObject
) -> None:
    data = choose.draw(altered(document))
    with suppress(Malformed):
        value = decode(type(document), data)
        assert decode(type(document), encode(value)) == value


def test_a_status_is_final_once_nothing_follows_it() -> None:
    assert {status.value for status in Status if status.is_final} == FINAL
    assert {status for status in Status if not status.is_final} == {
        Status.QUEUED,
        Status.IN_PROGRESS,
    }


@given(st.integers(0, 12))
def test_wants_names_one_to_eight_digests(count: int) -> None:
    digests = [a_digest(str(number)) for number in range(count)]
    if 1 <= count <= LARGEST_WANTS == 8:
        assert decode(Wants, encode(a_wants(digests))).digests == tuple(digests)
    else:
        with pytest.raises(ValueError, match="1 to 8 are allowed"):
            a_wants(digests)
        data = json.dumps({"format": "wherry.wants/1", "digests": digests}).encode()
        with pytest.raises(BadDocument, match="1 to 8 are allowed"):
            decode(Wants, data)


@given(st.text(max_size=3 * LARGEST_DETAIL))
def test_a_detail_is_cut_to_its_length_and_says_so(text: str) -> None:
    cut = detail(text)
    assert len(cut) == min(len(text), LARGEST_DETAIL)
    if len(text) <= LARGEST_DETAIL:
        assert cut == text
    else:
        assert cut == text[: LARGEST_DETAIL - 1] + "…"


def test_a_detail_as_long_as_is_allowed_is_left_whole() -> None:
    assert detail("x" * LARGEST_DETAIL) == "x" * LARGEST_DETAIL
    assert detail("x" * (LARGEST_DETAIL + 1)) == "x" * (LARGEST_DETAIL - 1) + "…"


@pytest.mark.parametrize("number", [-1, 1 << 53, 10**30])
def test_a_number_that_no_database_holds_is_refused(number: int) -> None:
    for document in (
        an_ack(number),
        an_event(number),
        an_order(generation=number),
        builders.a_reported(report_seq=number),
        builders.a_reported(generation=number),
        a_telemetry(number),
        a_telemetry(requests=number),
        a_telemetry(errors={"timeout": number}),
        a_telemetry(feedback=Feedback(labelled=number)),
        a_telemetry(feedback=Feedback(right=number)),
        a_telemetry(host=HostFacts(memory_available_bytes=number)),
        msgspec.structs.replace(a_telemetry(), traffic=Traffic(sent_bytes=number)),
        msgspec.structs.replace(a_telemetry(), traffic=Traffic(received_bytes=number)),
    ):
        with pytest.raises(BadDocument):
            decode(type(document), encode(document))


def test_errors_are_of_few_classes_so_that_their_sum_fits_as_well() -> None:
    classes = {f"class_{number}": (1 << 53) - 1 for number in range(64)}
    assert sum(decode(Telemetry, encode(a_telemetry(errors=classes))).errors.values()) < 1 << 63
    with pytest.raises(BadDocument):
        decode(Telemetry, encode(a_telemetry(errors={**classes, "one_more": 1})))


def test_the_largest_number_that_json_holds_exactly_is_taken() -> None:
    assert decode(Ack, encode(an_ack((1 << 53) - 1))) == an_ack((1 << 53) - 1)


def with_(document: msgspec.Struct, **fields: object) -> bytes:
    return json.dumps({**json.loads(encode(document)), **fields}).encode()


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        (an_order(), {"device": "PI 1"}),
        (an_order(), {"aliases": {"not/an/alias": {}}}),
        (an_order(), {"aliases": {"default": {"deployment": "a", "bundle": "short"}}}),
        (an_order(), {"revoked": ["short"]}),
        (an_order(), {"generation": "1"}),
        (an_order(), {"generation": 1.5}),
        (an_order(), {"generation": True}),
        (an_event(), {"store_id": "f" * 31}),
        (an_event(), {"kind": "rumour"}),
        (an_event(), {"reason": "mood"}),
        (an_event(), {"deployment": {"status": "perhaps"}}),
        (builders.a_presence(), {"online": 1}),
        (builders.a_reported(), {"slots": {"default": {"active": ""}}}),
    ],
)
def test_a_value_of_the_wrong_form_is_refused(
    document: msgspec.Struct, fields: dict[str, object]
) -> None:
    with pytest.raises(BadDocument):
        decode(type(document), with_(document, **fields))


def test_a_histogram_that_nobody_recorded_is_refused_within_telemetry() -> None:
    with pytest.raises(BadHistogram):
        decode(Telemetry, with_(a_telemetry(), latency={"buckets": [1], "counts": []}))


def test_what_a_newer_peer_added_is_ignored_at_any_depth() -> None:
    fields = json.loads(encode(an_event()))
    fields["deployment"]["mood"] = "fine"
    assert decode(Event, json.dumps({**fields, "later": [1]}).encode()) == an_event()


def test_an_order_may_want_nothing() -> None:
    assert decode(Order, encode(an_order(aliases={}))).aliases == {}
