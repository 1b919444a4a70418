"""The codec: the same bytes for equal values, and nothing but the document on the way in."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.builders import an_ack, an_order
from wherry.codec import DOCUMENT_LIMIT_BYTES, BadDocument, decode, encode
from wherry.messages import Ack, Order


class Leaf(msgspec.Struct, frozen=True):
    words: dict[str, str]
    share: float = 0.0


class Tree(msgspec.Struct, frozen=True):
    leaves: tuple[Leaf, ...]
    size: int = 0


WORDS = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
TREES = st.builds(
    Tree,
    st.lists(st.builds(Leaf, WORDS, FINITE), max_size=3).map(tuple),
    st.integers(-(2**63), 2**63 - 1),
)


@given(TREES)
def test_what_was_encoded_is_decoded(tree: Tree) -> None:
    assert decode(Tree, encode(tree)) == tree


@given(WORDS)
@example({"b": "1", "a": "2"})
def test_equal_values_give_equal_bytes_whatever_order_they_grew_in(words: dict[str, str]) -> None:
    backwards = dict(reversed(words.items()))
    assert encode(Leaf(words)) == encode(Leaf(backwards))


@given(TREES, st.data())
def test_a_document_cut_anywhere_is_refused(tree: Tree, data: st.DataObject) -> None:
    whole = encode(tree)
    with pytest.raises(BadDocument):
        decode(Tree, whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_an_order_truncated_at_every_byte_is_refused() -> None:
    whole = encode(an_order())
    for length in range(len(whole)):
        with pytest.raises(BadDocument):
            decode(Order, whole[:length])


@given(TREES, st.binary(min_size=1, max_size=4).filter(lambda tail: tail.strip(b" \t\r\n") != b""))
@example(Tree(()), b"{}")
@example(Tree(()), b"\0")
def test_bytes_after_the_document_are_refused(tree: Tree, tail: bytes) -> None:
    with pytest.raises(BadDocument):
        decode(Tree, encode(tree) + tail)


@given(st.binary(max_size=60))
@example(b'"\xed\xa0\x80"')
@example(b'"\xff"')
@example(b'"\\ud800"')
@example(b"\xef\xbb\xbf{}")
@example(b"9" * 5000)
@example('{"leaves":[]}'.encode("utf-16"))
def test_any_bytes_are_a_document_or_refused(data: bytes) -> None:
    for kind in (Tree, str, Ack, msgspec.Raw):
        with suppress(BadDocument):
            decode(kind, data)


def test_half_a_surrogate_pair_in_utf_8_is_refused() -> None:
    with pytest.raises(BadDocument, match="this is no Leaf"):
        decode(Leaf, b'{"words":{"a":"\xed\xa0\x80"}}')


def test_a_document_as_long_as_its_bound_passes_and_one_byte_more_does_not() -> None:
    data = encode(an_ack())
    assert decode(Ack, data, limit_bytes=len(data)) == an_ack()
    with pytest.raises(BadDocument, match=f"{len(data)} bytes and {len(data) - 1} are allowed"):
        decode(Ack, data, limit_bytes=len(data) - 1)


def test_a_document_has_a_bound_even_where_nobody_names_one() -> None:
    with pytest.raises(BadDocument, match="are allowed"):
        decode(Tree, b" " * DOCUMENT_LIMIT_BYTES + encode(Tree(())))


@pytest.mark.parametrize(
    "text",
    [
        '{"leaves":[],"leaves":[]}',
        '{"leaves":[],"size":1,"size":2}',
        '{"leaves":[],"extra":1,"extra":1}',
        '{"leaves":[],"siz\\u0065":1,"size":2}',
        '{"leaves":[{"words":{"a":"1","a":"2"}}]}',
        '{"leaves":[],"unknown":[[{"deep":{"b":1,"b":2}}]]}',
        '[{"a":1,"a":1}]',
    ],
)
@pytest.mark.parametrize("kind", [Tree, msgspec.Raw])
def test_a_key_that_stands_twice_is_refused_at_any_depth(text: str, kind: type) -> None:
    with pytest.raises(BadDocument, match="stands twice"):
        decode(kind, text.encode())


@given(st.integers(0, 20), st.sampled_from(["a", "format", "é"]))
def test_a_repeated_key_is_found_under_any_number_of_objects(depth: int, key: str) -> None:
    inner = f'{{"{key}":1,"{key}":2}}'
    text = '{"x":[' * depth + inner + "]}" * depth
    with pytest.raises(BadDocument, match="stands twice"):
        decode(msgspec.Raw, text.encode())


def test_one_key_in_two_objects_is_no_repetition() -> None:
    data = b'{"leaves":[{"words":{"a":"1"}},{"words":{"a":"2"}}]}'
    assert decode(Tree, data) == Tree((Leaf({"a": "1"}), Leaf({"a": "2"})))


@pytest.mark.parametrize("kind", [Tree, msgspec.Raw])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_refused_and_not_a_crash(kind: type, opening: str, closing: str) -> None:
    data = (opening * 100_000 + "1" + closing * 100_000).encode()
    with pytest.raises(BadDocument):
        decode(kind, data)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_number_that_is_not_finite_is_refused(constant: str) -> None:
    with pytest.raises(BadDocument):
        decode(Leaf, f'{{"words":{{}},"share":{constant}}}'.encode())


@pytest.mark.parametrize(
    "text",
    [
        '{"words":{},"share":"1"}',
        '{"words":{},"share":true}',
        '{"words":[]}',
        '{"words":{"a":1}}',
        '{"share":1}',
        "[]",
        "null",
        "",
    ],
)
def test_a_wrong_type_is_refused(text: str) -> None:
    with pytest.raises(BadDocument):
        decode(Leaf, text.encode())


def changed(**fields: object) -> bytes:
    return json.dumps({**json.loads(encode(an_order())), **fields}).encode()


def test_a_field_that_a_newer_peer_added_is_ignored() -> None:
    assert decode(Order, changed(later={"deep": [1]})) == an_order()


@pytest.mark.parametrize("name", ["wherry.order/1", "wherry.order/3", "wherry.ack/1", "", None, 1])
def test_an_unknown_format_is_refused(name: object) -> None:
    with pytest.raises(BadDocument):
        decode(Order, changed(format=name))


def test_a_missing_format_is_refused() -> None:
    fields = json.loads(encode(an_order()))
    del fields["format"]
    with pytest.raises(BadDocument, match="it does not say its format"):
        decode(Order, json.dumps(fields).encode())


def test_a_critical_field_that_this_release_lacks_is_refused_by_name() -> None:
    with pytest.raises(BadDocument, match="it needs escrow, which this release lacks"):
        decode(Order, changed(critical=["escrow"], escrow=1))


MEET_STRUCTS_AT_ONCE = """\
import sys, threading
import msgspec
from wherry.codec import decode

def meet(kind, together):
    together.wait()
    assert decode(kind, b'{"inner": {"a": 1}}').inner.a == 1

sys.setswitchinterval(1e-6)
for number in range(60):
    inner = msgspec.defstruct("Inner", [(name, int, 0) for name in "abcdefgh"])
    outer = msgspec.defstruct("Outer", [("inner", inner), ("others", list[inner], [])])
    together = threading.Barrier(4)
    threads = [threading.Thread(target=meet, args=(outer, together)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_may_meet_a_struct_at_once() -> None:
    ran = subprocess.run([sys.executable, "-c", MEET_STRUCTS_AT_ONCE], check=False)
    assert ran.returncode == 0, "msgspec has crashed the process"
