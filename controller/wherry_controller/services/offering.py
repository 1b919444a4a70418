"""Metadata that was signed on other machines, on its way into the repository.

Files come in any order and in several copies, each with the signatures of one machine. All of
them are accepted, or none: what comes out is followed once as a device would.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from wherry.errors import Unsuitable
from wherry.names import AliasName, KeyId, RoleName
from wherry.trust import documents, repository, workflow
from wherry.trust.documents import Bin, D, Metadata, Root, Targets
from wherry.trust.making import ROOT, TARGETS
from wherry.trust.packet import piece_name
from wherry.trust.repository import OnlineKeys, Repository
from wherry_controller.core import trust as core
from wherry_controller.core.trust import TooFewSignatures
from wherry_controller.store.trust import MetadataRecord

Online = Callable[[Root, Targets], OnlineKeys]


class NothingWaits(Unsuitable):
    """A bin that is not, byte for byte, one that waits."""

    def __str__(self) -> str:
        return (
            "no bin that waits is this one: bring those that wait now with `wherry keys fetch`, "
            "and sign them."
        )


@dataclass(frozen=True, slots=True)
class Offered:
    """What came, each document once with the signatures of all its copies."""

    roots: tuple[Metadata[Root], ...]
    targets: tuple[Metadata[Targets], ...]
    bins: Mapping[RoleName, Metadata[Bin]]

    @property
    def names(self) -> tuple[str, ...]:
        roots = [piece_name(ROOT, root.signed.version) for root in self.roots]
        targets = [piece_name(TARGETS, one.signed.version) for one in self.targets]
        return (*roots, *targets, *(piece_name(r, b.signed.version) for r, b in self.bins.items()))


def sort_out(files: Sequence[bytes], waiting: Sequence[MetadataRecord]) -> Offered:
    """Return what `files` hold; raise `BadDocument`, `NotOfPeople` or `NothingWaits`."""
    roots: list[Metadata[Root]] = []
    targets: list[Metadata[Targets]] = []
    bins: dict[RoleName, Metadata[Bin]] = {}
    for signed, data in _merged(files).items():
        one = documents.read_of_people(data)
        if isinstance(one.signed, Root):
            roots.append(Metadata(one.signed, data))
        elif isinstance(one.signed, Targets):
            targets.append(Metadata(one.signed, data))
        else:
            record = _waiting_one(signed, waiting)
            bins[record.role] = _newer(bins.get(record.role), Metadata(one.signed, data))
    return Offered(_by_version(roots), _by_version(targets), bins)


def accepted(
    before: Repository,
    offered: Offered,
    *,
    waiting: Sequence[MetadataRecord],
    online: Online,
    held: Collection[KeyId],
    latest: Mapping[AliasName, int],
    now: float,
) -> Repository:
    """Return the repository with what is offered; `before` itself where it has all of it.

    `latest` is the highest release of each alias. Raises what `core.trust` raises.
    """
    after = before
    for root in offered.roots:
        if root.signed not in [known.signed for known in after.roots]:
            core.check_root(after.root, root, held, now)
            after = replace(after, roots=(*after.roots, root))
    root_now = after.root.signed
    for one in offered.targets:
        if one.signed != after.targets.signed:
            core.check_targets(after.targets, one, root=root_now, latest=latest, now=now)
            after = replace(after, targets=one)
    targets = after.targets
    core.check_signatures("targets", targets.data, root_now.keys, root_now.roles["targets"])
    keys = online(root_now, targets.signed)
    changes = _bins_that_change(after, offered, keys, waiting, now)
    after = replace(after, bins={**after.bins, **changes}) if changes else after
    if after is before:
        return before
    after = repository.vouched(after, keys, now)
    _follow(before, after, now)
    return after


def _bins_that_change(
    published: Repository,
    offered: Offered,
    keys: OnlineKeys,
    waiting: Sequence[MetadataRecord],
    now: float,
) -> dict[RoleName, Metadata[Bin]]:
    """Return the bins that came signed, and those that the key at hand signs in their stead."""
    targets = published.targets.signed
    bins = {
        role: one
        for role, one in offered.bins.items()
        if role not in published.bins or one.signed.version > published.bins[role].signed.version
    }
    for role, one in bins.items():
        core.check_bin(role, one.data, targets)
    if keys.bundle is None:
        for role in published.bins.keys() - bins.keys():
            core.check_bin(role, published.bins[role].data, targets)
        return bins
    return {**_signed_here(published, keys, waiting, now), **bins}


def _signed_here(
    published: Repository, keys: OnlineKeys, waiting: Sequence[MetadataRecord], now: float
) -> dict[RoleName, Metadata[Bin]]:
    """Return what waits, and what another key had signed, signed by the key that is at hand."""
    unsigned = {record.role: documents.read(Bin, record.data).signed for record in waiting}
    for role, one in published.bins.items():
        if role not in unsigned and not _is_signed(role, one.data, published.targets.signed):
            unsigned[role] = repository.next_bin(one, {}, now, published.lifetimes)
    return repository.sign_bins(unsigned, keys)


def _is_signed(role: RoleName, data: bytes, targets: Targets) -> bool:
    try:
        core.check_bin(role, data, targets)
    except TooFewSignatures:
        return False
    return True


def _follow(before: Repository, after: Repository, now: float) -> None:
    """Follow from one repository to the next as a device does; raises `MetadataRefused`."""
    trusted = workflow.begin(before.root.data)
    for root in after.roots[len(before.roots) :]:
        trusted = workflow.update_root(trusted, root.data)
    trusted = workflow.update_timestamp(trusted, after.timestamp.data, now)
    trusted = workflow.update_snapshot(trusted, after.snapshot.data, now)
    trusted = workflow.update_targets(trusted, TARGETS, after.targets.data, now)
    new = {role: one for role, one in after.bins.items() if before.bins.get(role) != one}
    for role, one in new.items():
        trusted = workflow.update_targets(trusted, role, one.data, now)


def _merged(files: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return each document that came, by what is signed, with all its signatures."""
    merged: dict[bytes, bytes] = {}
    for data in files:
        signed = documents.signed_part(data)
        merged[signed] = documents.merge_signatures(merged.get(signed, data), data)
    return merged


def _waiting_one(signed: bytes, waiting: Sequence[MetadataRecord]) -> MetadataRecord:
    for record in waiting:
        if documents.signed_part(record.data) == signed:
            return record
    raise NothingWaits


def _newer(known: Metadata[Bin] | None, other: Metadata[Bin]) -> Metadata[Bin]:
    return other if known is None or other.signed.version > known.signed.version else known


def _by_version(found: Sequence[Metadata[D]]) -> tuple[Metadata[D], ...]:
    return tuple(sorted(found, key=lambda one: one.signed.version))
