"""The director's orders: who signed one, and whether it is the next one for this very device.

Root names the director's keys in a field of its own, so that rotating them is a new root. An
order that is newer, unexpired and for this device's enrolment is followed whatever it goes back
to; whether its bundles may be installed is for targets to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from wherry import codec, signing
from wherry.blobs import digest_of
from wherry.messages import Order
from wherry.names import DeviceId, Digest, KeyId
from wherry.reasons import Reason
from wherry.trust import metadata
from wherry.trust.metadata import Root
from wherry.trust.refusals import OrderRefused

LARGEST_ORDER_BYTES = 1 << 18


class Director(msgspec.Struct, frozen=True):
    """The keys whose orders a device follows, and how many of them must sign one."""

    keyids: tuple[KeyId, ...] = ()
    threshold: Annotated[int, msgspec.Meta(ge=1)] = 1


class _OfRoot(msgspec.Struct, frozen=True):
    director: Director = Director()


@dataclass(frozen=True, slots=True)
class Opened:
    """An order that the director signed; `digest` is of the bytes that were signed."""

    order: Order
    digest: Digest


@dataclass(frozen=True, slots=True)
class Followed:
    """The last order that a device followed, and the enrolment that it followed it under."""

    epoch: int
    generation: int
    digest: Digest | None


def open_order(envelope: bytes, root: Root) -> Opened:
    """Return the order in `envelope`.

    Raises `OrderRefused` where too few of the director's keys signed it, `BadDocument` where it
    is no order and `MetadataRefused` where root names no director in due form.
    """
    parsed = codec.decode(signing.Envelope, envelope, limit_bytes=LARGEST_ORDER_BYTES)
    signed, director = bytes(parsed.signed), director_of(root)
    vouching = signing.vouching(parsed, keys_of(root, director))
    if len(vouching) < director.threshold:
        problem = f"{len(vouching)} of the director's keys signed it, {director.threshold} must"
        raise OrderRefused(Reason.UNTRUSTED_SIGNATURE, problem)
    return Opened(codec.decode(Order, signed), digest_of(signed))


def director_of(root: Root) -> Director:
    """Return the director that `root` names; with no keys where it names none."""
    return metadata.wherry_of(root, _OfRoot).director


def rotated(old: Root, new: Root) -> bool:
    """Say whether a key that the director had is one of its keys no more."""
    return not set(director_of(old).keyids) <= set(director_of(new).keyids)


def keys_of(root: Root, director: Director) -> signing.Keyring:
    """Return the director's keys that `root` holds under their right names."""
    keys: Mapping[KeyId, Ed25519PublicKey | None] = {
        keyid: _key_of(root, keyid) for keyid in director.keyids
    }
    return {keyid: key for keyid, key in keys.items() if key and signing.key_id(key) == keyid}


def is_repeated(opened: Opened, last: Followed) -> bool:
    """Say whether this order is followed already."""
    return opened.digest == last.digest


def check_order(opened: Opened, device: DeviceId, last: Followed) -> None:
    """Raise `OrderRefused` where the order is for another identity, or not newer than the last."""
    order = opened.order
    if order.device != device:
        raise OrderRefused(Reason.WRONG_DEVICE, f"it is for {order.device}")
    if order.epoch != last.epoch:
        problem = f"it is for enrolment {order.epoch} and this is enrolment {last.epoch}"
        raise OrderRefused(Reason.WRONG_EPOCH, problem)
    if order.generation < last.generation:
        problem = f"it is generation {order.generation} and {last.generation} is followed"
        raise OrderRefused(Reason.STALE_ORDER, problem)
    if order.generation == last.generation and last.digest not in (None, opened.digest):
        problem = f"generation {order.generation} is followed and was another order"
        raise OrderRefused(Reason.ALTERED_ORDER, problem)


def check_unexpired(order: Order, now: float) -> None:
    """Raise `OrderRefused` where the order is expired."""
    if order.expires <= now:
        problem = f"generation {order.generation} expired {now - order.expires:.0f} s ago"
        raise OrderRefused(Reason.EXPIRED_ORDER, problem)


def _key_of(root: Root, keyid: KeyId) -> Ed25519PublicKey | None:
    """Return the key, where root holds it and it can be one of Ed25519."""
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(root.keys[keyid].keyval["public"]))
    except (ValueError, KeyError):
        return None
