"""What a build is told: its request, and the files of its version laid out beside it."""

from __future__ import annotations

from pathlib import Path

from wherry_controller.core.build import BuildRequest, Limits
from wherry_controller.services.bench import OUTPUT, SOURCE, Bench
from wherry_controller.services.models import card_of, digests_of, known_profiles, version_of
from wherry_controller.services.previous import lay_out_previous
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store
from wherry_controller.store.records import Build


def lay_out(
    store: Store, blobs: BlobFolder, bench: Bench, *, build: Build, place: Path, limits: Limits
) -> BuildRequest:
    """Lay the version's files out in `place`, verified, and return what the build is told.

    Raises `LostBlob`, and `WrongBytes` where the disk lies.
    """
    with store.reading() as tx:
        version = version_of(tx, build.model, build.version)
        digests = digests_of(tx, build.model, build.version)
        profiles = known_profiles(tx, build.profiles)
    for name, digest in digests.items():
        blobs.copy(digest, place / SOURCE / name)
    return BuildRequest(
        card=card_of(version),
        folder=str(place / SOURCE),
        output=str(place / OUTPUT),
        cache=str(bench.cache_of(version.lineage)),
        runtimes=str(bench.runtimes),
        lineage=version.lineage,
        profiles=profiles,
        limits=limits,
        previous=lay_out_previous(
            store, blobs, bench.previous, version=version, profiles=build.profiles
        ),
    )
