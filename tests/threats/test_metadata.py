"""Threats to what a device trusts: metadata, packets, orders and the time.

Each is refused by the agent's own acceptance machine with a reason of its own, and leaves its
trust as it was.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import msgspec
import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from tests.builders import A_TIME, a_bundle_of, a_key
from tests.threats.lines import (
    BUNDLE,
    DAY_S,
    NEWER,
    NEXT,
    REPOSITORY,
    SOON,
    accepts,
    desired,
    following,
    has_accepted,
    heard,
    refuses,
    released,
    stamp,
    the_order,
    updated,
)
from tests.trusted import (
    BUNDLE_KEY,
    DIRECTOR_KEY,
    EVIL_KEY,
    ONLINE,
    ROOT_KEYS,
    SNAPSHOT_KEY,
    TARGETS_KEY,
    TIMESTAMP_KEY,
    a_repository,
    a_root,
    the_holders,
    with_next_root,
)
from wherry import codec, signing
from wherry.messages import Desired
from wherry.reasons import Reason
from wherry.trust import packet
from wherry.trust.documents import Metadata, MetaFile, Snapshot, TimestampPart, sign
from wherry.trust.making import LIFETIMES, Lifetimes, make_timestamp
from wherry.trust.repository import (
    OnlineKeys,
    Repository,
    bin_of,
    pieces_for,
    resign,
    with_root,
)
from wherry_agent.core.acceptance import Acceptance, DesiredCame, PieceCame, TimestampCame

MOST = (1 << 31) - 1
NEXT_SNAPSHOT = NEWER.snapshot.signed.version + 1
IN_1970, IN_2100 = 0.0, 4_102_444_800.0


def piece_of(repository: Repository, role: str) -> tuple[str, bytes]:
    """Return the current piece of a role, `bin` being the one of the next bundle."""
    name = bin_of(NEXT.digest) if role == "bin" else role
    pieces = pieces_for(repository, [NEXT.digest], root_after=1)
    return next(piece for piece in pieces.items() if piece[0].startswith(f"{name}/"))


def stamp_on(snapshot: Metadata[Snapshot], *, ahead: int = 1) -> TimestampCame:
    """Return a newer timestamp, by the right key or a thief of it, that names any snapshot."""
    version = NEWER.timestamp.signed.version + ahead
    document = make_timestamp(snapshot, A_TIME, version=version, lifetime_s=LIFETIMES.timestamp_s)
    return TimestampCame(sign(document, TIMESTAMP_KEY).data)


def snapshot_like(
    *,
    version: int,
    meta: Mapping[str, MetaFile] | None = None,
    key: Ed25519PrivateKey = SNAPSHOT_KEY,
) -> Metadata[Snapshot]:
    known = NEWER.snapshot.signed
    return sign(replace(known, version=version, meta=dict(meta or known.meta)), key)


# Keys that nobody trusts, and bytes that nobody signed.


@pytest.mark.parametrize("role", ["targets", "bin"])
def test_metadata_by_an_evil_key_is_refused(role: str) -> None:
    name, data = piece_of(NEWER, role)
    evil = codec.decode(signing.Envelope, data)
    signature = signing.Signature(
        signing.key_id(EVIL_KEY.public_key()), EVIL_KEY.sign(bytes(evil.signed)).hex()
    )
    swapped = codec.encode(replace(evil, signatures=(signature,)))
    refuses(updated(), desired(swap={name: swapped}), Reason.UNTRUSTED_METADATA)


def test_a_snapshot_by_an_evil_key_is_refused_even_under_a_stolen_timestamp_key() -> None:
    evil = snapshot_like(version=NEXT_SNAPSHOT, key=EVIL_KEY)
    state, _ = heard(updated(), stamp_on(evil))
    swap = {f"snapshot/{NEXT_SNAPSHOT}": evil.data}
    refuses(state, desired(swap=swap), Reason.UNTRUSTED_METADATA)


def test_a_timestamp_by_an_evil_key_is_refused() -> None:
    evil = sign(NEWER.timestamp.signed, EVIL_KEY)
    refuses(following(), TimestampCame(evil.data), Reason.UNTRUSTED_METADATA)


def test_an_order_by_an_evil_key_is_refused() -> None:
    refuses(updated(), desired(key=EVIL_KEY), Reason.UNTRUSTED_SIGNATURE)


@pytest.mark.parametrize("key", [BUNDLE_KEY, TIMESTAMP_KEY, SNAPSHOT_KEY, TARGETS_KEY])
def test_an_order_by_a_key_of_another_role_is_refused(key: Ed25519PrivateKey) -> None:
    refuses(updated(), desired(key=key), Reason.UNTRUSTED_SIGNATURE)


def test_an_altered_bin_is_refused() -> None:
    name, data = piece_of(NEWER, "bin")
    altered = data.replace(b'"default":2', b'"default":9')
    assert altered != data
    refuses(updated(), desired(swap={name: altered}), Reason.UNTRUSTED_METADATA)


def test_an_altered_target_is_refused() -> None:
    name, data = piece_of(NEWER, "bin")
    other = a_bundle_of(b"evil").digest.encode()
    altered = data.replace(NEXT.digest.encode(), other)
    refuses(updated(), desired(swap={name: altered}), Reason.UNTRUSTED_METADATA)


@pytest.mark.parametrize("role", ["snapshot", "targets", "bin"])
def test_each_altered_byte_of_metadata_is_refused(role: str) -> None:
    name, data = piece_of(NEWER, role)
    state = updated()
    for at in range(0, len(data), 29):
        if data[at : at + 1] in b'"{}[]:,':
            continue
        altered = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        after, effects = heard(state, desired(swap={name: altered}))
        assert not has_accepted(effects), at
        assert after.trust == state.trust


# Going back.


def test_a_rollback_of_root_is_refused() -> None:
    state = following()
    refuses(state, PieceCame("root/2", REPOSITORY.root.data), Reason.ROOT_ROLLBACK)


def test_a_root_that_skips_one_is_refused() -> None:
    skipping = a_root(3)
    refuses(following(), PieceCame("root/2", skipping.data), Reason.UNTRUSTED_METADATA)


def test_a_rollback_of_the_timestamp_is_refused() -> None:
    refuses(updated(), stamp(REPOSITORY), Reason.TIMESTAMP_ROLLBACK)


def test_a_rollback_of_the_snapshot_is_refused() -> None:
    refuses(updated(), stamp_on(REPOSITORY.snapshot), Reason.SNAPSHOT_ROLLBACK)


def behind(meta: dict[str, MetaFile]) -> tuple[Acceptance, DesiredCame]:
    """Return a device that followed `NEWER`, and an order under a snapshot that says `meta`."""
    state = accepts(updated(), desired())
    snapshot = snapshot_like(version=NEXT_SNAPSHOT, meta=meta)
    state, _ = heard(state, stamp_on(snapshot))
    swap = {f"snapshot/{NEXT_SNAPSHOT}": snapshot.data}
    return state, desired(NEWER, the_order(generation=3), swap=swap)


def test_a_rollback_of_targets_is_refused() -> None:
    meta = NEWER.snapshot.signed.meta
    lower = {name: replace(file, version=file.version - 1 or 1) for name, file in meta.items()}
    assert lower != meta
    refuses(*behind(lower), Reason.TARGETS_ROLLBACK)


def test_a_snapshot_that_leaves_a_bin_out_is_refused() -> None:
    meta = dict(NEWER.snapshot.signed.meta)
    del meta[f"{bin_of(NEXT.digest)}.json"]
    refuses(*behind(meta), Reason.TARGETS_ROLLBACK)


# Parts that do not belong together.


def test_a_snapshot_that_the_timestamp_does_not_name_is_refused() -> None:
    name, _ = piece_of(NEWER, "snapshot")
    swap = {name: REPOSITORY.snapshot.data}
    refuses(updated(), desired(swap=swap), Reason.MIXED_METADATA)


def test_another_snapshot_of_the_version_that_the_timestamp_names_is_refused() -> None:
    name, _ = piece_of(NEWER, "snapshot")
    meta = {**NEWER.snapshot.signed.meta, "bins-00.json": MetaFile(1)}
    other = snapshot_like(version=NEWER.snapshot.signed.version, meta=meta)
    refuses(updated(), desired(swap={name: other.data}), Reason.MIXED_METADATA)


def test_a_bin_that_the_snapshot_does_not_name_is_refused() -> None:
    name, _ = piece_of(NEWER, "bin")
    newest = released(released(NEWER, a_bundle_of(b"3")), NEXT)
    others = sign(replace(newest.bins[bin_of(NEXT.digest)].signed, version=MOST), BUNDLE_KEY)
    refuses(updated(), desired(swap={name: others.data}), Reason.MIXED_METADATA)


def test_one_bin_in_the_place_of_another_is_refused() -> None:
    """Both have the right version and the right key; only what they list gives them away."""
    name, _ = piece_of(NEWER, "bin")
    bins = {role: held for role, held in NEWER.bins.items() if role != bin_of(NEXT.digest)}
    other = bins[bin_of(BUNDLE.digest)]
    assert other.signed.version == NEWER.bins[bin_of(NEXT.digest)].signed.version
    refuses(updated(), desired(swap={name: other.data}), Reason.MIXED_METADATA)


def test_one_role_in_the_place_of_another_is_refused() -> None:
    name, _ = piece_of(NEWER, "targets")
    swap = {name: NEWER.snapshot.data}
    refuses(updated(), desired(swap=swap), Reason.MALFORMED_METADATA)


# Freezing, and clocks that lie.


def test_an_order_under_an_expired_timestamp_is_refused() -> None:
    refuses(updated(), desired(), Reason.EXPIRED_TIMESTAMP, clock=A_TIME + 8 * DAY_S)


def test_an_expired_timestamp_is_refused() -> None:
    refuses(following(), stamp(NEWER), Reason.EXPIRED_TIMESTAMP, clock=A_TIME + 8 * DAY_S)


def test_an_expired_order_is_refused() -> None:
    order = the_order(expires=int(SOON))
    refuses(updated(), desired(order=order), Reason.EXPIRED_ORDER)


@pytest.mark.parametrize(
    ("lifetimes", "reason"),
    [
        (Lifetimes(snapshot_s=DAY_S), Reason.EXPIRED_SNAPSHOT),
        (Lifetimes(bins_s=DAY_S), Reason.EXPIRED_TARGETS),
    ],
)
def test_expired_metadata_under_a_fresh_timestamp_is_refused(
    lifetimes: Lifetimes, reason: Reason
) -> None:
    short = released(a_repository([BUNDLE], lifetimes=lifetimes))
    state, _ = heard(following(), stamp(short))
    refuses(state, desired(short), reason, clock=A_TIME + 2 * DAY_S)


def test_expired_targets_are_refused() -> None:
    expired = replace(NEWER.targets.signed, expires="2027-01-16T00:00:00Z")
    name, _ = piece_of(NEWER, "targets")
    swap = {name: sign(expired, TARGETS_KEY).data}
    refuses(updated(), desired(swap=swap), Reason.EXPIRED_TARGETS, clock=A_TIME + 5 * DAY_S)


def test_an_expired_root_is_refused() -> None:
    late = A_TIME + 366 * DAY_S
    fresh = resign(NEWER, ONLINE, late)
    refuses(following(), stamp(fresh), Reason.EXPIRED_ROOT, clock=late)


def test_a_clock_at_1970_goes_by_what_was_signed() -> None:
    state = updated(clock=IN_1970)
    order = the_order(issued=A_TIME - 100, expires=A_TIME - 1)
    refuses(state, desired(order=order), Reason.EXPIRED_ORDER, clock=IN_1970)
    accepts(state, desired(), clock=IN_1970)


def test_a_clock_in_2100_stops_installing_until_it_is_right_again() -> None:
    state = refuses(following(), stamp(NEWER), Reason.EXPIRED_ROOT, clock=IN_2100)
    state = refuses(state, desired(), Reason.EXPIRED_ORDER, clock=IN_2100)
    accepts(state, stamp(NEWER))


@pytest.mark.parametrize("issued", [int(IN_2100), (1 << 53) - 1])
def test_a_stolen_timestamp_key_cannot_push_time_past_the_root(issued: int) -> None:
    document = replace(
        NEWER.timestamp.signed, expires="2200-01-01T00:00:00Z", wherry=TimestampPart(issued)
    )
    pushing = TimestampCame(sign(document, TIMESTAMP_KEY).data)
    refuses(following(), pushing, Reason.EXPIRED_ROOT)


def test_a_stolen_director_key_cannot_push_time_past_the_timestamp() -> None:
    issued = A_TIME + 8 * int(DAY_S)
    order = the_order(issued=issued, expires=issued + 1)
    refuses(updated(), desired(order=order), Reason.EXPIRED_TIMESTAMP)


# Fast-forward, and the way out of it: a root that rotates the key.


def rotated(
    *,
    snapshot: Ed25519PrivateKey = SNAPSHOT_KEY,
    timestamp: Ed25519PrivateKey = TIMESTAMP_KEY,
    director: Ed25519PrivateKey = DIRECTOR_KEY,
) -> Repository:
    """Return the repository under a root that names other keys."""
    holders = the_holders(snapshot=snapshot, timestamp=timestamp, director=director)
    online = OnlineKeys(snapshot=snapshot, timestamp=timestamp, bundle=BUNDLE_KEY)
    return with_next_root(NEWER, holders=holders, keys=online)


def test_a_fast_forward_of_the_timestamp_ends_with_its_key() -> None:
    state, _ = heard(updated(), stamp_on(snapshot_like(version=MOST), ahead=MOST))
    assert str(MOST) in state.trust.timestamp
    refuses(state, stamp(NEWER), Reason.TIMESTAMP_ROLLBACK)
    repository = rotated(timestamp=a_key(130))
    accepts(
        state,
        PieceCame("root/2", repository.root.data),
        stamp(repository),
        desired(repository),
    )


def test_a_fast_forward_of_the_snapshot_ends_with_its_key() -> None:
    meta = {name: replace(file, version=MOST) for name, file in NEWER.snapshot.signed.meta.items()}
    forward = snapshot_like(version=MOST, meta=meta)
    state, _ = heard(updated(), stamp_on(forward), desired(swap={f"snapshot/{MOST}": forward.data}))
    assert state.trust.snapshot == forward.data.decode()
    repository = rotated(snapshot=a_key(131))
    accepts(
        state,
        PieceCame("root/2", repository.root.data),
        stamp(repository),
        desired(repository),
    )


def test_a_fast_forward_of_the_generation_ends_with_the_directors_key() -> None:
    forward = the_order(generation=(1 << 53) - 1, issued=A_TIME + 6 * 86_400)
    state = accepts(updated(), desired(order=forward))
    state = refuses(state, desired(order=the_order(generation=3)), Reason.STALE_ORDER)
    director = a_key(132)
    repository = rotated(director=director)
    state, _ = heard(state, PieceCame("root/2", repository.root.data), stamp(repository))
    assert "order" not in state.trust.floors
    refuses(state, desired(repository, key=DIRECTOR_KEY), Reason.UNTRUSTED_SIGNATURE)
    accepts(state, desired(repository, key=director))


def test_a_fast_forward_of_time_ends_with_the_key_that_did_it() -> None:
    pushed = A_TIME + 300 * int(DAY_S)
    document = replace(
        NEWER.timestamp.signed, expires="2028-01-01T00:00:00Z", wherry=TimestampPart(pushed)
    )
    state, _ = heard(following(), TimestampCame(sign(document, TIMESTAMP_KEY).data))
    assert state.trust.floors["timestamp"] == pushed
    repository = rotated(timestamp=a_key(133))
    accepts(
        state,
        PieceCame("root/2", repository.root.data),
        stamp(repository),
        desired(repository),
    )


# Rotating root.


def test_one_of_three_root_keys_cannot_rotate_root() -> None:
    lone = a_root(2, holders=the_holders(director=EVIL_KEY), signed_by=ROOT_KEYS[:1])
    refuses(following(), PieceCame("root/2", lone.data), Reason.UNTRUSTED_METADATA)


def test_one_of_three_root_keys_that_signs_twice_is_still_one() -> None:
    lone = a_root(2, holders=the_holders(director=EVIL_KEY), signed_by=ROOT_KEYS[:1])
    envelope = codec.decode(signing.Envelope, lone.data)
    twice = codec.encode(replace(envelope, signatures=envelope.signatures * 2))
    refuses(following(), PieceCame("root/2", twice), Reason.MALFORMED_METADATA)


def test_keys_that_a_root_names_itself_cannot_rotate_it() -> None:
    own = (a_key(141), a_key(142), a_key(143))
    usurping = a_root(2, holders=the_holders(root=own), signed_by=(*own, ROOT_KEYS[0]))
    refuses(following(), PieceCame("root/2", usurping.data), Reason.UNTRUSTED_METADATA)


def test_old_keys_cannot_bring_a_root_that_its_own_keys_did_not_sign() -> None:
    own = (a_key(141), a_key(142), a_key(143))
    unsigned = a_root(2, holders=the_holders(root=own), signed_by=ROOT_KEYS)
    refuses(following(), PieceCame("root/2", unsigned.data), Reason.UNTRUSTED_METADATA)


def test_two_of_three_root_keys_rotate_root() -> None:
    own = (ROOT_KEYS[0], a_key(142), a_key(143))
    root = a_root(2, holders=the_holders(root=own), signed_by=(*ROOT_KEYS[:2], a_key(143)))
    repository = with_root(NEWER, root, ONLINE, A_TIME)
    state = accepts(following(), stamp(repository), desired(repository))
    assert state.trust.root == root.data.decode()
    # The key that left counts no more.
    stale = a_root(3, holders=the_holders(root=own), signed_by=ROOT_KEYS[:2])
    refuses(state, PieceCame("root/3", stale.data), Reason.UNTRUSTED_METADATA)


# Bytes that mean to be read twice, for ever, or not at all.


def test_duplicate_keys_in_metadata_are_refused() -> None:
    data = NEWER.timestamp.data.replace(b'"version":', b'"version":1,"version":', 1)
    assert data != NEWER.timestamp.data
    refuses(following(), TimestampCame(data), Reason.MALFORMED_METADATA)


@pytest.mark.parametrize("field", ['"x":NaN', '"x":"\\ud800"', '"\\ud800":1', '"x":-Infinity'])
def test_what_only_one_parser_takes_is_refused_beside_what_is_signed(field: str) -> None:
    """Nobody needs a key to add it, and what is kept is read at every start by the other parser."""
    genuine = stamp(NEWER)
    padded = genuine.payload[:-1] + f",{field}}}".encode()
    refuses(following(), TimestampCame(padded), Reason.MALFORMED_METADATA)
    name, data = piece_of(NEWER, "bin")
    swap = {name: data[:-1] + f",{field}}}".encode()}
    refuses(updated(), desired(swap=swap), Reason.MALFORMED_METADATA)


def test_nothing_of_a_stranger_is_kept_beside_what_is_signed() -> None:
    genuine = stamp(NEWER)
    padded = genuine.payload[:-1] + b',"x":' + b"[" * 800 + b"]" * 800 + b"}"
    state, _ = heard(following(), TimestampCame(padded))
    assert state.trust.timestamp == genuine.payload.decode()


def test_a_timestamp_that_pins_no_bytes_of_the_snapshot_is_refused() -> None:
    signed = replace(
        NEWER.timestamp.signed,
        version=NEWER.timestamp.signed.version + 1,
        meta={"snapshot.json": MetaFile(NEWER.snapshot.signed.version)},
    )
    state, _ = heard(updated(), TimestampCame(sign(signed, TIMESTAMP_KEY).data))
    refuses(state, desired(), Reason.MIXED_METADATA)


def test_duplicate_keys_in_an_order_are_refused() -> None:
    twice = desired().payload.replace(b'"generation":2', b'"generation":1,"generation":2', 1)
    refuses(updated(), DesiredCame(twice), Reason.MALFORMED_PACKET)


def packet_in(event: DesiredCame) -> str:
    return codec.decode(Desired, event.payload).packet


def with_packet(text: str) -> DesiredCame:
    came = codec.decode(Desired, desired().payload)
    return DesiredCame(codec.encode(replace(came, packet=text)))


def test_a_packet_that_is_cut_at_any_byte_is_refused() -> None:
    whole, state = packet_in(desired()), updated()
    for length in range(1, len(whole)):
        refuses(state, with_packet(whole[:length]), Reason.MALFORMED_PACKET)
    accepts(state, with_packet(whole))


def test_a_desired_state_that_is_cut_at_any_byte_is_refused() -> None:
    whole, state = desired().payload, updated()
    for length in range(1, len(whole)):
        refuses(state, DesiredCame(whole[:length]), Reason.MALFORMED_PACKET)


def framed(frame: bytes, *, names: tuple[str, ...] = ("snapshot/1",)) -> DesiredCame:
    """Return a desired state with a packet around any frame."""
    fields = ("wherry.packet/1", names, frame, (), b"")
    return with_packet(base64.b64encode(msgspec.msgpack.encode(fields)).decode())


def test_a_compression_bomb_that_declares_itself_is_refused() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    assert len(bomb) < 10_000
    refuses(updated(), framed(bomb), Reason.OVERSIZED_PACKET)


def test_a_compression_bomb_that_declares_nothing_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(write_content_size=False)
    bomb = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(64 << 20))
    refuses(updated(), framed(bomb), Reason.MALFORMED_PACKET)


def test_a_compression_bomb_that_lies_about_its_length_is_refused() -> None:
    lying = bytearray(zstandard.ZstdCompressor().compress(bytes(64 << 20)))
    assert zstandard.frame_content_size(bytes(lying)) == 64 << 20
    lying[lying.index((64 << 20).to_bytes(4, "little")) :][:4] = b""
    at = lying.index((64 << 20).to_bytes(4, "little"))
    lying[at : at + 4] = (1000).to_bytes(4, "little")
    refuses(updated(), framed(bytes(lying)), Reason.MALFORMED_PACKET)


def test_marks_that_stand_for_too_much_are_refused() -> None:
    bomb = zstandard.ZstdCompressor().compress(b"\x03" * 500_000)
    refuses(updated(), framed(bomb), Reason.OVERSIZED_PACKET)


def test_an_oversized_packet_is_refused() -> None:
    long = "A" * (packet.LARGEST_TEXT_BYTES + 4)
    refuses(updated(), with_packet(long), Reason.OVERSIZED_PACKET)


def test_endless_metadata_is_refused_unread() -> None:
    endless = b'{"signed":' + b" " * (1 << 20)
    refuses(following(), PieceCame("root/2", endless), Reason.MALFORMED_METADATA)
    refuses(following(), TimestampCame(endless[: (1 << 14) + 1]), Reason.MALFORMED_METADATA)


# Orders for others, and orders of yesterday.


def test_an_order_that_is_replayed_on_another_device_is_refused() -> None:
    order = the_order(device="pi-2")
    refuses(updated(), desired(order=order), Reason.WRONG_DEVICE)


def test_an_older_order_is_refused() -> None:
    state = accepts(updated(), desired())
    older = the_order(BUNDLE, generation=1)
    refuses(state, desired(order=older), Reason.STALE_ORDER)


def test_other_bytes_under_an_accepted_generation_are_refused() -> None:
    state = accepts(updated(), desired())
    other = the_order(BUNDLE, generation=2)
    refuses(state, desired(order=other), Reason.ALTERED_ORDER)


def test_the_same_order_again_is_silent() -> None:
    state = accepts(updated(), desired())
    after, effects = heard(state, desired())
    assert not has_accepted(effects)
    assert not [effect for effect in effects if type(effect).__name__ == "Refuse"]
    assert after.trust == state.trust


@pytest.mark.parametrize("epoch", [0, 2])
def test_an_order_for_another_enrolment_is_refused(epoch: int) -> None:
    order = the_order(epoch=epoch)
    refuses(updated(), desired(order=order), Reason.WRONG_EPOCH)
