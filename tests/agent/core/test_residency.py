"""Whether two bundles are resident, by what memory there is."""

from __future__ import annotations

import pytest

from tests.builders import a_blob, a_manifest, a_profile
from wherry.manifest import MODEL_FILE, Manifest
from wherry.messages import SwapPolicy
from wherry_agent.core.residency import (
    WORKER_BYTES,
    Resident,
    choose_policy,
    estimate_bytes,
)

MIB = 1 << 20
AVAILABILITY, RESOURCE, AUTO = SwapPolicy.AVAILABILITY, SwapPolicy.RESOURCE, SwapPolicy.AUTO


def a_model(kib: int, *, memory_bytes: int | None = None) -> Manifest:
    return a_manifest(
        files={MODEL_FILE: a_blob(bytes(kib << 10), chunk_bytes=256 << 10)},
        profile=a_profile(memory_bytes=memory_bytes),
    )


SMALL, LARGE = a_model(1), a_model(10 << 10)


@pytest.mark.parametrize("wanted", [AVAILABILITY, RESOURCE])
def test_a_policy_that_is_wanted_is_followed(wanted: SwapPolicy) -> None:
    for available_bytes in (0, None, 1 << 40):
        chosen = choose_policy(
            wanted,
            SMALL,
            Resident(SMALL, 40 * MIB),
            available_bytes=available_bytes,
            reserve_bytes=0,
        )
        assert chosen is wanted


@pytest.mark.parametrize("wanted", [AUTO, RESOURCE])
def test_where_nothing_is_resident_nothing_is_unloaded(wanted: SwapPolicy) -> None:
    assert choose_policy(wanted, SMALL, None, available_bytes=0, reserve_bytes=0) is AVAILABILITY


def test_both_are_resident_where_they_fit_and_the_reserve_is_left() -> None:
    resident = Resident(SMALL, 50 * MIB)
    exactly = 50 * MIB + 32 * MIB
    for available_bytes, policy in ((exactly, AVAILABILITY), (exactly - 1, RESOURCE)):
        chosen = choose_policy(
            AUTO, SMALL, resident, available_bytes=available_bytes, reserve_bytes=32 * MIB
        )
        assert chosen is policy


def test_a_machine_that_does_not_tell_its_memory_keeps_both() -> None:
    resident = Resident(SMALL, 50 * MIB)
    chosen = choose_policy(AUTO, LARGE, resident, available_bytes=None, reserve_bytes=0)
    assert chosen is AVAILABILITY


def test_a_larger_candidate_takes_what_is_measured_and_more() -> None:
    assert estimate_bytes(SMALL, Resident(SMALL, 50 * MIB)) == 50 * MIB
    more = estimate_bytes(LARGE, Resident(SMALL, 50 * MIB)) - 50 * MIB
    assert more == round(2.3 * (10 * MIB - 1024))


def test_a_smaller_candidate_takes_no_less_than_what_is_measured() -> None:
    assert estimate_bytes(SMALL, Resident(LARGE, 70 * MIB)) == 70 * MIB


def test_where_nothing_was_measured_the_model_and_a_worker_are_counted() -> None:
    for resident in (None, Resident(SMALL, 0)):
        assert estimate_bytes(LARGE, resident) == WORKER_BYTES + round(2.3 * 10 * MIB)


def test_no_estimate_is_above_what_the_build_was_held_to() -> None:
    budgeted = a_model(10 << 10, memory_bytes=30 * MIB)
    assert estimate_bytes(budgeted, None) == 30 * MIB
