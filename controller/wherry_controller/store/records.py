"""What goes into the database and comes out of it: frozen values, parsed on the way.

Times are UNIX seconds by the controller's clock.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from wherry.histogram import Histogram
from wherry.manifest import Report
from wherry.measures import Feedback, Seen, ShadowCounts
from wherry.messages import Reported, Trial, TrialResult, Wanted
from wherry.names import (
    AliasName,
    DeploymentId,
    DeviceId,
    Digest,
    GroupName,
    ModelName,
    ProfileName,
    RolloutName,
    StoreId,
    TrialId,
    VersionName,
)
from wherry.profile import Precision, Profile
from wherry.reasons import Phase, Reason, Status
from wherry_controller.core.choice import Latency, ProfileReport


class VersionStatus(StrEnum):
    """An imported version came as bundles: its files are elsewhere."""

    REGISTERED = "registered"
    IMPORTED = "imported"
    REFUSED = "refused"


class BuildStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    MEASURING = "measuring"
    SUCCEEDED = "succeeded"
    REFUSED = "refused"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def is_open(self) -> bool:
        """Say whether it may still make a variant."""
        return self in (BuildStatus.QUEUED, BuildStatus.RUNNING, BuildStatus.MEASURING)


class Model(msgspec.Struct, frozen=True):
    name: ModelName
    created_at: float


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """`card` is the version's `model.toml` as JSON; `reason` says why it was refused.

    `reference` names the blob that a build kept: the version's weights as safetensors.
    """

    model: ModelName
    name: VersionName
    card: str
    lineage: Digest
    reference: Digest | None = None
    status: VersionStatus = VersionStatus.REGISTERED
    reason: str = ""
    created_at: float


class VersionFile(msgspec.Struct, frozen=True):
    """A file that a version was registered with: its bytes stand in the blob folder."""

    name: str
    digest: Digest
    size_bytes: int


class ProfileProgress(msgspec.Struct, frozen=True):
    """The step that a profile of a build is at, and how many of how many are done."""

    step: str
    done: int
    total: int


class Progress(msgspec.Struct, frozen=True):
    """How far a build is: what it said last, and what it said last of each profile."""

    step: str = ""
    done: int = 0
    total: int = 0
    profiles: dict[ProfileName, ProfileProgress] = {}


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """`reason` is a short code, `detail` the sentence that an operator reads.

    `attempts` counts the runs that no orderly stop of the controller ended. `measure_on` names the
    group or device whose devices measure the candidates.
    """

    id: str
    model: ModelName
    version: VersionName
    profiles: tuple[ProfileName, ...]
    status: BuildStatus = BuildStatus.QUEUED
    reason: str = ""
    detail: str = ""
    progress: Progress = Progress()
    attempts: int = 0
    measure_on: str | None = None
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One version built for one profile: where its bundle is, and what was measured of it.

    `report` stands in the bundle too; `latency` is of the last build, None where none was measured
    on hardware of the profile.
    """

    model: ModelName
    version: VersionName
    profile: ProfileName
    bundle: Digest
    precision: Precision
    size_bytes: int
    report: Report
    latency: Latency | None
    created_at: float


class KeptReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that the last build tried for a profile, and with which tools (version by name)."""

    model: ModelName
    version: VersionName
    profile: ProfileName
    build: str
    document: ProfileReport
    tools: dict[str, str]
    created_at: float


class BundleRecord(msgspec.Struct, frozen=True):
    """A bundle's signed manifest as it travels; its blobs stand in the blob folder."""

    digest: Digest
    envelope: bytes


class ProfileRecord(msgspec.Struct, frozen=True):
    name: ProfileName
    document: Profile


class Flag(StrEnum):
    """What is wrong with a device's identity until it is enrolled again."""

    TWO_LIVE = "two_live"


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """`profile` is what the operator declared; what the device says of itself is `reported`.

    `epoch` counts its enrolments: 0 before the first; `root` is the version that it trusts, 0
    before it has said so. `earlier` says how far the stores came that
    it had before `store_id` in this enrolment, and `flagged` what is wrong with its identity.
    """

    id: DeviceId
    profile: ProfileName
    tags: dict[str, str] = {}
    registered_at: float
    store_id: StoreId | None = None
    report_seq: int | None = None
    generation: int = 0
    online: bool = False
    last_seen_at: float | None = None
    reported: Reported | None = None
    epoch: int = 0
    root: int = 0
    flagged: Flag | None = None
    earlier: dict[StoreId, int] = {}


class Group(msgspec.Struct, frozen=True):
    name: GroupName
    devices: tuple[DeviceId, ...]


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller wants of a device: the order before it is signed.

    `enclosure` names what travels beside it.
    """

    device: DeviceId
    generation: int = 0
    aliases: dict[AliasName, Wanted] = {}
    revoked: tuple[Digest, ...] = ()
    trials: tuple[Trial, ...] = ()
    epoch: int = 0
    issued_at: int = 0
    expires_at: int = 0
    snapshot: int = 0
    enclosure: Digest | None = None


class Enclosure(msgspec.Struct, frozen=True):
    """What travels beside an order, as JSON; the same for all devices that it helps alike."""

    digest: Digest
    body: bytes


class Outline(NamedTuple):
    """What decides whether an order must be issued, signed, or told with something else beside it.

    The first seven are of the order, the others of its device: its enrolment, and how far it has
    followed.
    """

    device: DeviceId
    generation: int
    epoch: int
    issued_at: int
    expires_at: int
    snapshot: int
    enclosure: Digest | None
    live_epoch: int
    followed: int
    root: int


class TrialRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A trial of a build's candidate on one device; it has no result where it was withdrawn."""

    id: TrialId
    build: str
    device: DeviceId
    profile: ProfileName
    recipe: str
    bundle: Digest
    result: TrialResult | None = None
    ordered_at: float
    ended_at: float | None = None


class Journey(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment as the controller knows it: one device's way to one bundle."""

    id: DeploymentId
    device: DeviceId
    rollout: RolloutName | None
    alias: AliasName
    bundle: Digest
    status: Status = Status.QUEUED
    phase: Phase | None = None
    reason: Reason | None = None
    detail: str = ""
    ordered_at: float
    started_at: float | None = None
    ended_at: float | None = None


class RolloutRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout: `state` is its machine's state and `effects` what is still to be done, as JSON."""

    name: RolloutName
    model: ModelName
    version: VersionName
    alias: AliasName
    groups: tuple[GroupName, ...]
    status: str
    state: str
    effects: str
    created_at: float
    ended_at: float | None = None


class ReceiptRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a device attested of a deployment; `body` is the signed receipt, as JSON."""

    deployment: DeploymentId
    device: DeviceId
    body: str
    received_at: float


class EventRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An event of a device as it came; `body` is its JSON."""

    device: DeviceId
    store_id: StoreId
    seq: int
    body: str
    received_at: float


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """One window of telemetry; what releases before 0.5.0 did not tell is None.

    `labelled` and `right` stand in `feedback` too, and `errors` is the sum over `error_classes`.
    """

    device: DeviceId
    store_id: StoreId
    seq: int
    alias: AliasName
    bundle: Digest
    received_at: float
    window_s: float
    requests: int
    errors: int
    latency: Histogram
    compute: Histogram
    labelled: int
    right: int
    sent_bytes: int
    received_bytes: int
    host: dict[str, float | bool | None] = {}
    error_classes: dict[str, int] | None = None
    feedback: Feedback | None = None
    inputs: tuple[Seen, ...] | None = None
    outputs: tuple[Seen, ...] | None = None
    shadow: ShadowCounts | None = None
    worker_bytes: int | None = None
    restarts: int | None = None
    dropped_windows: int | None = None


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """What one bundle did on one device in a span of time; `worker_bytes` is the newest known."""

    requests: int = 0
    errors: int = 0
    error_classes: dict[str, int] = {}
    labelled: int = 0
    right: int = 0
    latency: Histogram = Histogram()
    compute: Histogram = Histogram()
    feedback: Feedback = Feedback()
    inputs: tuple[Seen, ...] = ()
    outputs: tuple[Seen, ...] = ()
    shadow: ShadowCounts | None = None
    restarts: int = 0
    worker_bytes: int | None = None


class SeenRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a sample of one window's inputs and outputs held."""

    device: DeviceId
    bundle: Digest
    inputs: tuple[Seen, ...] = ()
    outputs: tuple[Seen, ...] = ()


class KeptDelta(msgspec.Struct, frozen=True, kw_only=True):
    """The delta from a blob to another, by its index; None: of no use, for `problem`."""

    base: Digest
    blob: Digest
    index: Digest | None
    size_bytes: int
    problem: str = ""
    made_at: float
