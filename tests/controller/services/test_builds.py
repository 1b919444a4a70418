"""Registering versions and building them, with a builder that follows a script."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.builders import a_key
from tests.controller.scripted import (
    AtOnce,
    Script,
    ScriptedBuilder,
    a_card,
    a_profile_file,
    builds_all,
    crashes,
    refuses,
    refuses_profile,
    the_files,
)
from wherry.bundle import open_manifest
from wherry.manifest import blobs_of
from wherry.names import parse_model_name, parse_profile_name, parse_version_name
from wherry.signing import keyring
from wherry_controller.core.recipe import (
    BuildMessage,
    BuildReason,
    BuildRequest,
    BuildStep,
    Built,
    Progress,
)
from wherry_controller.core.written import parse_profile
from wherry_controller.services.builds import Builds, build_of
from wherry_controller.services.missing import Taken, UnknownProfile, UnknownVersion
from wherry_controller.services.models import (
    MissingFiles,
    RefusedVersion,
    StrangeFiles,
    register,
    version_of,
)
from wherry_controller.store import models
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store, open_store
from wherry_controller.store.records import Build, BuildStatus, Variant, Version, VersionStatus

DIGITS = parse_model_name("digits")
V1 = parse_version_name("v1")
FP32 = parse_profile_name("x86-onnx-fp32")
OTHER = parse_profile_name("pi-onnx-fp32")


@dataclass
class Shop:
    """A store with two profiles and what builds for them."""

    folder: Path
    store: Store
    blobs: BlobFolder
    builder: ScriptedBuilder = field(default_factory=lambda: ScriptedBuilder(builds_all))
    executor: Executor = field(default_factory=AtOnce)

    def __post_init__(self) -> None:
        self.builds = self.restarted()

    def restarted(self) -> Builds:
        builds = Builds(
            self.store,
            self.blobs,
            a_key(),
            builder=self.builder,
            executor=self.executor,
            workspace=self.folder / "builds",
            clock=lambda: 1000.0,
        )
        builds.start()
        return builds

    def register(self, **changes: bytes) -> Version:
        return register(self.store, self.blobs, a_card(), the_files(**changes), now=1.0)

    def build(self, script: Script = builds_all) -> Build:
        self.builder.script = script
        return self.build_of(self.builds.order(DIGITS, V1, [FP32, OTHER]).id)

    def build_of(self, build: str) -> Build:
        with self.store.transaction() as tx:
            return build_of(tx, build)

    def version(self) -> Version:
        with self.store.transaction() as tx:
            return version_of(tx, DIGITS, V1)

    def variants(self) -> list[Variant]:
        with self.store.transaction() as tx:
            return list(models.list_variants(tx, DIGITS, V1))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    store = open_store(f"sqlite:///{tmp_path / 'wherry.db'}")
    with store.transaction() as tx:
        for name in (FP32, OTHER):
            models.save_profile(tx, parse_profile(a_profile_file(name)))
    yield Shop(tmp_path, store, BlobFolder(tmp_path / "blobs"))
    store.close()


def test_the_same_version_may_be_registered_again(shop: Shop) -> None:
    assert shop.register() == shop.register()


def test_other_bytes_under_a_name_that_is_taken_are_refused(shop: Shop) -> None:
    shop.register()
    with pytest.raises(Taken, match=r"digits:v1.*choose another name"):
        shop.register(weights=b"other weights")


def test_the_lineage_tells_versions_with_other_bytes_apart(shop: Shop) -> None:
    lineage = shop.register().lineage
    with pytest.raises(Taken):
        shop.register(calibration=b"other calibration")
    assert shop.version().lineage == lineage


def test_a_file_that_the_card_names_must_come_with_it(shop: Shop) -> None:
    files = [file for file in the_files() if file[0] != "calibration.npz"]
    with pytest.raises(MissingFiles, match=r"calibration\.npz"):
        register(shop.store, shop.blobs, a_card(), files, now=1.0)


def test_a_file_that_the_card_does_not_name_is_refused(shop: Shop) -> None:
    files = [*the_files(), *the_files()[:1]]
    with pytest.raises(StrangeFiles, match=r"net\.py"):
        register(shop.store, shop.blobs, a_card(), files, now=1.0)


def test_a_build_leaves_a_signed_bundle_for_each_profile(shop: Shop) -> None:
    shop.register()
    assert shop.build().status is BuildStatus.SUCCEEDED
    for variant in shop.variants():
        with shop.store.transaction() as tx:
            envelope = models.get_envelope(tx, variant.bundle)
        assert envelope is not None
        manifest = open_manifest(envelope, keyring(a_key().public_key()), variant.bundle)
        assert manifest.profile.name == variant.profile
        assert all(shop.blobs.has(blob.digest) for blob in blobs_of(manifest))


def test_a_build_finds_the_files_under_their_names(shop: Shop) -> None:
    def script(request: BuildRequest) -> Iterator[BuildMessage]:
        assert (Path(request.folder) / "weights.pt").read_bytes() == b"weights"
        return builds_all(request)

    shop.register()
    assert shop.build(script).status is BuildStatus.SUCCEEDED


def test_building_again_gives_the_same_bundles(shop: Shop) -> None:
    shop.register()
    shop.build()
    before = [variant.bundle for variant in shop.variants()]
    shop.build()
    assert [variant.bundle for variant in shop.variants()] == before


@pytest.mark.parametrize(
    "reason",
    [
        BuildReason.BELOW_FLOOR,
        BuildReason.CLAIM_DIFFERS,
        BuildReason.OUTPUT_NOT_FINITE,
        BuildReason.STATE_DICT_MISFIT,
        BuildReason.FACTORY_NOT_IMPORTABLE,
    ],
)
def test_a_version_that_a_build_refuses_keeps_the_reason(shop: Shop, reason: BuildReason) -> None:
    shop.register()
    build = shop.build(refuses(reason))
    assert (build.status, build.reason) == (BuildStatus.REFUSED, reason.value)
    assert (shop.version().status, shop.version().reason) == (VersionStatus.REFUSED, reason.value)
    assert not shop.variants()


def test_a_refused_version_is_not_built_again(shop: Shop) -> None:
    shop.register()
    shop.build(refuses(BuildReason.OUTPUT_NOT_FINITE))
    with pytest.raises(RefusedVersion, match=r"output_not_finite.*a corrected one"):
        shop.build()


def test_a_profile_that_is_refused_leaves_the_version_and_the_others_standing(shop: Shop) -> None:
    shop.register()
    build = shop.build(refuses_profile(BuildReason.DROP_TOO_LARGE, OTHER))
    assert (build.status, build.reason) == (BuildStatus.REFUSED, "drop_too_large")
    assert build.detail.startswith(f"{OTHER}: ")
    assert shop.version().status is VersionStatus.REGISTERED
    assert [variant.profile for variant in shop.variants()] == [FP32]


def test_a_crash_fails_the_build_and_says_the_last_line(shop: Shop) -> None:
    shop.register()
    build = shop.build(crashes("MemoryError: out of memory"))
    assert (build.status, build.reason) == (BuildStatus.FAILED, "build_crashed")
    assert "MemoryError: out of memory" in build.detail
    assert shop.version().status is VersionStatus.REGISTERED


def test_a_manifest_that_is_not_the_announced_one_fails_the_build(shop: Shop) -> None:
    def script(request: BuildRequest) -> Iterator[BuildMessage]:
        for message in builds_all(request):
            if isinstance(message, Built):
                path = Path(request.output) / f"{message.profile}.manifest.json"
                path.write_bytes(path.read_bytes() + b" ")
            yield message

    shop.register()
    assert shop.build(script).status is BuildStatus.FAILED
    assert not shop.variants()


def test_an_unknown_profile_is_refused_before_a_build_begins(shop: Shop) -> None:
    shop.register()
    with pytest.raises(UnknownProfile, match=f"'tpu': choose one of {OTHER}, {FP32}"):
        shop.builds.order(DIGITS, V1, [FP32, parse_profile_name("tpu")])
    assert not shop.builder.requests


def test_an_unknown_version_is_refused_before_a_build_begins(shop: Shop) -> None:
    with pytest.raises(UnknownVersion, match="digits:v1"):
        shop.builds.order(DIGITS, V1, [FP32])
    assert not shop.builder.requests


class Never(AtOnce):
    """Takes work and does none of it."""

    def submit(self, work: object, /, *_: object, **__: object) -> Future[object]:  # type: ignore[override]
        return Future()


def test_a_build_that_waited_is_queued_again_after_a_restart(shop: Shop) -> None:
    shop.register()
    shop.executor = Never()
    build = shop.restarted().order(DIGITS, V1, [FP32])
    shop.executor = AtOnce()
    shop.restarted()
    assert shop.build_of(build.id).status is BuildStatus.SUCCEEDED


def test_a_build_that_ran_when_the_controller_died_is_failed_at_the_next_start(shop: Shop) -> None:
    def dies(_: BuildRequest) -> Iterator[BuildMessage]:
        yield Progress(BuildStep.LOADING, 0, 4)
        raise KeyboardInterrupt

    shop.register()
    with pytest.raises(KeyboardInterrupt):
        shop.build(dies)
    shop.restarted()
    with shop.store.transaction() as tx:
        (build,) = models.list_builds(tx)
    assert (build.status, build.reason) == (BuildStatus.FAILED, "controller_stopped")
