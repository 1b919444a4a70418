"""The words of outcomes: where a deployment stands, at which phase, and why."""

from __future__ import annotations

from enum import Enum


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
    SHADOWING = "shadowing"
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
    BAD_RUNTIME = "bad_runtime"
    STATE_DIFFERS = "state_differs"
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
    OVER_MEMORY = "over_memory"
    OVER_CPU = "over_cpu"
    DISAGREES = "disagrees"
    # Reverted: it served, then the device went back.
    SLOW = "slow"
    ERRORS = "errors"
    NOT_FINITE = "not_finite"
    WORKER_DIED = "worker_died"
    CRASH_LOOP = "crash_loop"
    INACCURATE = "inaccurate"
    MEMORY_GROWTH = "memory_growth"
    TOO_HOT = "too_hot"
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
    CERTIFICATE_ENDS_SOON = "certificate_ends_soon"
    CLOCK_JUMPED = "clock_jumped"
    DISK_READ_ONLY = "disk_read_only"
    # Of trials only.
    NOT_FOR_MEASURING = "not_for_measuring"
    BUSY = "busy"
    OVER_BUDGET = "over_budget"
