"""Registering versions: a card and its files become one immutable, named state of a model.

The same card with the same bytes is the same version, so registering it again changes nothing;
another card or other bytes under a name that is taken are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO

from wherry import codec
from wherry.errors import Malformed, Unsuitable
from wherry.names import Digest, ModelName, ProfileName, VersionName
from wherry.profile import Profile
from wherry_controller.core.card import Card, files_of, lineage_digest, parse_card
from wherry_controller.services.missing import (
    Taken,
    UnknownModel,
    UnknownProfile,
    UnknownVersion,
)
from wherry_controller.store import models
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store, Transaction
from wherry_controller.store.records import Model, Version, VersionFile, VersionStatus


class MissingFiles(Malformed):
    """A card came without all the files that it names."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.names = tuple(names)

    def __str__(self) -> str:
        return (
            f"model.toml names {', '.join(self.names)}, which did not come with it: "
            "put each beside model.toml, or correct its name there."
        )


class StrangeFiles(Malformed):
    """Files came that the card does not name, or one came twice."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.names = tuple(names)

    def __str__(self) -> str:
        return (
            f"{', '.join(self.names)} came and model.toml does not name it (once): "
            "name it there, or leave it out."
        )


class RefusedVersion(Unsuitable):
    """A version that a build refused."""

    def __init__(self, version: str, reason: str) -> None:
        super().__init__(version, reason)
        self.version, self.reason = version, reason

    def __str__(self) -> str:
        return f"{self.version} was refused ({self.reason}): register and build a corrected one."


class ImportedVersion(Unsuitable):
    """A version whose files stayed where it was made."""

    def __init__(self, version: str) -> None:
        super().__init__(version)
        self.version = version

    def __str__(self) -> str:
        return (
            f"{self.version} was imported without its files: add them with `wherry model add`, "
            "or import its other variants."
        )


class NoProfile(Unsuitable):
    """Nothing to build for."""

    def __str__(self) -> str:
        return "no profile is declared: add one with `wherry profile add`."


def register(
    store: Store,
    blobs: BlobFolder,
    card: bytes,
    files: Sequence[tuple[str, IO[bytes]]],
    *,
    now: float,
) -> Version:
    """Keep a version's files and register it; return the one that is there if it is the same.

    `card` is the bytes of its `model.toml`, `files` the name and content of each file. Raises
    `BadFile`, `BadCard`, `MissingFiles`, `StrangeFiles`, `TooLarge` or `Taken`.
    """
    parsed = parse_card(card)
    _check_names(parsed, [name for name, _ in files])
    kept = [VersionFile(name, *blobs.take(content)) for name, content in files]
    version = Version(
        model=parsed.model,
        name=parsed.version,
        card=codec.encode(parsed).decode(),
        lineage=lineage_digest(parsed, {file.name: file.digest for file in kept}),
        created_at=now,
    )
    with store.transaction() as tx:
        known = models.get_version(tx, version.model, version.name)
        if known is None:
            if models.get_model(tx, version.model) is None:
                models.save_model(tx, Model(version.model, now))
            models.save_version(tx, version, kept)
            return version
        if known.lineage == version.lineage and known.status is VersionStatus.IMPORTED:
            models.save_version(tx, version, kept)  # Now it can be built here, too.
            return version
    if known.lineage != version.lineage:
        raise Taken("version", f"{version.model}:{version.name}")
    return known


def version_of(tx: Transaction, model: ModelName, name: VersionName) -> Version:
    """Return a version; raise `UnknownVersion`."""
    version = models.get_version(tx, model, name)
    if version is None:
        raise UnknownVersion(f"{model}:{name}")
    return version


def sound_version_of(tx: Transaction, model: ModelName, name: VersionName) -> Version:
    """Return a version that no build has refused; raise `UnknownVersion` or `RefusedVersion`."""
    version = version_of(tx, model, name)
    if version.status is VersionStatus.REFUSED:
        raise RefusedVersion(f"{model}:{name}", version.reason)
    return version


def buildable_version_of(tx: Transaction, model: ModelName, name: VersionName) -> Version:
    """Return a sound version whose files are here; raise `ImportedVersion` too."""
    version = sound_version_of(tx, model, name)
    if version.status is VersionStatus.IMPORTED:
        raise ImportedVersion(f"{model}:{name}")
    return version


def buildable_versions_of(tx: Transaction, model: ModelName) -> Sequence[Version]:
    """Return the sound versions whose files are here, the oldest first; raise `UnknownModel`."""
    if models.get_model(tx, model) is None:
        raise UnknownModel(model)
    versions = models.list_versions(tx, model)
    return [one for one in versions if one.status is VersionStatus.REGISTERED]


def card_of(version: Version) -> Card:
    return codec.decode(Card, version.card.encode())


def digests_of(tx: Transaction, model: ModelName, name: VersionName) -> Mapping[str, Digest]:
    """Return the digest of each file of a version by its name."""
    return {file.name: file.digest for file in models.list_files(tx, model, name)}


def known_profiles(tx: Transaction, names: Sequence[ProfileName]) -> tuple[Profile, ...]:
    """Return the profiles of those names, each once; raise `UnknownProfile`."""
    known = {profile.name: profile for profile in models.list_profiles(tx)}
    for name in names:
        if name not in known:
            raise UnknownProfile(name, sorted(known))
    return tuple(known[name] for name in dict.fromkeys(names))


def wanted_profiles(tx: Transaction, names: Sequence[ProfileName]) -> tuple[Profile, ...]:
    """Return the profiles of those names, all that are declared where none is named.

    Raises `UnknownProfile`, and `NoProfile` where none is declared.
    """
    wanted = known_profiles(tx, names) if names else tuple(models.list_profiles(tx))
    if not wanted:
        raise NoProfile
    return wanted


def _check_names(card: Card, names: Sequence[str]) -> None:
    wanted = set(files_of(card))
    missing = wanted - set(names)
    if missing:
        raise MissingFiles(sorted(missing))
    strange = {name for name in names if name not in wanted or names.count(name) > 1}
    if strange:
        raise StrangeFiles(sorted(strange))
