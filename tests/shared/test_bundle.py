"""Bundles: named by what was signed, opened by whoever trusts the key and expects the name."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import (
    INPUT_BYTES,
    MODEL_BYTES,
    OUTPUT_BYTES,
    a_bundle_of,
    a_digest,
    a_key,
    a_manifest,
    an_order,
)
from wherry import signing
from wherry.blobs import WrongBytes, digest_of
from wherry.bundle import open_manifest, open_signed_manifest, seal
from wherry.codec import BadDocument, encode
from wherry.manifest import LARGEST_MANIFEST_BYTES, BadManifest
from wherry.signing import NotSignedByTrusted, keyring, sign

TRUSTED = keyring(a_key().public_key())
BLOBS = {digest_of(data): data for data in (INPUT_BYTES, OUTPUT_BYTES, MODEL_BYTES)}


def test_what_was_sealed_is_opened() -> None:
    bundle = a_bundle_of()
    assert open_signed_manifest(bundle.envelope, TRUSTED, bundle.digest) == bundle.manifest
    assert bundle.blobs[digest_of(MODEL_BYTES)] == MODEL_BYTES


def test_a_device_opens_a_bundle_by_its_name_whoever_signed_it() -> None:
    bundle = a_bundle_of(key=a_key(9))
    assert open_manifest(bundle.envelope, bundle.digest) == bundle.manifest
    with pytest.raises(WrongBytes):
        open_manifest(a_bundle_of(b"another").envelope, bundle.digest)
    for torn in (b"", b"{}", bundle.envelope[:-1]):
        with pytest.raises(BadDocument):
            open_manifest(torn, bundle.digest)


def test_sealing_is_deterministic() -> None:
    assert a_bundle_of() == a_bundle_of()


def test_whoever_signs_a_bundle_its_name_is_the_same() -> None:
    one, other = a_bundle_of(key=a_key(1)), a_bundle_of(key=a_key(2))
    assert one.digest == other.digest
    assert one.envelope != other.envelope


def test_a_bundle_is_named_by_the_bytes_that_were_signed() -> None:
    bundle = a_bundle_of()
    signed = signing.open_envelope(bundle.envelope, TRUSTED)
    assert bundle.digest == hashlib.sha256(signed).hexdigest()
    assert signed == encode(bundle.manifest)


@given(st.binary(min_size=1, max_size=3000), st.binary(min_size=1, max_size=3000))
def test_two_models_make_two_bundles(one: bytes, other: bytes) -> None:
    assert (a_bundle_of(one).digest == a_bundle_of(other).digest) == (one == other)


def test_a_blob_that_is_not_what_its_name_says_is_not_sealed() -> None:
    with pytest.raises(WrongBytes):
        seal(a_manifest(), {**BLOBS, digest_of(MODEL_BYTES): b"evil"}, a_key())


def test_a_bundle_has_exactly_the_blobs_that_its_manifest_names() -> None:
    for digest in BLOBS:
        with pytest.raises(BadManifest, match="the blobs are not those"):
            seal(a_manifest(), {name: BLOBS[name] for name in BLOBS if name != digest}, a_key())
    with pytest.raises(BadManifest, match="the blobs are not those"):
        seal(a_manifest(), {**BLOBS, digest_of(b"more"): b"more"}, a_key())


def test_the_blobs_of_a_bundle_do_not_follow_the_caller_s() -> None:
    blobs = dict(BLOBS)
    bundle = seal(a_manifest(), blobs, a_key())
    blobs.clear()
    assert bundle.blobs == BLOBS


def test_another_bundle_than_was_expected_is_refused_although_it_is_signed() -> None:
    with pytest.raises(WrongBytes):
        open_signed_manifest(a_bundle_of(b"v2").envelope, TRUSTED, a_bundle_of(b"v1").digest)


def test_a_bundle_signed_by_another_key_is_untrusted() -> None:
    bundle = a_bundle_of(key=a_key(2))
    with pytest.raises(NotSignedByTrusted):
        open_signed_manifest(bundle.envelope, TRUSTED, bundle.digest)


def test_who_signed_is_asked_before_what_was_signed() -> None:
    with pytest.raises(NotSignedByTrusted):
        open_signed_manifest(a_bundle_of(key=a_key(2)).envelope, TRUSTED, a_digest("another"))


def test_another_document_of_the_same_signer_is_no_bundle() -> None:
    with pytest.raises(BadDocument):
        open_signed_manifest(sign(an_order(), a_key()), TRUSTED, digest_of(encode(an_order())))


def test_a_document_without_a_format_is_no_bundle() -> None:
    signed = encode(a_manifest()).replace(b'"format":"wherry.bundle/1",', b"")
    signature = {"keyid": signing.key_id(a_key().public_key()), "sig": a_key().sign(signed).hex()}
    envelope = b'{"signed":' + signed + b',"signatures":' + encode([signature]) + b"}"
    with pytest.raises(BadDocument, match="does not say its format"):
        open_signed_manifest(envelope, TRUSTED, digest_of(signed))


def test_a_signed_manifest_whose_parts_do_not_fit_is_malformed() -> None:
    signed = encode(a_manifest(static_batch=1)).replace(b'"static_batch":1', b'"static_batch":0')
    signature = {"keyid": signing.key_id(a_key().public_key()), "sig": a_key().sign(signed).hex()}
    envelope = b'{"signed":' + signed + b',"signatures":' + encode([signature]) + b"}"
    with pytest.raises(BadManifest):
        open_signed_manifest(envelope, TRUSTED, digest_of(signed))


@pytest.mark.parametrize("times", [1, 2])
def test_a_manifest_beyond_its_bound_is_refused(times: int) -> None:
    words = "x" * (LARGEST_MANIFEST_BYTES * times)
    bundle = a_bundle_of(labels=(words,))
    with pytest.raises(BadDocument, match=f"{LARGEST_MANIFEST_BYTES * times} are allowed"):
        open_signed_manifest(bundle.envelope, TRUSTED, bundle.digest)
