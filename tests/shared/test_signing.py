"""Signed documents: bytes in, trust or an error out."""

from __future__ import annotations

import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import a_key, an_order
from wherry.codec import BadDocument, decode, encode
from wherry.messages import Order
from wherry.signing import (
    BadKey,
    NotSignedByTrusted,
    key_id,
    keyring,
    open_envelope,
    parse_private_pem,
    parse_public_pem,
    private_pem,
    public_pem,
    sign,
)

KEY, OTHER = a_key(1), a_key(2)
TRUSTED = keyring(KEY.public_key())
SIGNED = encode(an_order())
ENVELOPE = sign(an_order(), KEY)


def an_envelope(signed: bytes, *signatures: tuple[str, str]) -> bytes:
    rows = [{"keyid": keyid, "sig": sig} for keyid, sig in signatures]
    return b'{"signed":' + signed + b',"signatures":' + json.dumps(rows).encode() + b"}"


def flipped(data: bytes, bit: int) -> bytes:
    at, shift = divmod(bit, 8)
    return data[:at] + bytes([data[at] ^ (1 << shift)]) + data[at + 1 :]


def signature_of(signed: bytes) -> tuple[str, str]:
    return key_id(KEY.public_key()), KEY.sign(signed).hex()


def test_what_a_trusted_key_signed_comes_out_as_it_was_signed() -> None:
    assert open_envelope(ENVELOPE, TRUSTED) == SIGNED
    assert decode(Order, open_envelope(ENVELOPE, TRUSTED)) == an_order()


def test_an_envelope_is_json_that_a_person_can_read() -> None:
    fields = json.loads(ENVELOPE)
    assert fields["signed"]["device"] == "pi-1"
    assert fields["signatures"][0]["keyid"] == key_id(KEY.public_key())


def test_signing_twice_gives_the_same_bytes() -> None:
    assert sign(an_order(), KEY) == ENVELOPE


def test_every_flipped_bit_of_what_was_signed_is_refused() -> None:
    refused = 0
    for bit in range(len(SIGNED) * 8):
        envelope = an_envelope(flipped(SIGNED, bit), signature_of(SIGNED))
        with pytest.raises((NotSignedByTrusted, BadDocument)) as refusal:
            open_envelope(envelope, TRUSTED)
        refused += refusal.type is NotSignedByTrusted
    assert refused > len(SIGNED) * 4  # The rest is no JSON any more.


def test_every_flipped_bit_of_a_signature_is_untrusted() -> None:
    keyid, sig = signature_of(SIGNED)
    for bit in range(64 * 8):
        envelope = an_envelope(SIGNED, (keyid, flipped(bytes.fromhex(sig), bit).hex()))
        with pytest.raises(NotSignedByTrusted):
            open_envelope(envelope, TRUSTED)


@given(st.integers(0, len(ENVELOPE) - 1), st.binary(min_size=1, max_size=1))
def test_an_envelope_with_another_byte_is_the_same_document_or_refused(
    at: int, byte: bytes
) -> None:
    altered = ENVELOPE[:at] + byte + ENVELOPE[at + 1 :]
    try:
        assert open_envelope(altered, TRUSTED) == SIGNED
    except (NotSignedByTrusted, BadDocument):
        assert altered != ENVELOPE


@given(st.integers(0, len(ENVELOPE) - 1))
def test_an_envelope_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(BadDocument):
        open_envelope(ENVELOPE[:length], TRUSTED)


@pytest.mark.parametrize("sig", ["", "zz" * 64, "00" * 64, "00" * 63, "é", "0"])
def test_what_is_no_signature_is_untrusted(sig: str) -> None:
    with pytest.raises(NotSignedByTrusted):
        open_envelope(an_envelope(SIGNED, (key_id(KEY.public_key()), sig)), TRUSTED)


def test_a_signature_by_another_key_is_untrusted_and_the_refusal_names_both() -> None:
    with pytest.raises(NotSignedByTrusted) as refused:
        open_envelope(sign(an_order(), OTHER), TRUSTED)
    assert refused.value.claimed == (key_id(OTHER.public_key()),)
    assert refused.value.trusted == (key_id(KEY.public_key()),)
    assert key_id(OTHER.public_key())[:12] in str(refused.value)
    assert key_id(KEY.public_key())[:12] in str(refused.value)


def test_another_key_under_the_name_of_a_trusted_one_is_untrusted() -> None:
    forged = an_envelope(SIGNED, (key_id(KEY.public_key()), OTHER.sign(SIGNED).hex()))
    with pytest.raises(NotSignedByTrusted):
        open_envelope(forged, TRUSTED)


def test_a_trusted_signature_under_the_name_of_a_foreign_key_is_untrusted() -> None:
    renamed = an_envelope(SIGNED, (key_id(OTHER.public_key()), KEY.sign(SIGNED).hex()))
    with pytest.raises(NotSignedByTrusted):
        open_envelope(renamed, TRUSTED)


def test_one_trusted_signature_among_foreign_ones_is_enough() -> None:
    foreign = (key_id(OTHER.public_key()), OTHER.sign(SIGNED).hex())
    broken = (key_id(KEY.public_key()), "00" * 64)
    envelope = an_envelope(SIGNED, foreign, broken, signature_of(SIGNED))
    assert open_envelope(envelope, TRUSTED) == SIGNED


def test_nobody_s_signature_is_untrusted() -> None:
    with pytest.raises(NotSignedByTrusted, match="signed by nobody"):
        open_envelope(an_envelope(SIGNED), TRUSTED)
    with pytest.raises(NotSignedByTrusted, match="trusts no key"):
        open_envelope(ENVELOPE, keyring())


def test_space_around_what_was_signed_changes_nothing() -> None:
    keyid, sig = signature_of(SIGNED)
    spaced = b' {\n "signatures" : [ {"sig": "%s" , "keyid":"%s"} ],\n "signed" :  %s  }\n' % (
        sig.encode(),
        keyid.encode(),
        SIGNED,
    )
    assert open_envelope(spaced, TRUSTED) == SIGNED


def test_space_within_what_was_signed_is_untrusted() -> None:
    spaced = json.dumps(json.loads(SIGNED)).encode()
    assert json.loads(spaced) == json.loads(SIGNED)
    with pytest.raises(NotSignedByTrusted):
        open_envelope(an_envelope(spaced, signature_of(SIGNED)), TRUSTED)


def test_the_signed_bytes_are_those_received_in_whatever_form_they_were_signed() -> None:
    spaced = json.dumps(json.loads(SIGNED), indent=2).encode()
    assert open_envelope(an_envelope(spaced, signature_of(spaced)), TRUSTED) == spaced


def test_a_key_that_stands_twice_is_refused_although_it_is_signed() -> None:
    twice = b'{"device":"pi-1","device":"pi-2"}'
    with pytest.raises(BadDocument, match="stands twice"):
        open_envelope(an_envelope(twice, signature_of(twice)), TRUSTED)


def test_an_envelope_beyond_its_bound_is_refused_unread() -> None:
    assert open_envelope(ENVELOPE, TRUSTED, limit_bytes=len(ENVELOPE)) == SIGNED
    with pytest.raises(BadDocument, match="are allowed"):
        open_envelope(ENVELOPE, TRUSTED, limit_bytes=len(ENVELOPE) - 1)


def test_a_key_s_name_is_the_digest_of_its_raw_bytes() -> None:
    raw = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert key_id(KEY.public_key()) == hashlib.sha256(raw).hexdigest()
    assert key_id(KEY.public_key()) != key_id(OTHER.public_key())


def test_a_key_survives_its_file() -> None:
    private = parse_private_pem(private_pem(KEY))
    public = parse_public_pem(public_pem(KEY.public_key()))
    assert sign(an_order(), private) == ENVELOPE
    assert open_envelope(ENVELOPE, keyring(public)) == SIGNED


CURVE = generate_private_key(SECP256R1())
STRANGE_PRIVATE = {
    "nothing": b"",
    "text": b"-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n",
    "public": public_pem(KEY.public_key()),
    "curve": CURVE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    "locked": KEY.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    ),
    "binary": KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
    "cut": private_pem(KEY)[:60],
    "unknown": private_pem(KEY).replace(b"K2Vw", b"K1Vw"),
}
STRANGE_PUBLIC = {
    "nothing": b"",
    "text": b"-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----\n",
    "private": private_pem(KEY),
    "curve": CURVE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    "binary": KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    "cut": public_pem(KEY.public_key())[:50],
    "unknown": public_pem(KEY.public_key()).replace(b"K2Vw", b"K1Vw"),
}


@pytest.mark.parametrize("kind", STRANGE_PRIVATE)
def test_what_is_no_private_key_is_refused(kind: str) -> None:
    with pytest.raises(BadKey, match="give the file that `wherry init` wrote"):
        parse_private_pem(STRANGE_PRIVATE[kind])


@pytest.mark.parametrize("kind", STRANGE_PUBLIC)
def test_what_is_no_public_key_is_refused(kind: str) -> None:
    with pytest.raises(BadKey, match="give the file that `wherry init` wrote"):
        parse_public_pem(STRANGE_PUBLIC[kind])
