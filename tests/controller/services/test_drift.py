"""The fleet's drift: a bundle's devices together and each by itself, against its reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import a_digest
from tests.controller.seen import LIKE, REFERENCE, UNLIKE, a_referenced_bundle, keep, tell
from tests.controller.stores import a_store, add_devices
from wherry.bundle import Bundle
from wherry.names import parse_device_id, parse_profile_name
from wherry_controller.core.drift import DriftLevel, worst_of
from wherry_controller.services.drift import drift_over_fleet, reference_of
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Transaction

ONE, TWO = parse_device_id("pi-1"), parse_device_id("pi-2")


class Kept:
    """A database with two devices, and a folder of blobs."""

    def __init__(self, tx: Transaction, blobs: BlobFolder) -> None:
        self.tx, self.blobs = tx, blobs

    def bundle(self, profile: str = "pi", **reference: bytes) -> Bundle:
        bundle = a_referenced_bundle(profile, **reference)
        keep(self.tx, self.blobs, bundle)
        return bundle


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    store = a_store(tmp_path)
    with store.transaction() as tx:
        add_devices(tx, ONE, TWO)
        yield Kept(tx, BlobFolder(tmp_path / "blobs"))
    store.close()


def test_devices_are_told_by_how_they_drifted_the_worst_first(kept: Kept) -> None:
    bundle = kept.bundle()
    tell(kept.tx, bundle, {ONE: LIKE, TWO: UNLIKE})
    (found,) = drift_over_fleet(kept.tx, kept.blobs, since=0.0)
    assert [(one.device, one.level, one.rows) for one in found.devices] == [
        (TWO, DriftLevel.DRIFTED, 1000),
        (ONE, DriftLevel.STABLE, 1000),
    ]
    assert found.bundle == bundle.digest
    assert found.inputs[0].rows == 2000
    assert worst_of(found.inputs) is DriftLevel.DRIFTED


def test_windows_of_a_device_add_up(kept: Kept) -> None:
    bundle = kept.bundle()
    for at in (10.0, 20.0):
        tell(kept.tx, bundle, {ONE: (10, 13, 10)}, at=at)
    (found,) = drift_over_fleet(kept.tx, kept.blobs, since=0.0)
    assert found.devices[0].rows == 66


def test_a_device_that_counts_in_other_bins_spoils_nothing(kept: Kept) -> None:
    bundle = kept.bundle()
    tell(kept.tx, bundle, {ONE: LIKE, TWO: (1, 2, 3, 4)})
    (found,) = drift_over_fleet(kept.tx, kept.blobs, since=0.0)
    assert (found.inputs[0].rows, found.inputs[0].level) == (1000, DriftLevel.STABLE)
    assert (found.devices[-1].device, found.devices[-1].rows) == (TWO, 0)


def test_each_profile_is_told_for_itself(kept: Kept) -> None:
    tell(kept.tx, kept.bundle("pi"), {ONE: LIKE}, at=50.0)
    tell(kept.tx, kept.bundle("nano"), {TWO: UNLIKE}, at=51.0)
    assert len(drift_over_fleet(kept.tx, kept.blobs, since=0.0)) == 2
    nano = parse_profile_name("nano")
    (found,) = drift_over_fleet(kept.tx, kept.blobs, since=0.0, profile=nano)
    assert found.manifest.profile.name == nano
    assert [one.device for one in found.devices] == [TWO]


def test_what_came_before_the_span_is_left_out(kept: Kept) -> None:
    bundle = kept.bundle()
    tell(kept.tx, bundle, {ONE: UNLIKE}, at=10.0)
    tell(kept.tx, bundle, {ONE: LIKE}, at=90.0)
    (found,) = drift_over_fleet(kept.tx, kept.blobs, since=50.0)
    assert found.devices[0].level is DriftLevel.STABLE


def test_a_bundle_whose_reference_cannot_be_read_has_no_drift(kept: Kept) -> None:
    tell(kept.tx, kept.bundle(reference=b"{}"), {ONE: LIKE}, at=10.0)
    lost = a_referenced_bundle("nano")
    tell(kept.tx, lost, {ONE: LIKE}, at=20.0)
    assert drift_over_fleet(kept.tx, kept.blobs, since=0.0) == []
    assert reference_of(kept.tx, kept.blobs, a_digest("unknown")) is None


def test_a_bundles_reference_is_read_from_its_blobs(kept: Kept) -> None:
    bundle = kept.bundle()
    assert reference_of(kept.tx, kept.blobs, bundle.digest) == REFERENCE
