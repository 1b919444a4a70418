"""Orders are followed when enough of the director's keys signed them, for this very device."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.builders import A_TIME, a_device_id, a_digest, a_key, an_order
from tests.trusted import DIRECTOR_KEY, EVIL_KEY, a_root, sign_order, the_holders
from wherry import codec, signing
from wherry.codec import BadDocument
from wherry.messages import Order
from wherry.reasons import Reason
from wherry.signing import Envelope
from wherry.trust import metadata, workflow
from wherry.trust.director import (
    Followed,
    check_order,
    check_unexpired,
    director_of,
    is_repeated,
    keys_of,
    open_order,
)
from wherry.trust.making import Signers
from wherry.trust.metadata import Root
from wherry.trust.refusals import MetadataRefused, OrderRefused

ONE, OTHER = a_key(151), a_key(152)


def root_with(*keys: Ed25519PrivateKey, threshold: int = 1) -> Root:
    signers = Signers(tuple(key.public_key() for key in keys), threshold)
    holders = replace(the_holders(), director=signers)
    return workflow.begin(a_root(holders=holders).data).root


def signed_by(order: Order, keys: Sequence[Ed25519PrivateKey]) -> bytes:
    parts = [codec.decode(Envelope, sign_order(order, key)) for key in keys]
    signatures = tuple(signature for part in parts for signature in part.signatures)
    return codec.encode(Envelope(parts[0].signed, signatures))


def reason_of(envelope: bytes, root: Root) -> Reason:
    with pytest.raises(OrderRefused) as refused:
        open_order(envelope, root)
    return refused.value.reason


def test_an_order_by_the_director_is_opened_with_the_digest_of_what_was_signed() -> None:
    opened = open_order(sign_order(an_order()), root_with(DIRECTOR_KEY))
    assert opened.order == an_order()
    assert len(opened.digest) == 64
    other = open_order(sign_order(an_order(generation=2)), root_with(DIRECTOR_KEY))
    assert other.digest != opened.digest


def test_a_threshold_of_two_needs_two_different_keys() -> None:
    root, order = root_with(ONE, OTHER, threshold=2), an_order()
    assert open_order(signed_by(order, [ONE, OTHER]), root).order == order
    for keys in ([ONE], [ONE, ONE], [ONE, EVIL_KEY], [EVIL_KEY, DIRECTOR_KEY]):
        assert reason_of(signed_by(order, keys), root) is Reason.UNTRUSTED_SIGNATURE


def test_a_signature_over_other_bytes_does_not_count() -> None:
    envelope = sign_order(an_order()).replace(b'"generation":1', b'"generation":2')
    assert reason_of(envelope, root_with(DIRECTOR_KEY)) is Reason.UNTRUSTED_SIGNATURE


def test_another_signed_document_is_no_order() -> None:
    envelope = signing.sign(signing.Signature(signing.key_id(ONE.public_key()), ""), DIRECTOR_KEY)
    with pytest.raises(BadDocument):
        open_order(envelope, root_with(DIRECTOR_KEY))


def test_an_order_that_needs_what_this_release_lacks_is_no_order() -> None:
    with pytest.raises(BadDocument, match="lacks"):
        open_order(sign_order(an_order(critical=("more",))), root_with(DIRECTOR_KEY))


def root_like(change: dict[str, object], keys: dict[str, object] | None = None) -> Root:
    """Return a root with another `wherry` field, or more keys, as if it had been signed so."""
    document = json.loads(a_root().data)
    document["signed"]["wherry"] = change
    document["signed"]["keys"] |= keys or {}
    return metadata.parse(Root, "root", json.dumps(document).encode()).signed


def test_a_root_without_a_director_lets_nobody_order() -> None:
    assert director_of(root_like({})).keyids == ()
    assert reason_of(sign_order(an_order()), root_like({})) is Reason.UNTRUSTED_SIGNATURE


@pytest.mark.parametrize("director", [None, {"keyids": ["x"]}, {"keyids": [], "threshold": 0}])
def test_a_director_in_no_due_form_is_refused(director: object) -> None:
    with pytest.raises(MetadataRefused) as refused:
        director_of(root_like({"director": director}))
    assert refused.value.reason is Reason.MALFORMED_METADATA


def test_a_key_counts_under_its_own_name_and_in_its_own_form_only() -> None:
    public = signing.key_id(ONE.public_key())
    raw = a_root(holders=the_holders(director=ONE)).data
    spelled = json.loads(raw)["signed"]["keys"][public]
    odd: dict[str, object] = {
        a_digest("alias"): spelled,
        a_digest("short"): {**spelled, "keyval": {"public": "00"}},
        a_digest("word"): {**spelled, "keyval": {"public": "word"}},
        a_digest("rsa"): {**spelled, "keytype": "rsa", "scheme": "rsassa-pss-sha256"},
    }
    keyids = [public, *odd, a_digest("unknown")]
    root = root_like({"director": {"keyids": keyids, "threshold": 2}}, {public: spelled, **odd})
    assert set(keys_of(root, director_of(root))) == {public}


LAST = Followed(epoch=1, generation=4, digest=a_digest("order"))


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (an_order(device="pi-2", generation=5), Reason.WRONG_DEVICE),
        (an_order(epoch=2, generation=5), Reason.WRONG_EPOCH),
        (an_order(epoch=0, generation=5), Reason.WRONG_EPOCH),
        (an_order(generation=3), Reason.STALE_ORDER),
        (an_order(generation=4), Reason.ALTERED_ORDER),
    ],
)
def test_an_order_that_is_not_the_next_for_this_device_is_refused(
    order: Order, reason: Reason
) -> None:
    opened = open_order(sign_order(order), root_with(DIRECTOR_KEY))
    with pytest.raises(OrderRefused, match=reason.value) as refused:
        check_order(opened, a_device_id(), LAST)
    assert refused.value.reason is reason
    assert not is_repeated(opened, LAST)


def test_the_next_order_is_followed_and_the_same_one_is_repeated() -> None:
    opened = open_order(sign_order(an_order(generation=5)), root_with(DIRECTOR_KEY))
    check_order(opened, a_device_id(), LAST)
    again = replace(LAST, generation=5, digest=opened.digest)
    check_order(opened, a_device_id(), again)
    assert is_repeated(opened, again)
    assert not is_repeated(opened, LAST)


def test_an_order_counts_until_the_very_second_it_expires() -> None:
    order = an_order(expires=A_TIME)
    check_unexpired(order, A_TIME - 0.5)
    with pytest.raises(OrderRefused, match="expired"):
        check_unexpired(order, A_TIME)
