"""What the commands read of the API's answers; the rest of an answer is left alone."""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

from wherry.messages import Event, Shadow, Split, SwapPolicy, TrustReport
from wherry.profile import Facts
from wherry.reasons import Status
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.core.rollout import RolloutStatus
from wherry_controller.store.records import BuildStatus

T = TypeVar("T")
AGENT = "wherry-agent"
Fact = str | int | float | bool | None


class Page(msgspec.Struct, Generic[T], frozen=True):
    items: tuple[T, ...]
    next_cursor: str | None = None


class Happened(msgspec.Struct, frozen=True):
    event: Event
    received_at: float


class Model(msgspec.Struct, frozen=True):
    name: str
    versions: tuple[str, ...]


class Report(msgspec.Struct, frozen=True):
    metric: str
    value: float
    reference_value: float


class Latency(msgspec.Struct, frozen=True):
    p50_ms: float
    measured_on: str


class Variant(msgspec.Struct, frozen=True):
    model: str
    version: str
    profile: str
    runtime: str
    precision: str
    bundle: str
    size_bytes: int
    report: Report
    latency: Latency | None
    releases: dict[str, int] = {}


class Task(msgspec.Struct, frozen=True):
    metric: str = "accuracy"
    claimed: float | None = None


class Card(msgspec.Struct, frozen=True):
    task: Task


class Version(msgspec.Struct, frozen=True):
    model: str
    name: str
    status: str
    reason: str
    lineage: str
    reference: str | None
    card: Card
    created_at: float
    variants: tuple[Variant, ...] = ()


class Profile(msgspec.Struct, frozen=True):
    name: str
    arch: str
    runtime: str
    precisions: tuple[str, ...]
    threads: int


class ProfileProgress(msgspec.Struct, frozen=True):
    step: str


class Progress(msgspec.Struct, frozen=True):
    step: str
    done: int
    total: int
    profiles: dict[str, ProfileProgress]


class Build(msgspec.Struct, frozen=True):
    id: str
    model: str
    version: str
    profiles: tuple[str, ...]
    status: BuildStatus
    reason: str
    detail: str
    progress: Progress
    created_at: float
    variants: tuple[Variant, ...] = ()

    @property
    def is_over(self) -> bool:
        return not self.status.is_open


class Deployment(msgspec.Struct, frozen=True):
    id: str
    alias: str
    bundle: str
    status: str
    reason: str | None
    ordered_at: float


class Receipt(msgspec.Struct, frozen=True):
    deployment: str
    requests: int
    p50_ms: float | None
    p99_ms: float | None
    memory_bytes: int
    runtime: str
    runtime_version: str
    agent_version: str
    at: float


class Slots(msgspec.Struct, frozen=True):
    active: str | None = None
    previous: str | None = None


class Reported(msgspec.Struct, frozen=True):
    slots: dict[str, Slots]
    versions: dict[str, str] = {}
    generation: int = 0
    trust: TrustReport | None = None
    degraded: tuple[str, ...] = ()


class Device(msgspec.Struct, frozen=True):
    id: str
    profile: str
    online: bool
    last_seen_at: float | None
    generation: int
    reported: Reported | None
    order_ends_at: float | None = None
    epoch: int = 0
    flagged: str | None = None
    certificate_ends_at: float | None = None
    revoked_at: float | None = None
    deployments: tuple[Deployment, ...] = ()
    receipts: tuple[Receipt, ...] = ()

    @property
    def agent(self) -> str:
        """Which release of the agent it says it runs."""
        return self.reported.versions.get(AGENT, "") if self.reported else ""


class EnrolmentToken(msgspec.Struct, frozen=True):
    """`token` is told once, when it is made."""

    id: str
    device: str
    state: str
    created_at: float
    expires_at: float
    token: str = ""
    controller: str = ""


class PendingKey(msgspec.Struct, frozen=True):
    fingerprint: str
    device: str | None
    profile: str | None
    facts: Facts | None
    address: str
    asked_at: float
    seen_at: float


class Certificate(msgspec.Struct, frozen=True):
    serial: str
    epoch: int
    not_before: float
    not_after: float
    revoked_at: float | None


class Revoked(msgspec.Struct, frozen=True):
    device: str
    certificates: int


class Authority(msgspec.Struct, frozen=True):
    fingerprint: str
    controller: str
    crl_number: int | None
    crl_ends_at: float | None


class Health(msgspec.Struct, frozen=True):
    version: str
    warnings: tuple[str, ...] = ()


class Group(msgspec.Struct, frozen=True):
    name: str
    devices: tuple[str, ...]


class Finding(msgspec.Struct, frozen=True):
    device: str
    labels: int
    accuracy: float | None
    incumbent_accuracy: float | None
    requests: int
    median_ms: float | None
    incumbent_median_ms: float | None
    compared: int = 0
    agreement: float | None = None


class Verdict(msgspec.Struct, frozen=True):
    decision: str
    reason: str
    sentence: str
    findings: tuple[Finding, ...]


class StageDevice(msgspec.Struct, frozen=True):
    device: str
    bundle: str
    status: str | None
    reason: str | None
    detail: str
    phase: str | None = None
    receipt: Receipt | None = None

    @property
    def is_over(self) -> bool:
        return self.status is not None and Status(self.status).is_final


class Stage(msgspec.Struct, frozen=True):
    name: str
    group: str
    status: str
    verdict: Verdict | None
    devices: tuple[StageDevice, ...]


class Rollout(msgspec.Struct, frozen=True):
    name: str
    model: str
    version: str
    alias: str
    status: RolloutStatus
    stopped_by: str | None
    why: str
    created_at: float
    release: int | None = None
    needs: dict[str, int] = {}
    policy: SwapPolicy = SwapPolicy.AUTO
    shadow: Shadow | None = None
    split: Split | None = None
    stages: tuple[Stage, ...] = ()

    @property
    def is_over(self) -> bool:
        return not self.status.is_open


def read(kind: type[T], body: bytes) -> T:
    """Return what the controller answered; one of another release may answer otherwise."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise Ended(
            Exit.UNAVAILABLE,
            f"the controller's answer is not understood ({error}): install the same release.",
        ) from error


def reference(text: str) -> tuple[str, str]:
    """Return model and version of `MODEL:VERSION`."""
    model, colon, version = text.partition(":")
    if not (model and colon and version):
        raise Ended(Exit.USAGE, f"{text!r} names no version: write it MODEL:VERSION.")
    return model, version


class RoleStanding(msgspec.Struct, frozen=True):
    role: str
    version: int
    expires_at: float
    sign_again_at: float
    keyids: tuple[str, ...]
    threshold: int
    is_here: bool


class Waiting(msgspec.Struct, frozen=True):
    role: str
    version: int


class Trust(msgspec.Struct, frozen=True):
    roles: tuple[RoleStanding, ...]
    waiting: tuple[Waiting, ...]


class TrustFiles(msgspec.Struct, frozen=True):
    files: dict[str, str]


class PublishedFiles(msgspec.Struct, frozen=True):
    names: tuple[str, ...]


class Entries(msgspec.Struct, frozen=True):
    entries: tuple[str, ...]
