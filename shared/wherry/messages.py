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
from wherry.measures import (
    LARGEST_ERROR_CLASSES,
    Count,
    Feedback,
    HostFacts,
    Seen,
    ShadowCounts,
    Traffic,
    TrialFigures,
)
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
from wherry.reasons import Phase, Reason, Status

LARGEST_WANTS = 8
LARGEST_DETAIL = 500


class SwapPolicy(str, Enum):
    """What is resident while a bundle follows another.

    `availability`: both, so that one always answers. `resource`: the old one is unloaded first and
    requests wait. `auto`: the first where the memory that is free and measured allows it.
    """

    AUTO = "auto"
    AVAILABILITY = "availability"
    RESOURCE = "resource"


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate gets copies of live requests before it may answer any.

    `share` of the requests are copied, for `for_s` and until `min_requests` were compared, which
    must be within `deadline_s`. The candidate computes for at most `core_share` of one core,
    within `memory_bytes`, and not while the device is hotter than `largest_temperature_c`. With
    `min_agreement` the device itself refuses a candidate that agrees less often.
    """

    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    for_s: Annotated[float, msgspec.Meta(ge=0)] = 60.0
    min_requests: Count = 100
    deadline_s: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    core_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    memory_bytes: Count | None = None
    largest_temperature_c: float = 80.0
    min_agreement: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate in probation answers only `share` of the requests (A/B), sticky by their key."""

    share: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.5


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the order wants of one alias.

    An order in which `shadow` or `split` stand is never sent to a release that knows neither.
    """

    deployment: DeploymentId
    bundle: Digest
    probation_s: float = 60.0
    deadline_s: float = 3600.0
    policy: SwapPolicy = SwapPolicy.AUTO
    shadow: Shadow | None = None
    split: Split | None = None


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
    `spread_s` is over how long the fleet shall spread its reconnects.
    """

    order: msgspec.Raw
    packet: str = ""
    deltas: tuple[Delta, ...] = ()
    sources: tuple[str, ...] = ()
    pace: Pace = Pace()
    spread_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] | None = None
    critical: tuple[str, ...] = ()


class Receipt(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.receipt/1"
):
    """What a device attests of a deployment that it confirmed, signed by the key it enrolled with.

    `outputs` is the sha256 of the bytes that it computed for the golden inputs, tensor after
    tensor in the signature's order. Compute times are of the probation, milliseconds; the memory is
    the worker's at its end. `at` is UNIX time by what the device goes by.
    """

    device: DeviceId
    epoch: Count
    alias: AliasName
    deployment: DeploymentId
    bundle: Digest
    outputs: Digest
    requests: Count
    p50_ms: float | None
    p99_ms: float | None
    memory_bytes: Count
    runtime: str
    runtime_version: str
    agent_version: str
    at: float
    critical: tuple[str, ...] = ()


class SignedReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """`signed` is a `Receipt`; the signature over its bytes is ECDSA (P-256, SHA-256), DER in hex.

    `keyid` is the sha256 of the device's public key as SubjectPublicKeyInfo in DER.
    """

    signed: msgspec.Raw
    keyid: str
    sig: str


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
    `receipts` are of the deployments that were confirmed last.
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
    receipts: dict[AliasName, SignedReceipt] = {}
    critical: tuple[str, ...] = ()


class EventKind(str, Enum):
    PROGRESS = "progress"
    OUTCOME = "outcome"
    REFUSAL = "refusal"
    FLIP = "flip"
    TRIAL = "trial"
    RECEIPT = "receipt"


class Flip(msgspec.Struct, frozen=True, kw_only=True):
    """The instant from which `bundle` answers; `replaced` still owed `in_flight` answers.

    `share` of the requests are answered by `bundle`: below 1 the others are by `replaced`.
    """

    bundle: Digest
    replaced: Digest | None
    in_flight: int
    share: float = 1.0
    policy: SwapPolicy = SwapPolicy.AVAILABILITY


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
    receipt: SignedReceipt | None = None
    reason: Reason | None = None
    detail: str = ""
    critical: tuple[str, ...] = ()


class Ack(msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.ack/1"):
    """Every event of `store_id` up to `seq` stands in the controller's database."""

    store_id: StoreId
    seq: Count
    critical: tuple[str, ...] = ()


class Telemetry(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.telemetry/1"
):
    """One window of one bundle under one alias.

    `latency` is from a request's last byte to its answer's first, `compute` the runtime's part.
    `inputs` and `outputs` are what was seen of a sample, `shadow` what a candidate's copies gave.
    `worker_bytes` is the memory of the worker's own at the window's end, `restarts` how often it
    was started again since the last, `dropped_windows` how many windows this store has lost so far.
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
    inputs: tuple[Seen, ...] = ()
    outputs: tuple[Seen, ...] = ()
    shadow: ShadowCounts | None = None
    worker_bytes: Count | None = None
    restarts: Count = 0
    dropped_windows: Count = 0
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
