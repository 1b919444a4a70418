"""A packet gives back what went in, to the byte, and nothing else is one."""

from __future__ import annotations

import base64
import hashlib

import msgspec
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from tests.builders import a_bundle_of, a_digest
from tests.laws import tried
from tests.trusted import a_repository
from wherry.blobs import digest_of
from wherry.reasons import Reason
from wherry.trust import packet
from wherry.trust.condense import Condensed, condense, longest, restore
from wherry.trust.packet import pack, unpack
from wherry.trust.refusals import MetadataRefused
from wherry.trust.repository import pieces_for
from wherry.trust.skeleton import SKELETON

BUNDLE = a_bundle_of()
PIECES = pieces_for(a_repository([BUNDLE]), [BUNDLE.digest])
# What condensing looks for, and what comes close to it.
PUNCTUATION = [":", ",", "}", '"', "{", " ", "\n", "f", "é", "☃", "\\u0001"]
NUMBERS = ["0", "7", "007", "9" * 15, "9" * 16, "-1", "1.5", "1e9"]
HEX = [a_digest("a"), a_digest("b"), a_digest("a") + a_digest("b")]
WORDS = st.sampled_from([*PUNCTUATION, *NUMBERS, *HEX])
TEXTS = st.lists(WORDS, max_size=60).map("".join)
NAMES = st.sampled_from(["root/1", "root/12", "snapshot/9999999999", "targets/3", "bins-0f/4"])


# A packet as the first release with packets wrote it: one bin with one bundle.
KEPT = (
    "la93aGVycnkucGFja2V0LzGRqmJpbnMtMGYvMTLEpyi1L/0k/tUEAAIIGhtgS3XEboRoEl5f1l7DmYuiYLyt8gMi"
    "APAz/hcKJrbrZjngekNhcFSrPuoCBlzxJIu2z659NycE2C1O2nOcGF2/FjVFvreqoTTYUXF86vXrJEygZYjlyPXm"
    "x/WI5S4+D/reF+FhifszEgABy4GMldnSIXQLU8cGATuGEqfIsAKFTmBLyxaURUVfYMNegL1BwxovYvBgOgE9+QwL"
    "kwfNIygMxIDKl4ESyhu9yvrCMbOaI9xNp4bv+BR8TnK5gHeFr+5Iu8qXgRLKG73K+sIxs5oj3E2nhu/4FHxOcrmA"
    "d4Wv7ki7ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs+I+gWADlZSjOJT2Vk4bE0i716AIjULErLc+6u"
    "1ZwAnQ=="
)


def refusal(text: str) -> Reason:
    with pytest.raises(MetadataRefused) as refused:
        unpack(text)
    return refused.value.reason


def a_packet(
    frame: bytes,
    *,
    names: tuple[str, ...] = ("root/1",),
    numbers: tuple[object, ...] = (),
    digests: bytes = b"",
    tag: str = "wherry.packet/1",
) -> str:
    fields = (tag, names, frame, numbers, digests)
    return base64.b64encode(msgspec.msgpack.encode(fields)).decode()


def a_frame(text: str) -> bytes:
    return zstandard.ZstdCompressor().compress(text.encode())


@tried
@given(st.dictionaries(NAMES, TEXTS.map(str.encode), max_size=4))
@example({})
@example(PIECES)
def test_pieces_come_out_as_they_went_in(pieces: dict[str, bytes]) -> None:
    assert unpack(pack(pieces)) == pieces


def test_equal_pieces_give_equal_packets_in_any_order() -> None:
    assert pack(PIECES) == pack(dict(reversed(PIECES.items())))


@tried
@given(TEXTS)
@example(f'"{a_digest()}":{{"sha256":"{a_digest()}"}},"length":12}}')
def test_what_is_condensed_is_restored_to_the_letter(text: str) -> None:
    condensed = condense(text)
    assert restore(condensed) == text
    assert longest(condensed.text) >= len(text)


def test_a_digest_that_comes_again_costs_nothing() -> None:
    one, other = a_digest("a"), a_digest("b")
    condensed = condense(f"{one} {one} {other} {one} {other}")
    assert condensed.text == "\x01 \x03 \x01 \x04 \x03"
    assert (condensed.numbers, len(condensed.digests)) == ((0,), 64)


@pytest.mark.parametrize("mark", ["\x01", "\x02", "\x03", "\x04", "\x05"])
def test_a_text_with_marks_of_its_own_is_no_metadata(mark: str) -> None:
    with pytest.raises(ValueError, match="control characters"):
        pack({"root/1": f'"{mark}"'.encode()})


@pytest.mark.parametrize(
    "condensed",
    [
        Condensed("\x05", (), b""),
        Condensed("\x04", (), b""),
        Condensed("\x04", (0,), b""),
        Condensed("\x03", (), b""),
        Condensed("\x01", (), b"short"),
        Condensed("\x02", (), bytes(32)),
        Condensed("", (1,), b""),
        Condensed("", (), bytes(32)),
        Condensed("\x01\x04", (1,), bytes(32)),
    ],
)
def test_marks_that_stand_for_nothing_are_refused(condensed: Condensed) -> None:
    with pytest.raises(ValueError, match="marks"):
        restore(condensed)


@pytest.mark.parametrize(
    "text",
    [
        "not base64!",
        "AAAA",
        base64.b64encode(b"\x90").decode(),
        a_packet(b"no frame"),
        a_packet(a_frame("{}"), tag="wherry.packet/2"),
        a_packet(a_frame("{}"), names=()),
        a_packet(a_frame("{}"), names=("root/1", "root/2")),
        a_packet(a_frame("{}\0{}"), names=("root/1", "root/1")),
        a_packet(a_frame("{}"), names=("root/0",)),
        a_packet(a_frame("{}"), names=("../root/1",)),
        a_packet(a_frame("{}"), names=("root",)),
        a_packet(a_frame("{}") + b"more"),
        a_packet(a_frame("{}") * 2),
        a_packet(zstandard.ZstdCompressor().compress(b"\xff\xfe")),
        a_packet(a_frame("\x04"), numbers=(-1,), digests=b""),
        a_packet(a_frame("\x01\x04"), numbers=(-1,), digests=bytes(32)),
        pack(PIECES) + "A",
        pack(PIECES) + "AAAA",
        pack(PIECES)[:40] + "\n" + pack(PIECES)[40:],
    ],
)
def test_what_is_no_packet_is_malformed(text: str) -> None:
    assert refusal(text) is Reason.MALFORMED_PACKET


def test_each_bound_of_length_holds_by_itself() -> None:
    most = packet.LARGEST_PACKET_BYTES
    assert unpack(a_packet(a_frame(" " * most))) == {"root/1": b" " * most}
    assert refusal(a_packet(a_frame(" " * (most + 1)))) is Reason.OVERSIZED_PACKET
    endless = bytes.fromhex("28b52ffde0") + (1 << 40).to_bytes(8, "little")
    assert zstandard.frame_content_size(endless) == 1 << 40
    assert refusal(a_packet(endless)) is Reason.OVERSIZED_PACKET
    assert refusal(a_packet(a_frame("\x03" * (most // 100)))) is Reason.OVERSIZED_PACKET
    assert refusal("A" * packet.LARGEST_TEXT_BYTES) is Reason.MALFORMED_PACKET
    assert refusal("A" * (packet.LARGEST_TEXT_BYTES + 1)) is Reason.OVERSIZED_PACKET


def test_the_dictionary_is_part_of_the_format() -> None:
    digest = hashlib.sha256(SKELETON.encode()).hexdigest()
    assert digest == "31657ad8a6712201b4494da21adaf153d8717b21729326c1c8f853d696de4e57"


def test_a_packet_of_the_first_release_with_packets_is_read_as_it_was_meant() -> None:
    ((name, data),) = unpack(KEPT).items()
    assert name == "bins-0f/12"
    assert digest_of(data) == "2a14a598098c4316d24f7ba297557350c95f5b67af51ef2615226e825bf2eef5"
    assert data.startswith(b'{"signatures":[{"keyid":"ca978112ca1bbdca')
