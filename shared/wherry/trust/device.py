"""How far a device follows what it is offered: signatures, versions and dates are judged here.

    begin -> take_timestamp -> follow -> Followed | Lacking | Repeated

Each function takes the trust that is kept (`keeping`) and returns the next one, or refuses with
`MetadataRefused`, `OrderRefused` or `BadDocument` and leaves it as it is. Whoever gets a `Lacking`
fetches the pieces it names, keeps the trust that it carries (it has come as far as the pieces
reach) and offers the same order again with them. Where a timestamp is refused with
`UNTRUSTED_METADATA`, its key may have been rotated: the piece `next_root` names is worth asking
for.

What is about to be accepted counts as a floor of time too, so that nobody can push the floor past
the expiry of what vouches for it. With a rotated key goes all that it had pushed forward:
versions, generation, floor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from wherry.messages import Order
from wherry.names import Digest
from wherry.reasons import Reason
from wherry.trust import director, metadata, verdict, workflow
from wherry.trust.director import Opened
from wherry.trust.keeping import (
    ORDER,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    Followed,
    Lacking,
    Offer,
    Outcome,
    Repeated,
    Trust,
    next_root,
    now_of,
    raise_floor,
    version_of,
)
from wherry.trust.metadata import Root, S, Snapshot, Targets, Timestamp
from wherry.trust.packet import piece_name
from wherry.trust.refusals import MetadataRefused
from wherry.trust.target import Verdict
from wherry.trust.verdict import Grounds
from wherry.trust.workflow import TrustedSet

LARGEST_LACK = 16


def begin(root: bytes, *, epoch: int) -> Trust:
    """Trust the root that came with the enrolment `epoch`, and nothing else yet."""
    workflow.begin(root)
    return Trust(root=metadata.kept(ROOT, root), epoch=epoch)


def take_roots(trust: Trust, pieces: Mapping[str, bytes]) -> Trust:
    """Take each next root there is in `pieces`, and drop what rotated keys had signed."""
    while (data := pieces.get(next_root(trust))) is not None:
        old = workflow.begin(trust.root.encode())
        trust = _under(trust, old, workflow.update_root(old, data), data)
    return trust


def take_timestamp(trust: Trust, data: bytes, clock: float) -> Trust:
    """Take the fleet's timestamp where it is newer than the one that is there."""
    before = _restored_timestamp(workflow.begin(trust.root.encode()), trust)
    after = workflow.update_timestamp(before, data, now_of(trust, clock))
    if after is before or after.timestamp is None:
        return trust
    taken = replace(trust, timestamp=metadata.kept(TIMESTAMP, data))
    return raise_floor(taken, TIMESTAMP, metadata.issued_of(after.timestamp))


def follow(trust: Trust, offer: Offer, clock: float) -> Outcome:
    """Follow the order as far as the pieces reach.

    Raises `OrderRefused` and `MetadataRefused` with a reason of their own, and `BadDocument` for
    an order that is none. A bundle that targets do not allow is no refusal but a verdict.
    """
    trust = take_roots(trust, offer.pieces)
    if missing := _missing_roots(trust, offer.pieces):
        return Lacking(trust, missing)
    trusted = workflow.begin(trust.root.encode())
    opened = director.open_order(offer.order, trusted.root)
    last = director.Followed(trust.epoch, trust.generation, trust.order_digest)
    director.check_order(opened, offer.device, last)
    if director.is_repeated(opened, last):
        return Repeated(trust)
    now = max(now_of(trust, clock), opened.order.issued)
    director.check_unexpired(opened.order, now)
    return _verified(trust, _restored_timestamp(trusted, trust), _Asked(opened, offer, now))


@dataclass(frozen=True, slots=True)
class _Asked:
    opened: Opened
    offer: Offer
    now: float


def _under(trust: Trust, old: TrustedSet, new: TrustedSet, data: bytes) -> Trust:
    """Return `trust` under a new root, without what the keys that left had pushed forward."""
    if workflow.rotated(old.root, new.root, TIMESTAMP, SNAPSHOT):
        trust = replace(trust, timestamp="", snapshot="", floors=_without(trust, TIMESTAMP))
    if director.rotated(old.root, new.root):
        trust = replace(trust, generation=0, order_digest=None, floors=_without(trust, ORDER))
    return replace(
        trust,
        root=metadata.kept(ROOT, data),
        timestamp=_vouched(new.root, Timestamp, TIMESTAMP, trust.timestamp),
        snapshot=_vouched(new.root, Snapshot, SNAPSHOT, trust.snapshot),
        targets=_vouched(new.root, Targets, TARGETS, trust.targets),
    )


def _vouched(root: Root, kind: type[S], role: str, text: str) -> str:
    """Return `text` where it has the signatures that `root` asks for, and nothing otherwise."""
    try:
        metadata.verify(root, role, metadata.parse(kind, role, text.encode()))
    except MetadataRefused:
        return ""
    return text


def _without(trust: Trust, source: str) -> dict[str, float]:
    return {name: floor for name, floor in trust.floors.items() if name != source}


def _restored_timestamp(trusted: TrustedSet, trust: Trust) -> TrustedSet:
    if not trust.timestamp:
        return trusted
    return workflow.restore_timestamp(trusted, trust.timestamp.encode())


def _restored_snapshot(trusted: TrustedSet, trust: Trust) -> TrustedSet:
    if not trust.snapshot:
        return trusted
    return workflow.restore_snapshot(trusted, trust.snapshot.encode())


def _missing_roots(trust: Trust, pieces: Mapping[str, bytes]) -> tuple[str, ...]:
    """Return the roots that lead to the newest in `pieces` and are not there."""
    following = range(version_of(trust.root) + 1, _newest(pieces, ROOT))
    return tuple(piece_name(ROOT, version) for version in following[:LARGEST_LACK])


def _verified(trust: Trust, trusted: TrustedSet, asked: _Asked) -> Outcome:
    """Take snapshot, targets and bins in turn, up to the first that is lacking."""
    if trusted.timestamp is None:
        return Lacking(trust, (TIMESTAMP,))
    promised = trusted.timestamp.snapshot_meta
    if not promised.hashes:
        raise MetadataRefused(Reason.MIXED_METADATA, TIMESTAMP, "it pins no bytes of the snapshot")
    version = promised.version
    newest = max(_newest(asked.offer.pieces, SNAPSHOT), asked.opened.order.snapshot)
    if newest > version:
        # The order was composed under a timestamp that is still on its way, or withheld.
        return Lacking(trust, (TIMESTAMP,))
    data = _piece(asked.offer.pieces, SNAPSHOT, version, trust.snapshot)
    if data is None:
        return Lacking(trust, (piece_name(SNAPSHOT, version),))
    trusted = workflow.update_snapshot(_restored_snapshot(trusted, trust), data, asked.now)
    return _with_targets(replace(trust, snapshot=data.decode()), trusted, asked)


def _with_targets(trust: Trust, trusted: TrustedSet, asked: _Asked) -> Outcome:
    version = workflow.promised_version(trusted, TARGETS)
    data = _piece(asked.offer.pieces, TARGETS, version, trust.targets)
    if data is None:
        return Lacking(trust, (piece_name(TARGETS, version),))
    trusted = workflow.update_targets(trusted, TARGETS, data, asked.now)
    return _with_bins(replace(trust, targets=metadata.kept(TARGETS, data)), trusted, asked)


def _with_bins(trust: Trust, trusted: TrustedSet, asked: _Asked) -> Outcome:
    """Take the bins of all bundles that the order names; a bin that is not there lists nothing."""
    lacking, texts = [], {}
    for role in _bins_of(asked.opened.order, trusted):
        version = workflow.promised_version(trusted, role)
        data = _piece(asked.offer.pieces, role, version, trust.bins.get(role, ""))
        if data is None:
            lacking.append(piece_name(role, version))
        else:
            trusted = workflow.update_targets(trusted, role, data, asked.now)
            _check_bin(trusted, role)
            texts[role] = metadata.kept(role, data)
    if lacking:
        return Lacking(replace(trust, bins={**trust.bins, **texts}), tuple(lacking))
    return _followed(replace(trust, bins=texts), trusted, asked)


def _check_bin(trusted: TrustedSet, role: str) -> None:
    """Refuse another bin in this one's place: one key signs them all, and none says its name."""
    targets = trusted.targets[TARGETS]
    for path in trusted.targets[role].targets:
        if metadata.bin_of(targets, path) != role:
            problem = f"it lists {path[:12]}, which is for another bin"
            raise MetadataRefused(Reason.MIXED_METADATA, role, problem)


def _followed(trust: Trust, trusted: TrustedSet, asked: _Asked) -> Followed:
    order, targets = asked.opened.order, trusted.targets[TARGETS]
    grounds = Grounds(
        order,
        asked.offer.profile,
        verdict.min_release_of(targets),
        {digest: _listed(trusted, digest) for digest in _bundles_of(order)},
    )
    taken = replace(trust, generation=order.generation, order_digest=asked.opened.digest)
    return Followed(
        raise_floor(taken, ORDER, order.issued),
        order,
        {
            alias: verdict.to_serve(grounds, alias, wanted.bundle)
            for alias, wanted in order.aliases.items()
        },
        {trial.trial: verdict.to_measure(grounds, trial.bundle) for trial in order.trials},
    )


def _listed(trusted: TrustedSet, digest: Digest) -> Verdict | None:
    listing = trusted.targets.get(metadata.bin_of(trusted.targets[TARGETS], digest))
    return None if listing is None else verdict.listed_in(listing, digest)


def _bins_of(order: Order, trusted: TrustedSet) -> list[str]:
    """Return the bins of the order's bundles that the snapshot knows."""
    targets = trusted.targets[TARGETS]
    bins = {metadata.bin_of(targets, digest) for digest in _bundles_of(order)} - {TARGETS}
    return sorted(role for role in bins if workflow.promised_version(trusted, role))


def _bundles_of(order: Order) -> set[Digest]:
    wanted = {wanted.bundle for wanted in order.aliases.values()}
    return wanted | {trial.bundle for trial in order.trials}


def _piece(pieces: Mapping[str, bytes], role: str, version: int, stored: str) -> bytes | None:
    """Return this version of a role's metadata, as it came or as it is stored."""
    came = pieces.get(piece_name(role, version))
    if came is None and version_of(stored) == version:
        return stored.encode()
    return came


def _newest(pieces: Mapping[str, bytes], role: str) -> int:
    """Return the highest version of a role among `pieces`; 0 where there is none."""
    versions = [name.partition("/")[2] for name in pieces if name.startswith(f"{role}/")]
    return max(map(int, versions), default=0)
