"""What metadata that was signed elsewhere must be before the controller publishes it.

A device would refuse what is signed wrongly; a controller that published it would lose its fleet
until somebody carried a new root to every device. So each rule of the client is asked here first,
and beside them what only an operator can have meant wrongly.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from wherry.errors import Malformed, Unsuitable, Untrusted
from wherry.names import AliasName, KeyId, RoleName
from wherry.trust import documents
from wherry.trust.documents import Document, Key, Metadata, Role, Root, Targets, expires_at

ONLINE_ROLES = ("snapshot", "timestamp")


class TooFewSignatures(Untrusted):
    """Metadata that not enough of its keys have signed."""

    def __init__(
        self, role: str, signed: Collection[str], missing: Collection[str], threshold: int
    ) -> None:
        super().__init__(role, signed, missing, threshold)
        self.role, self.threshold = role, threshold
        self.signed, self.missing = tuple(sorted(signed)), tuple(sorted(missing))

    def __str__(self) -> str:
        missing = ", ".join(key[:8] for key in self.missing) or "nobody"
        return (
            f"{self.role} has {len(self.signed)} of {self.threshold} signatures that it needs: "
            f"have it signed with `wherry keys sign` (missing: {missing}), and give all copies at "
            "once."
        )


class WrongVersion(Unsuitable):
    """Metadata that does not follow what is published."""

    def __init__(self, role: str, version: int, expected: int) -> None:
        super().__init__(role, version, expected)
        self.role, self.version, self.expected = role, version, expected

    def __str__(self) -> str:
        return (
            f"{self.role} has version {self.version} and {self.expected} comes next: "
            "make it anew from what `wherry keys fetch` brings."
        )


class ExpiredAlready(Unsuitable):
    """Metadata that no device would take, for its time is over."""

    def __init__(self, role: str, expires: str) -> None:
        super().__init__(role, expires)
        self.role, self.expires = role, expires

    def __str__(self) -> str:
        return (
            f"{self.role} expired at {self.expires}: set the clock of the machine that makes it, "
            "and make it anew."
        )


class NoOnlineKey(Unsuitable):
    """A root that names, for a role that signs by itself, no key that this controller has."""

    def __init__(self, role: str, keyids: Collection[str]) -> None:
        super().__init__(role, keyids)
        self.role, self.keyids = role, tuple(keyids)

    def __str__(self) -> str:
        named = ", ".join(key[:8] for key in self.keyids)
        return (
            f"root names {named} for {self.role}, and this controller has no such key: make one in "
            "its folder with `wherry keys init`, and have root name that."
        )


class OnlineThreshold(Unsuitable):
    """A root that needs several signatures of a role that one controller signs by itself."""

    def __init__(self, role: str, threshold: int) -> None:
        super().__init__(role, threshold)
        self.role, self.threshold = role, threshold

    def __str__(self) -> str:
        return (
            f"root wants {self.threshold} signatures of {self.role}, which one controller signs: "
            "make its threshold 1."
        )


class NoSuchRelease(Unsuitable):
    """A minimum above every release: nothing could be installed under the alias."""

    def __init__(self, alias: str, wanted: int, latest: int) -> None:
        super().__init__(alias, wanted, latest)
        self.alias, self.wanted, self.latest = alias, wanted, latest

    def __str__(self) -> str:
        if not self.latest:
            return (
                f"{self.alias!r} has no release yet, so that a minimum of {self.wanted} would "
                "refuse all: roll a version out under it first."
            )
        return (
            f"{self.alias!r} has no release above {self.latest}, so that a minimum of "
            f"{self.wanted} would refuse all: give {self.latest} at most."
        )


class LowerMinimum(Unsuitable):
    """A minimum below the one that is published: it would let back in what was shut out."""

    def __init__(self, alias: str, wanted: int, published: int) -> None:
        super().__init__(alias, wanted, published)
        self.alias, self.wanted, self.published = alias, wanted, published

    def __str__(self) -> str:
        return (
            f"the minimum of {self.alias!r} is {self.published} and may only rise, not to "
            f"{self.wanted}: release the version anew under a later version's name."
        )


class OtherBins(Malformed):
    """Targets that cut the bins in another way than this release does."""

    def __str__(self) -> str:
        return "targets delegate to other bins than 256 called bins-00 to bins-ff: make it anew."


def check_root(
    old: Metadata[Root], new: Metadata[Root], held: Collection[KeyId], now: float
) -> None:
    """Refuse a root that does not follow `old`, or that this controller could not serve.

    Raises `WrongVersion`, `TooFewSignatures`, `ExpiredAlready`, `NoOnlineKey`, `OnlineThreshold`.
    """
    expected = old.signed.version + 1
    if new.signed.version != expected:
        raise WrongVersion("root", new.signed.version, expected)
    for judge in (old.signed, new.signed):
        check_signatures("root", new.data, judge.keys, judge.roles["root"])
    _check_alive("root", new.signed, now)
    check_online(new.signed, held)


def check_first_root(root: Metadata[Root], held: Collection[KeyId], now: float) -> None:
    """Refuse a first root that is not signed by itself, or that this controller cannot serve."""
    check_signatures("root", root.data, root.signed.keys, root.signed.roles["root"])
    _check_alive("root", root.signed, now)
    check_online(root.signed, held)


def check_online(root: Root, held: Collection[KeyId]) -> None:
    """Refuse a root whose online roles and director this controller cannot sign for."""
    roles = {name: root.roles[name] for name in ONLINE_ROLES} | {"director": root.wherry.director}
    for name, role in roles.items():
        if role.threshold != 1:
            raise OnlineThreshold(name, role.threshold)
        if not set(role.keyids) & set(held) & root.keys.keys():
            raise NoOnlineKey(name, role.keyids)


def check_targets(
    old: Metadata[Targets] | None,
    new: Metadata[Targets],
    *,
    root: Root,
    latest: Mapping[AliasName, int],
    now: float,
) -> None:
    """Refuse targets that do not follow `old`, or whose minima no operator can have meant.

    `latest` is the highest release of each alias. Raises `WrongVersion`, `TooFewSignatures`,
    `ExpiredAlready`, `OtherBins`, `NoSuchRelease` and `LowerMinimum`.
    """
    if old is not None and new.signed.version != old.signed.version + 1:
        raise WrongVersion("targets", new.signed.version, old.signed.version + 1)
    check_signatures("targets", new.data, root.keys, root.roles["targets"])
    _check_alive("targets", new.signed, now)
    bins = new.signed.delegations.succinct_roles
    if (bins.bit_length, bins.name_prefix) != (documents.BIN_BITS, documents.BIN_PREFIX):
        raise OtherBins
    before = {} if old is None else old.signed.wherry.min_release
    _check_minima(before, new.signed.wherry.min_release, latest)


def check_bin(role: RoleName, data: bytes, targets: Targets) -> None:
    """Refuse a bin that the bundle keys have not signed; raises `TooFewSignatures`."""
    check_signatures(role, data, targets.delegations.keys, documents.bundle_role(targets))


def check_signatures(name: str, data: bytes, keys: Mapping[KeyId, Key], role: Role) -> None:
    signed = documents.signers(data, keys, role)
    if len(signed) < role.threshold:
        raise TooFewSignatures(name, signed, set(role.keyids) - signed, role.threshold)


def _check_minima(
    before: Mapping[AliasName, int],
    after: Mapping[AliasName, int],
    latest: Mapping[AliasName, int],
) -> None:
    for alias, published in before.items():
        if after.get(alias, 0) < published:
            raise LowerMinimum(alias, after.get(alias, 0), published)
    for alias, wanted in after.items():
        if wanted > latest.get(alias, 0):
            raise NoSuchRelease(alias, wanted, latest.get(alias, 0))


def _check_alive(name: str, document: Document, now: float) -> None:
    if expires_at(document) <= now:
        raise ExpiredAlready(name, document.expires)
