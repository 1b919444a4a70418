"""Registering versions and building them, with a builder that follows a script."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest
from sqlmodel import select

from tests.builders import a_digest, a_key
from tests.controller.scripted import (
    AtOnce,
    Script,
    ScriptedBuilder,
    a_bench,
    a_card,
    a_fleet,
    a_profile_file,
    a_trials,
    builds_all,
    crashes,
    keeps,
    logs,
    refuses,
    refuses_profile,
    the_files,
)
from tests.controller.stores import a_store
from tests.controller.trusts import a_trust, target_of
from wherry import codec
from wherry.bundle import open_signed_manifest
from wherry.manifest import LARGEST_MANIFEST_BYTES, MODEL_FILE, Manifest, blobs_of
from wherry.names import parse_model_name, parse_profile_name, parse_version_name
from wherry.signing import keyring
from wherry_controller.core.build import (
    BLOBS,
    LOGS,
    BuildMessage,
    BuildRequest,
    BuildStep,
    Built,
    Limits,
    Progress,
    log_file,
    manifest_file,
)
from wherry_controller.core.fault import BuildReason, BuildRefused, Fault
from wherry_controller.core.written import parse_profile
from wherry_controller.services.bench import LARGEST_LOG_BYTES, OUTPUT
from wherry_controller.services.builds import (
    BuildOver,
    Builds,
    NothingToBuild,
    Scope,
    build_of,
)
from wherry_controller.services.child import BuildStopped
from wherry_controller.services.missing import (
    Taken,
    UnknownModel,
    UnknownProfile,
    UnknownVersion,
)
from wherry_controller.services.models import (
    MissingFiles,
    RefusedVersion,
    StrangeFiles,
    register,
    version_of,
)
from wherry_controller.services.told import advanced
from wherry_controller.store import models, records
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store
from wherry_controller.store.records import Build, BuildStatus, Variant, Version, VersionStatus
from wherry_controller.store.tables import BuildRow

P = ParamSpec("P")
T = TypeVar("T")

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
        self.trust = a_trust(self.store)
        self.builds = self.restarted()

    def restarted(self) -> Builds:
        builds = Builds(
            self.store,
            self.blobs,
            a_key(),
            vouch=self.trust.add_bundle,
            vouches_at_once=self.trust.vouches_at_once,
            builder=self.builder,
            executor=self.executor,
            bench=a_bench(self.folder),
            trials=a_trials(self.store, a_fleet(self.store, self.blobs)),
            clock=lambda: 1000.0,
            limits=Limits(),
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

    def register_as(self, version: str) -> Version:
        return register(
            self.store, self.blobs, a_card(version), the_files(), now=float(version[1:])
        )

    def only_build(self) -> Build:
        with self.store.transaction() as tx:
            (build,) = models.list_builds(tx)
        return build

    def reports(self) -> list[records.KeptReport]:
        with self.store.transaction() as tx:
            return list(models.list_reports(tx, DIGITS, V1))

    def version(self) -> Version:
        with self.store.transaction() as tx:
            return version_of(tx, DIGITS, V1)

    def variants(self) -> list[Variant]:
        with self.store.transaction() as tx:
            return list(models.list_variants(tx, DIGITS, V1))


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    store = a_store(tmp_path)
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
        manifest = open_signed_manifest(envelope, keyring(a_key().public_key()), variant.bundle)
        assert manifest.profile.name == variant.profile
        assert all(shop.blobs.has(blob.digest) for blob in blobs_of(manifest))


def test_what_a_build_leaves_is_among_the_targets_and_released_to_nobody(shop: Shop) -> None:
    shop.register()
    shop.build()
    targets = {
        one.profile: target_of(shop.store, shop.trust, one.bundle) for one in shop.variants()
    }
    assert {
        profile: (target.version, target.profile, target.measuring, target.releases)
        for profile, target in targets.items()
        if target is not None
    } == {profile: (V1, profile, False, {}) for profile in (FP32, OTHER)}


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


def leaves(spoil: Callable[[Path], None]) -> Script:
    """Return the script that builds all, and spoils each manifest before it is read."""

    def script(request: BuildRequest) -> Iterator[BuildMessage]:
        for message in builds_all(request):
            if isinstance(message, Built):
                spoil(Path(request.output) / manifest_file(message.profile))
            yield message

    return script


def links(file: Path) -> None:
    file.rename(file.with_suffix(".elsewhere"))
    file.symlink_to(file.with_suffix(".elsewhere"))


def makes_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def lengthens(file: Path) -> None:
    file.write_bytes(file.read_bytes().ljust(2 * LARGEST_MANIFEST_BYTES))


@pytest.mark.parametrize("spoil", [links, makes_a_pipe, lengthens])
def test_a_manifest_that_is_no_plain_short_file_is_not_signed(
    shop: Shop, spoil: Callable[[Path], None]
) -> None:
    shop.register()
    build = shop.build(leaves(spoil))
    assert build.status is BuildStatus.FAILED
    assert not shop.variants()


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
    assert shop.builder.ended_in == [True]


def test_an_unknown_profile_is_refused_before_a_build_begins(shop: Shop) -> None:
    shop.register()
    with pytest.raises(UnknownProfile, match=f"'tpu': choose one of {OTHER}, {FP32}"):
        shop.builds.order(DIGITS, V1, [FP32, parse_profile_name("tpu")])
    assert not shop.builder.requests


def test_an_unknown_version_is_refused_before_a_build_begins(shop: Shop) -> None:
    with pytest.raises(UnknownVersion, match="digits:v1"):
        shop.builds.order(DIGITS, V1, [FP32])
    assert not shop.builder.requests


def dies(_: BuildRequest) -> Iterator[BuildMessage]:
    yield Progress(BuildStep.LOADING, 0, 4)
    raise KeyboardInterrupt


def stops(_: BuildRequest) -> Iterator[BuildMessage]:
    yield Progress(BuildStep.LOADING, 0, 4)
    raise BuildStopped


class Later(Executor):
    """Does the work that it was given when it is told to."""

    def __init__(self) -> None:
        self._waiting: list[Callable[[], object]] = []

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self._waiting.append(partial(work, *args, **kwargs))
        return Future()

    def do_all(self) -> None:
        for work in self._waiting:
            work()


def test_a_build_that_waited_is_queued_again_after_a_restart(shop: Shop) -> None:
    shop.register()
    shop.executor = Later()
    build = shop.restarted().order(DIGITS, V1, [FP32])
    shop.executor = AtOnce()
    shop.restarted()
    assert shop.build_of(build.id).status is BuildStatus.SUCCEEDED


def test_a_build_that_ran_when_the_controller_died_is_run_again_at_the_next_start(
    shop: Shop,
) -> None:
    shop.register()
    with pytest.raises(KeyboardInterrupt):
        shop.build(dies)
    shop.builder.script = builds_all
    shop.restarted()
    build = shop.only_build()
    assert (build.status, build.attempts) == (BuildStatus.SUCCEEDED, 2)
    first, second = shop.builder.requests
    assert first.cache == second.cache


def test_a_build_under_which_the_controller_died_twice_is_failed(shop: Shop) -> None:
    shop.register()
    with pytest.raises(KeyboardInterrupt):
        shop.build(dies)
    with pytest.raises(KeyboardInterrupt):
        shop.restarted()
    shop.restarted()
    build = shop.only_build()
    assert (build.status, build.reason) == (BuildStatus.FAILED, "controller_died")
    assert "wherry model log" in build.detail
    assert len(shop.builder.requests) == 2


def test_orderly_stops_of_the_controller_fail_no_build(shop: Shop) -> None:
    shop.register()
    assert shop.build(stops).status is BuildStatus.QUEUED
    for _ in range(3):
        shop.restarted()
    shop.builder.script = builds_all
    shop.restarted()
    assert shop.only_build().status is BuildStatus.SUCCEEDED


def test_a_build_that_the_database_keeps_from_beginning_is_told_in_the_log(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.register()
    is_broken = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(is_broken.wait)
        shop.executor = executor
        shop.restarted().order(DIGITS, V1, [FP32])
        with shop.store.transaction() as tx:
            tx.delete(tx.exec(select(BuildRow)).one())
        is_broken.set()
    assert "build.left_open" in caplog.text


def test_a_build_that_waits_and_is_canceled_never_begins(shop: Shop) -> None:
    shop.register()
    later = shop.executor = Later()
    builds = shop.restarted()
    build = builds.order(DIGITS, V1, [FP32])
    assert builds.cancel(build.id).status is BuildStatus.CANCELED
    later.do_all()
    assert shop.build_of(build.id).status is BuildStatus.CANCELED
    assert not shop.builder.requests


def test_a_build_that_runs_and_is_canceled_ends_and_keeps_what_it_built(shop: Shop) -> None:
    def script(request: BuildRequest) -> Iterator[BuildMessage]:
        for message in builds_all(request):
            yield message
            if isinstance(message, Built):
                shop.builds.cancel(shop.only_build().id)

    shop.register()
    build = shop.build(script)
    assert (build.status, build.reason) == (BuildStatus.CANCELED, "canceled")
    assert [variant.profile for variant in shop.variants()] == [FP32]
    shop.restarted()
    assert shop.build_of(build.id).status is BuildStatus.CANCELED


def test_a_build_that_is_canceled_at_its_very_end_stays_canceled(shop: Shop) -> None:
    def script(request: BuildRequest) -> Iterator[BuildMessage]:
        yield from builds_all(request)
        shop.builds.cancel(shop.only_build().id)

    shop.register()
    assert shop.build(script).status is BuildStatus.CANCELED


def test_a_fault_of_the_machine_is_none_of_the_version(shop: Shop) -> None:
    shop.register()
    assert shop.build(refuses(BuildReason.RUNTIME_MISSING)).status is BuildStatus.REFUSED
    assert shop.version().status is VersionStatus.REGISTERED


def test_a_build_that_is_over_cannot_be_canceled(shop: Shop) -> None:
    shop.register()
    build = shop.build()
    with pytest.raises(BuildOver, match="succeeded already"):
        shop.builds.cancel(build.id)


def test_a_build_without_profiles_is_for_all_that_are_declared(shop: Shop) -> None:
    shop.register()
    build = shop.builds.order(DIGITS, V1, [])
    assert set(build.profiles) == {FP32, OTHER}


def test_all_builds_the_newest_version_of_each_model_that_no_build_refused(shop: Shop) -> None:
    for version in ("v1", "v2", "v3"):
        shop.register_as(version)
    shop.builder.script = refuses(BuildReason.OUTPUT_NOT_FINITE)
    shop.builds.order(DIGITS, parse_version_name("v3"), [FP32])
    shop.builder.script = builds_all
    (build,) = shop.builds.order_all([], [], Scope.NEWEST)
    assert (build.version, len(build.profiles)) == ("v2", 2)
    every = shop.builds.order_all([DIGITS], [FP32], Scope.EVERY)
    assert [(one.version, one.profiles) for one in every] == [("v1", (FP32,)), ("v2", (FP32,))]


def test_all_of_nothing_is_refused(shop: Shop) -> None:
    with pytest.raises(NothingToBuild, match="wherry model add"):
        shop.builds.order_all([], [], Scope.NEWEST)
    with pytest.raises(UnknownModel):
        shop.builds.order_all([DIGITS], [], Scope.NEWEST)


@pytest.mark.parametrize("reason", [BuildReason.OUT_OF_MEMORY, BuildReason.OUT_OF_TIME])
def test_a_build_over_its_limits_is_refused_and_its_version_is_not(
    shop: Shop, reason: BuildReason
) -> None:
    def script(_: BuildRequest) -> Iterator[BuildMessage]:
        yield Progress(BuildStep.LOADING, 0, 4)
        raise BuildRefused(Fault(reason, "it took more than it may"))

    shop.register()
    build = shop.build(script)
    assert (build.status, build.reason) == (BuildStatus.REFUSED, reason.value)
    assert "raise build." in build.detail
    assert shop.version().status is VersionStatus.REGISTERED
    assert shop.build().status is BuildStatus.SUCCEEDED


def test_a_profile_keeps_the_report_of_its_last_build(shop: Shop) -> None:
    shop.register()
    shop.build(refuses_profile(BuildReason.DROP_TOO_LARGE, OTHER))
    reports = {report.profile: report for report in shop.reports()}
    assert reports[FP32].document.chosen is not None
    assert reports[OTHER].document.chosen is None
    assert reports[OTHER].tools["wherry-controller"]
    again = shop.build()
    assert {report.build for report in shop.reports()} == {again.id}
    assert all(report.document.chosen for report in shop.reports())


def test_the_weights_that_a_build_hands_over_stay_with_the_version(shop: Shop) -> None:
    shop.register()
    assert shop.build(keeps(b"safetensors", b"safetensors")).status is BuildStatus.SUCCEEDED
    reference = shop.version().reference
    assert reference is not None
    assert shop.blobs.get(reference) == b"safetensors"


def test_weights_that_are_not_the_announced_ones_fail_the_build(shop: Shop) -> None:
    shop.register()
    assert shop.build(keeps(b"safetensors", b"altered")).status is BuildStatus.FAILED
    assert shop.version().reference is None


def test_logs_are_kept_and_the_end_of_a_refused_build_says_where(shop: Shop) -> None:
    refused = refuses_profile(BuildReason.DROP_TOO_LARGE, OTHER)
    shop.register()
    build = shop.build(logs({OTHER: "x" * 2_000_000 + "the end"}, refused))
    assert f"`wherry model log {build.id} --profile {OTHER}`" in build.detail
    kept = shop.builds.log(build, OTHER)
    assert kept is not None and kept.endswith(b"the end") and len(kept) == LARGEST_LOG_BYTES
    assert shop.builds.log(build, FP32) is None


def test_a_build_that_runs_again_shows_no_log_of_the_run_before(shop: Shop) -> None:
    bench = a_bench(shop.folder)
    for run in ("first", "second"):
        with bench.place_for("b1", [FP32]) as place:
            assert bench.log("b1", FP32) is None
            (place / OUTPUT / LOGS).mkdir()
            (place / OUTPUT / LOGS / log_file(FP32)).write_text(run)
            assert bench.log("b1", FP32) == run.encode()
    assert bench.log("b1", FP32) == b"second"


def test_a_link_among_the_logs_shows_nothing_of_the_controllers_files(
    shop: Shop, tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_text("secret")

    def script(request: BuildRequest) -> Iterator[BuildMessage]:
        folder = Path(request.output) / LOGS
        folder.mkdir()
        (folder / log_file(FP32)).symlink_to(tmp_path / "key.pem")
        yield from builds_all(request)

    shop.register()
    assert shop.builds.log(shop.build(script), FP32) is None


def test_the_steps_of_versions_are_bounded_and_the_oldest_go_first(tmp_path: Path) -> None:
    bench = a_bench(tmp_path, cache_bytes=250)
    bench.clear()
    lineages = [a_digest(name) for name in ("first", "second", "third")]
    for age, lineage in enumerate(lineages):
        (bench.cache_of(lineage) / "step").write_bytes(b"x" * 100)
        os.utime(bench.cache / lineage, (age, age))
    bench.bound_cache(in_use={lineages[0]})
    assert {folder.name for folder in bench.cache.iterdir()} == {lineages[0], lineages[2]}


def test_steps_that_another_build_removes_meanwhile_are_not_counted(tmp_path: Path) -> None:
    bench = a_bench(tmp_path, cache_bytes=1 << 30)
    bench.clear()
    is_over = threading.Event()

    def make_and_remove() -> None:
        while not is_over.is_set():
            folder = bench.cache_of(a_digest("first"))
            (folder / "step").write_bytes(b"x")
            shutil.rmtree(folder)

    with ThreadPoolExecutor(1) as other:
        other.submit(make_and_remove)
        try:
            for _ in range(5000):
                bench.bound_cache(in_use=frozenset())
        finally:
            is_over.set()


def test_a_build_is_told_where_the_version_before_stands(shop: Shop) -> None:
    shop.register()
    shop.builds.order(DIGITS, V1, [FP32])
    shop.register_as("v2")
    for _ in range(2):
        shop.builds.order(DIGITS, parse_version_name("v2"), [FP32, OTHER])
    first, second, third = shop.builder.requests
    assert first.previous == {} and set(second.previous) == {FP32}
    assert third.previous == second.previous  # The same place, so that cached steps are found.
    place = Path(second.previous[FP32])
    manifest = codec.decode(Manifest, (place / "manifest.json").read_bytes())
    assert manifest.version == "v1"
    model = manifest.files[MODEL_FILE].digest
    assert (place / BLOBS / model).read_bytes() == shop.blobs.get(model)


def test_progress_is_told_of_the_build_and_of_each_profile() -> None:
    first = advanced(records.Progress(), Progress(BuildStep.QUANTIZING, 1, 8, FP32))
    second = advanced(first, Progress(BuildStep.PACKING, 2, 8, OTHER))
    assert (second.step, second.done) == (f"packing {OTHER}", 2)
    assert second.profiles[FP32] == records.ProfileProgress("quantizing", 1, 8)
