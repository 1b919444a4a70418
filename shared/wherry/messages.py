"""What the controller and the agents say to one another, except chunks.

Each is UTF-8 JSON by `codec`. `Order` travels signed (`signing`), the rest as it is. Fields are
only ever added. `at` is UNIX time in seconds by the sender's clock, for people only.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import msgspec

from wherry.blobs import Blob
from wherry.histogram import Histogram
from wherry.names import (
    AliasName,
    DeploymentId,
    DeviceId,
    Digest,
    ProfileName,
    StoreId,
    TrialId,
)
from wherry.profile import Facts

LARGEST_WANTS = 8
LARGEST_DETAIL = 500
LARGEST_ERROR_CLASSES = 64

# What every JSON reader takes exactly, and a database's integer holds.
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]


class Status(str, Enum):
    """Where one deployment stands."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    SUCCEEDED = "succeeded"
    REJECTED = "rejected"
    FAILED = "failed"
    REVERTED = "reverted"
    TIMED_OUT = "timed_out"
    SUPERSEDED = "superseded"
    CANCELED = "canceled"

    @property
    def is_final(self) -> bool:
        return self not in (Status.QUEUED, Status.IN_PROGRESS)


class Phase(str, Enum):
    """What a deployment in progress is at."""

    FETCHING = "fetching"
    LOADING = "loading"
    PROBATION = "probation"


class Reason(str, Enum):
    """Why a deployment ended as it did, a trial measured nothing, or something was refused."""

    CONFIRMED = "confirmed"
    SERVES_ALREADY = "serves_already"
    # Rejected: refused before loading, never tried again by itself.
    UNTRUSTED_SIGNATURE = "untrusted_signature"
    MALFORMED_MANIFEST = "malformed_manifest"
    UNSUITABLE_PROFILE = "unsuitable_profile"
    MISSING_RUNTIME = "missing_runtime"
    DISK_FULL = "disk_full"
    ONLY_FOR_MEASURING = "only_for_measuring"
    NOT_IN_TARGETS = "not_in_targets"
    BELOW_MIN_RELEASE = "below_min_release"
    REVOKED = "revoked"
    WRONG_ALIAS = "wrong_alias"
    MISSING_DEPENDENCY = "missing_dependency"
    WRONG_MANIFEST = "wrong_manifest"
    # Failed: it did not reach serving.
    WRONG_BYTES = "wrong_bytes"
    LOAD_FAILED = "load_failed"
    LOAD_TIMEOUT = "load_timeout"
    GOLDEN_MISMATCH = "golden_mismatch"
    RESTARTED_TOO_OFTEN = "restarted_too_often"
    # Reverted: it served, then the device went back.
    SLOW = "slow"
    ERRORS = "errors"
    NOT_FINITE = "not_finite"
    WORKER_DIED = "worker_died"
    # The others.
    DEADLINE = "deadline"
    NEWER_ORDER = "newer_order"
    WITHDRAWN = "withdrawn"
    STALE_ORDER = "stale_order"
    # Orders that are refused as a whole.
    ALTERED_ORDER = "altered_order"
    WRONG_DEVICE = "wrong_device"
    WRONG_EPOCH = "wrong_epoch"
    EXPIRED_ORDER = "expired_order"
    # Trust metadata (TUF) that is refused.
    UNTRUSTED_METADATA = "untrusted_metadata"
    MALFORMED_METADATA = "malformed_metadata"
    MALFORMED_PACKET = "malformed_packet"
    OVERSIZED_PACKET = "oversized_packet"
    ROOT_ROLLBACK = "root_rollback"
    TIMESTAMP_ROLLBACK = "timestamp_rollback"
    SNAPSHOT_ROLLBACK = "snapshot_rollback"
    TARGETS_ROLLBACK = "targets_rollback"
    MIXED_METADATA = "mixed_metadata"
    EXPIRED_ROOT = "expired_root"
    EXPIRED_TIMESTAMP = "expired_timestamp"
    EXPIRED_SNAPSHOT = "expired_snapshot"
    EXPIRED_TARGETS = "expired_targets"
    # Bytes on their way.
    OVERSIZED_BLOB = "oversized_blob"
    MIRROR_LIED = "mirror_lied"
    DELTA_WRONG_BASE = "delta_wrong_base"
    DELTA_CORRUPT = "delta_corrupt"
    DELTA_OVERSIZED = "delta_oversized"
    OVER_BYTE_BUDGET = "over_byte_budget"
    # What keeps a device from following orders as it should.
    ALL_REVOKED = "all_revoked"
    CLOCK_AHEAD = "clock_ahead"
    CERTIFICATE_EXPIRED = "certificate_expired"
    # Of trials only.
    NOT_FOR_MEASURING = "not_for_measuring"
    BUSY = "busy"
    OVER_BUDGET = "over_budget"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the order wants of one alias."""

    deployment: DeploymentId
    bundle: Digest
    probation_s: float = 60.0
    deadline_s: float = 3600.0


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle for measuring that a device shall run beside what serves, and within what.

    Its golden inputs are run row by row, `runs` times in all. `deadline_s` is from the beginning of
    its fetch. The worker gets at most `core_share` of one core and, with all that it loads,
    `memory_bytes`; none is begun where less memory is available.
    """

    trial: TrialId
    bundle: Digest
    runs: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 200
    deadline_s: float = 600.0
    core_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    niceness: Annotated[int, msgspec.Meta(ge=0, le=19)] = 10
    memory_bytes: Count = 1 << 30


class Order(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.order/2"):
    """The whole desired state of one device, as the director signs it.

    `epoch` counts the device's enrolments: an order is for the one identity that is live. `issued`
    and `expires` are UNIX times in seconds; a renewed order is a newer generation with the same
    deployment ids. `snapshot` is the version of TUF's snapshot that the director saw: under an
    older one its bundles are not judged.
    """

    device: DeviceId
    epoch: Count
    generation: Count
    issued: Count
    expires: Count
    snapshot: Count = 0
    aliases: dict[AliasName, Wanted]
    revoked: tuple[Digest, ...] = ()
    trials: tuple[Trial, ...] = ()
    critical: tuple[str, ...] = ()


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """A shorter way to `blob` for a device that has `base`.

    `index` is the digest of a `DeltaIndex`, fetched as a chunk; None while the delta is being made.
    """

    blob: Digest
    base: Digest
    index: Digest | None = None


class DeltaIndex(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.delta_index/1"
):
    """The delta from `base` to `blob`, as a blob of its own that travels in chunks."""

    base: Digest
    blob: Digest
    delta: Blob
    critical: tuple[str, ...] = ()


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How fast and how much a device shall fetch, beside the limits of its own; None: no limit.

    The budget is of bytes in any 24 hours.
    """

    bytes_per_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    bytes_per_day: Count | None = None


class Desired(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.desired/1"
):
    """A device's order, and what helps to verify and to fetch what it names.

    `order` is a signed envelope (`signing`). `packet` is the TUF metadata that the device misses,
    without the timestamp (`wherry.trust.packet`). The rest is advice that nobody signs: what it
    leads to is verified by digest. `sources` are HTTP(S) folders that hold blobs by digest.
    """

    order: msgspec.Raw
    packet: str = ""
    deltas: tuple[Delta, ...] = ()
    sources: tuple[str, ...] = ()
    pace: Pace = Pace()
    critical: tuple[str, ...] = ()


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """The current or last deployment of an alias."""

    deployment: DeploymentId
    bundle: Digest
    status: Status
    phase: Phase | None = None
    reason: Reason | None = None
    detail: str = ""


class Slots(msgspec.Struct, frozen=True, kw_only=True):
    active: Digest | None = None
    previous: Digest | None = None
    candidate: Digest | None = None


class TrustReport(msgspec.Struct, frozen=True, kw_only=True):
    """How far a device's trust has come: its enrolment and the versions of what it has accepted.

    0: none yet. `now_s` is the time it goes by: its clock, or the floor that signed times raised.
    """

    epoch: Count = 0
    root: Count = 0
    timestamp: Count = 0
    snapshot: Count = 0
    targets: Count = 0
    now_s: float = 0.0


class Reported(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.reported/1"
):
    """What a device has: enough by itself, events are history.

    `oldest_event` is the number of the oldest event in its outbox, or of the next one: those
    below it were acknowledged once, perhaps by a database that is lost. `facts` is None where the
    agent is of a release that told none. `degraded` says what keeps it from following orders.
    """

    store_id: StoreId
    report_seq: Count
    generation: Count
    profile: ProfileName
    simulated: bool
    slots: dict[AliasName, Slots]
    deployments: dict[AliasName, Deployment]
    versions: dict[str, str]
    oldest_event: Count = 1
    facts: Facts | None = None
    trust: TrustReport | None = None
    degraded: tuple[Reason, ...] = ()
    critical: tuple[str, ...] = ()


class EventKind(str, Enum):
    PROGRESS = "progress"
    OUTCOME = "outcome"
    REFUSAL = "refusal"
    FLIP = "flip"
    TRIAL = "trial"


class Flip(msgspec.Struct, frozen=True, kw_only=True):
    """The instant from which `bundle` answers; `replaced` still owed `in_flight` answers."""

    bundle: Digest
    replaced: Digest | None
    in_flight: int


class TrialFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What a device measured of a bundle: one row's compute time, and the worker's memory.

    `memory_bytes` is the worker's peak and `base_bytes` what it had before it loaded the model.
    """

    runtime_version: str
    runs: Count
    p50_ms: float
    p99_ms: float
    load_ms: float
    memory_bytes: Count
    base_bytes: Count
    temperature_before_c: float | None = None
    temperature_after_c: float | None = None


class TrialResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a trial ended: with figures, or with the reason why there are none.

    A device that gives the golden outputs is faithful; None: it did not come so far.
    """

    trial: TrialId
    bundle: Digest
    faithful: bool | None = None
    figures: TrialFigures | None = None
    reason: Reason | None = None
    detail: str = ""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.event/1"):
    """One numbered step in a device's history.

    A `refusal` is of bytes (a chunk, an order), and leaves the deployment in progress.
    """

    store_id: StoreId
    seq: Count
    at: float
    kind: EventKind
    alias: AliasName | None = None
    deployment: Deployment | None = None
    flip: Flip | None = None
    trial: TrialResult | None = None
    reason: Reason | None = None
    detail: str = ""
    critical: tuple[str, ...] = ()


class Ack(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.ack/1"):
    """Every event of `store_id` up to `seq` stands in the controller's database."""

    store_id: StoreId
    seq: Count
    critical: tuple[str, ...] = ()


class Feedback(msgspec.Struct, frozen=True):
    """How many answers were labelled, and how many of them were right."""

    labelled: Count = 0
    right: Count = 0


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The machine at the end of a window; what it cannot tell is None."""

    cpu_percent: float | None = None
    memory_available_bytes: Count | None = None
    memory_total_bytes: Count | None = None
    disk_free_bytes: Count | None = None
    temperature_c: float | None = None
    uptime_s: float | None = None
    agent_rss_bytes: Count | None = None


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes at the device's sockets to the broker since its store was made.

    What came between the last window and a kill is missing.
    """

    sent_bytes: Count = 0
    received_bytes: Count = 0

    def __add__(self, more: Traffic) -> Traffic:
        return Traffic(
            sent_bytes=self.sent_bytes + more.sent_bytes,
            received_bytes=self.received_bytes + more.received_bytes,
        )


class Telemetry(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.telemetry/1"
):
    """One window of one bundle under one alias.

    `latency` is from a request's last byte to its answer's first, `compute` the runtime's part.
    """

    store_id: StoreId
    seq: Count
    at: float
    window_s: float
    alias: AliasName
    bundle: Digest
    requests: Count
    errors: Annotated[dict[str, Count], msgspec.Meta(max_length=LARGEST_ERROR_CLASSES)]
    latency: Histogram
    compute: Histogram
    feedback: Feedback
    host: HostFacts
    traffic: Traffic
    critical: tuple[str, ...] = ()


class Presence(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.presence/1"
):
    online: bool
    store_id: StoreId
    critical: tuple[str, ...] = ()


class Wants(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.wants/1"):
    """Chunks or manifests that a device waits for in vain."""

    digests: tuple[Digest, ...]
    critical: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= len(self.digests) <= LARGEST_WANTS:
            raise ValueError(f"it names {len(self.digests)} digests and 1 to 8 are allowed")


def detail(text: str) -> str:
    """Return `text` cut to the length that a report may carry."""
    return text if len(text) <= LARGEST_DETAIL else text[: LARGEST_DETAIL - 1] + "…"
