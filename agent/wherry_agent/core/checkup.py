"""What the facts of a device mean: each a check that is well, of concern or bad, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum

import msgspec

from wherry.measures import HostFacts
from wherry.names import AliasName
from wherry.reasons import Reason, Status
from wherry_agent.core import install

DAY_S = 86_400.0
CLOCK_SLACK_S = 3600.0
LEAST_MEMORY_SHARE = 0.05
HOT_C = 80.0
LIFE_SHARE = 1 / 4  # Of a certificate's life: a device renews at two thirds by itself.


class Health(str, Enum):
    WELL = "well"
    CONCERN = "concern"
    BAD = "bad"


class Check(msgspec.Struct, frozen=True):
    """`found` is what is so; `remedy` what to do about it, empty where all is well."""

    subject: str
    health: Health
    found: str
    remedy: str = ""


def well(subject: str, found: str) -> Check:
    return Check(subject, Health.WELL, found)


def concern(subject: str, found: str, remedy: str) -> Check:
    return Check(subject, Health.CONCERN, found, remedy)


def bad(subject: str, found: str, remedy: str) -> Check:
    return Check(subject, Health.BAD, found, remedy)


def check_certificate(not_before: float, not_after: float, now: float) -> Check:
    """Judge the dates of this device's certificate by the time that it goes by."""
    subject, left_s = "certificate", not_after - now
    if left_s <= 0:
        remedy = "let the agent reach the controller's door, which renews it for a year after"
        return bad(subject, f"it ended {-left_s / DAY_S:.1f} days ago", remedy)
    if left_s < LIFE_SHARE * (not_after - not_before):
        remedy = "look why the agent does not renew it: its door must be reachable"
        return concern(subject, f"it ends in {left_s / DAY_S:.1f} days", remedy)
    return well(subject, f"it is valid for {left_s / DAY_S:.0f} days more")


def check_clock(clock: float, proved: float) -> Check:
    """Hold the wall clock against the latest time that something signed has proved."""
    behind_s = proved - clock
    if behind_s > CLOCK_SLACK_S:
        remedy = "set the clock, or run a time service; until then signed times are gone by"
        return concern("clock", f"it is {behind_s / DAY_S:.1f} days or more behind", remedy)
    return well("clock", "it is not behind any signed time")


def check_disk(facts: HostFacts, *, reserve_bytes: int, is_read_only: bool) -> Check:
    if is_read_only:
        remedy = "mount it writable, or replace the card: nothing is kept meanwhile"
        return bad("disk", "it takes no writes", remedy)
    free_bytes = facts.disk_free_bytes or 0
    if free_bytes <= reserve_bytes:
        found = f"{free_bytes >> 20} MiB are free and {reserve_bytes >> 20} MiB are kept free"
        return bad("disk", found, "make room: no bundle is fetched meanwhile")
    return well("disk", f"{free_bytes >> 20} MiB are free")


def check_memory(facts: HostFacts) -> Check:
    free_bytes, total_bytes = facts.memory_available_bytes, facts.memory_total_bytes
    if free_bytes is None or not total_bytes:
        return concern("memory", "the kernel does not say how much is free", "mount /proc")
    found = f"{free_bytes >> 20} of {total_bytes >> 20} MiB are free"
    if free_bytes < LEAST_MEMORY_SHARE * total_bytes:
        return concern("memory", found, "stop other programs, or have a smaller variant built")
    return well("memory", found)


def check_heat(facts: HostFacts) -> Check:
    if facts.throttled:
        remedy = "cool it, and give it a supply that is strong enough"
        return concern("heat", "the processor is throttled", remedy)
    if facts.temperature_c is None:
        return well("heat", "no sensor tells")
    found = f"{facts.temperature_c:.0f} °C"
    return well("heat", found) if facts.temperature_c < HOT_C else concern("heat", found, "cool it")


def check_aliases(states: Mapping[AliasName, install.State]) -> Iterator[Check]:
    """Judge what serves under each alias, and how its last deployment ended."""
    if not states:
        remedy = "roll a version out to this device, and let it reach the broker"
        yield concern("models", "none was ever ordered", remedy)
    for alias, state in states.items():
        yield _check_alias(f"model {alias}", state)


def _check_alias(subject: str, state: install.State) -> Check:
    active = install.slots_of(state).active
    deployment = install.deployment_of(state)
    if install.serves_revoked(state):
        remedy = "roll out a version that is not revoked: nothing else can serve here"
        return bad(subject, f"it serves {_short(active)}, which is revoked", remedy)
    if deployment is not None and deployment.status in _FAILED:
        why = deployment.reason.value if deployment.reason else deployment.status.value
        said = f"{deployment.status.value}: {why}"
        found = f"{_short(deployment.bundle)} {said}{_more(deployment.detail)}"
        remedy = _REMEDIES.get(deployment.reason or Reason.DEADLINE, ANEW)
        return concern(subject, found, remedy) if active else bad(subject, found, remedy)
    if deployment is not None and not deployment.status.is_final:
        phase = deployment.phase.value if deployment.phase else deployment.status.value
        return well(subject, f"{_short(deployment.bundle)} is in {phase}")
    if active is None:
        return concern(subject, "nothing serves", "roll a version out to this device")
    return well(subject, f"{_short(active)} serves")


ANEW = "correct the version, then roll it out anew"
_FAILED = (Status.REJECTED, Status.FAILED, Status.REVERTED, Status.TIMED_OUT)

_REMEDIES: dict[Reason, str] = {
    Reason.MISSING_RUNTIME: "install the runtime in the version that the profile names",
    Reason.BAD_RUNTIME: "install another version of the runtime: this one fails on this processor",
    Reason.DISK_FULL: "make room, then order it again",
    Reason.UNSUITABLE_PROFILE: "enrol with the profile that `wherry-agent profile` proposes",
    Reason.OVER_MEMORY: "have a smaller variant built, or allow more memory in the profile",
    Reason.OVER_BUDGET: "free memory, or roll out without shadowing",
    Reason.GOLDEN_MISMATCH: "build for this very processor: it computes otherwise than the build",
    Reason.TOO_HOT: "cool the device, then order it again",
    Reason.EXPIRED_ORDER: "let the device reach the broker, and look at its clock",
}


def _more(detail: str) -> str:
    return f" ({detail})" if detail else ""


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "nothing"


def worst(checks: Iterable[Check]) -> Health:
    """Return the worst health among the checks."""
    found = {check.health for check in checks}
    return next((health for health in (Health.BAD, Health.CONCERN) if health in found), Health.WELL)
