"""A token carries what a device must know before it trusts anything; nothing else is a token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.laws import tried
from wherry import codec
from wherry.codec import BadDocument
from wherry.enrolment import (
    BadFingerprint,
    BadToken,
    EnrolRequest,
    Renewal,
    Token,
    fingerprint_of,
    parse_fingerprint,
    parse_token,
    secret_digest,
    token_text,
)
from wherry.names import parse_device_id

SECRET = "s" * 43
CA = fingerprint_of(b"a certificate")


def test_a_token_is_read_as_it_was_written() -> None:
    token = Token(SECRET, CA)
    assert parse_token(token_text(token)) == token
    assert parse_token(f" {token_text(token)}\n") == token


@given(st.from_regex(r"wt1\.[A-Za-z0-9_-]{43}\.[A-Za-z0-9_-]{43}", fullmatch=True))
@tried
def test_whatever_has_the_form_of_a_token_names_a_ca(text: str) -> None:
    assert len(parse_token(text).ca) == 64


@given(st.text())
@tried
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(BadToken, match="`wherry token create` printed"):
        parse_token(text)


@pytest.mark.parametrize("text", ["", "wt1", "wt2." + SECRET + "." + SECRET, SECRET, "wt1.a.b"])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(BadToken):
        parse_token(text)


def test_a_fingerprint_is_read_as_people_copy_it() -> None:
    pairs = ":".join(CA[i : i + 2] for i in range(0, 64, 2)).upper()
    assert parse_fingerprint(f" {pairs}\n") == parse_fingerprint(CA) == CA
    for text in ("", CA[:63], CA + "0", "g" * 64):
        with pytest.raises(BadFingerprint):
            parse_fingerprint(text)


def test_a_secret_is_not_found_in_its_digest() -> None:
    assert secret_digest(SECRET) != secret_digest(SECRET + "s")
    assert SECRET not in secret_digest(SECRET)


@pytest.mark.parametrize(
    "body",
    [
        b'{"csr":"x"}',
        b'{"format":"wherry.enrol/2","csr":"x"}',
        b'{"format":"wherry.enrol/1","csr":"x","csr":"y"}',
        b'{"format":"wherry.enrol/1","csr":"x","critical":["more"]}',
        b'{"format":"wherry.enrol/1","csr":"' + b"x" * 8193 + b'"}',
        b'{"format":"wherry.enrol/1","csr":"x","device":"No Name"}',
    ],
)
def test_a_request_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(BadDocument):
        codec.decode(EnrolRequest, body)


def test_a_proof_is_no_other_document() -> None:
    proof = Renewal(device=parse_device_id("pi-1"), serial="1f", csr="x", at=1)
    with pytest.raises(BadDocument):
        codec.decode(EnrolRequest, codec.encode(proof))
    assert codec.decode(Renewal, codec.encode(proof)) == proof
