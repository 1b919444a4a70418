"""Each fact that should worry an operator does, with what to do about it."""

from __future__ import annotations

import pytest

from tests.builders import a_deployment, a_digest, an_alias
from wherry.measures import HostFacts
from wherry.messages import Deployment
from wherry.reasons import Phase, Reason, Status
from wherry_agent.core.checkup import (
    Check,
    Health,
    bad,
    check_aliases,
    check_certificate,
    check_clock,
    check_disk,
    check_heat,
    check_memory,
    concern,
    well,
    worst,
)
from wherry_agent.core.install import Idle, State

DAY_S = 86_400.0
OLD = a_digest("old")


def ended(status: Status, reason: Reason, detail: str = "") -> Deployment:
    return a_deployment(status=status, reason=reason, detail=detail, phase=None)


def the_alias(state: State) -> Check:
    (check,) = check_aliases({an_alias(): state})
    assert check.subject == "model default"
    return check


@pytest.mark.parametrize(
    ("now_days", "health"),
    [(0, Health.WELL), (22, Health.WELL), (23, Health.CONCERN), (30, Health.BAD), (40, Health.BAD)],
)
def test_a_certificate_worries_from_its_last_quarter_on(now_days: int, health: Health) -> None:
    check = check_certificate(0.0, 30 * DAY_S, now_days * DAY_S)
    assert check.health is health
    assert bool(check.remedy) == (health is not Health.WELL)


def test_a_clock_is_behind_when_something_signed_is_newer() -> None:
    assert check_clock(5 * DAY_S, 5 * DAY_S + 60).health is Health.WELL
    late = check_clock(0.0, 5 * DAY_S)
    assert (late.health, late.found) == (Health.CONCERN, "it is 5.0 days or more behind")


def test_a_disk_is_bad_when_full_or_read_only() -> None:
    roomy = HostFacts(disk_free_bytes=100 << 20)
    reserve_bytes = 16 << 20
    assert check_disk(roomy, reserve_bytes=reserve_bytes, is_read_only=False).health is Health.WELL
    assert check_disk(roomy, reserve_bytes=reserve_bytes, is_read_only=True).health is Health.BAD
    full = HostFacts(disk_free_bytes=reserve_bytes)
    assert check_disk(full, reserve_bytes=reserve_bytes, is_read_only=False).health is Health.BAD


def test_memory_worries_below_a_twentieth_and_where_nobody_tells() -> None:
    total = 1000 << 20
    free = HostFacts(memory_available_bytes=50 << 20, memory_total_bytes=total)
    tight = HostFacts(memory_available_bytes=(50 << 20) - 1, memory_total_bytes=total)
    assert check_memory(free) == well("memory", "50 of 1000 MiB are free")
    assert check_memory(tight).health is Health.CONCERN
    assert check_memory(HostFacts()).health is Health.CONCERN


def test_heat_worries_when_it_is_felt() -> None:
    assert check_heat(HostFacts()).health is Health.WELL
    assert check_heat(HostFacts(temperature_c=79.9)).health is Health.WELL
    assert check_heat(HostFacts(temperature_c=80.0)).health is Health.CONCERN
    assert check_heat(HostFacts(temperature_c=50.0, throttled=True)).health is Health.CONCERN


def test_a_device_without_any_model_is_of_concern() -> None:
    (check,) = check_aliases({})
    assert (check.subject, check.health) == ("models", Health.CONCERN)


def test_what_serves_and_what_is_under_way_is_well() -> None:
    assert the_alias(Idle((OLD,))) == well("model default", f"{OLD[:12]} serves")
    coming = a_deployment(status=Status.IN_PROGRESS, phase=Phase.FETCHING, reason=None)
    assert the_alias(Idle((OLD,), coming)).health is Health.WELL


def test_a_deployment_that_failed_is_worse_where_nothing_else_serves() -> None:
    outcome = ended(Status.REJECTED, Reason.MISSING_RUNTIME, "onnxruntime is not here")
    first, later = the_alias(Idle((), outcome)), the_alias(Idle((OLD,), outcome))
    assert (first.health, later.health) == (Health.BAD, Health.CONCERN)
    assert "rejected: missing_runtime (onnxruntime is not here)" in first.found
    assert first.remedy == later.remedy
    assert first.remedy.startswith("install the runtime")


@pytest.mark.parametrize("status", [Status.FAILED, Status.REVERTED, Status.TIMED_OUT])
def test_a_reason_without_a_remedy_of_its_own_has_the_common_one(status: Status) -> None:
    check = the_alias(Idle((OLD,), ended(status, Reason.SLOW)))
    assert check.health is Health.CONCERN
    assert check.remedy == "correct the version, then roll it out anew"


def test_a_revoked_bundle_that_serves_is_bad() -> None:
    check = the_alias(Idle((OLD,), None, frozenset({OLD})))
    assert check.health is Health.BAD
    assert "revoked" in check.found


def test_an_alias_that_nothing_serves_is_of_concern() -> None:
    assert the_alias(Idle()).health is Health.CONCERN


def test_the_worst_check_counts() -> None:
    fine, so_so, broken = well("a", ""), concern("b", "", ""), bad("c", "", "")
    assert worst([]) is Health.WELL
    assert worst([fine, so_so]) is Health.CONCERN
    assert worst([broken, so_so, fine]) is Health.BAD
