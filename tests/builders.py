"""Values for tests, valid by default: a test names only what matters to it."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TypedDict

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace
from typing_extensions import Unpack

from wherry.blobs import Blob, describe, digest_of
from wherry.bundle import Bundle, seal
from wherry.histogram import Histogram, from_durations
from wherry.manifest import MODEL_FILE, Binding, Golden, GoldenTensor, Manifest, Report
from wherry.measures import Feedback, HostFacts, Traffic, TrialFigures
from wherry.messages import (
    Ack,
    Deployment,
    Event,
    EventKind,
    Order,
    Presence,
    Receipt,
    Reported,
    Slots,
    Telemetry,
    Trial,
    TrialResult,
    Wanted,
    Wants,
)
from wherry.names import (
    AliasName,
    DeploymentId,
    DeviceId,
    Digest,
    ModelName,
    ProfileName,
    StoreId,
    VersionName,
    parse_alias_name,
    parse_deployment_id,
    parse_device_id,
    parse_model_name,
    parse_profile_name,
    parse_store_id,
    parse_trial_id,
    parse_version_name,
)
from wherry.profile import Activation, Arch, Precision, Profile, Runtime
from wherry.reasons import Phase, Reason, Status
from wherry.signature import BATCH, Datatype, Signature, StatePair, Tensor
from wherry.trust.target import Target

MS = 1_000_000  # Nanoseconds.


A_TIME = 1_800_000_000  # January 2027.


def a_key(seed: int = 1) -> Ed25519PrivateKey:
    """Return the same key for the same seed of 0 to 255."""
    return Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)


def a_digest(text: str = "a blob") -> Digest:
    """Return the digest of a text, so that a test can name its digests by words."""
    return digest_of(text.encode())


def a_device_id(text: str = "pi-1") -> DeviceId:
    return parse_device_id(text)


def an_alias(text: str = "default") -> AliasName:
    return parse_alias_name(text)


def a_deployment_id(text: str = "digits-v1:canary:pi-1") -> DeploymentId:
    return parse_deployment_id(text)


def a_store_id(seed: int = 1) -> StoreId:
    return parse_store_id(bytes([seed] * 16).hex())


def a_blob(data: bytes = b"some bytes", *, chunk_bytes: int = 1024) -> Blob:
    return describe(data, chunk_bytes)


def a_histogram(*durations_ms: float) -> Histogram:
    """Return the histogram of these durations; of 1, 2 and 3 ms where none is given."""
    return from_durations(round(ms * MS) for ms in durations_ms or (1, 2, 3))


def floats(*values: float) -> bytes:
    """Return values as raw little-endian FP32, the form of a golden blob."""
    return struct.pack(f"<{len(values)}f", *values)


class ProfileFacts(TypedDict, total=False):
    name: ProfileName
    arch: Arch
    runtime: Runtime
    runtime_floor: str
    runtime_below: str
    precisions: tuple[Precision, ...]
    activation: Activation
    reduced_range: bool
    threads: int
    max_batch: int
    memory_bytes: int | None
    disk_bytes: int | None
    size_bytes: int | None
    latency_ms: float | None
    detected: tuple[str, ...]


def a_profile(**facts: Unpack[ProfileFacts]) -> Profile:
    """Return a profile of onnxruntime in float on x86-64."""
    profile = Profile(
        name=parse_profile_name("x86-onnx-fp32"),
        arch=Arch.X86_64,
        runtime=Runtime.ONNXRUNTIME,
        runtime_floor="1.23",
        runtime_below="2",
    )
    return replace(profile, **facts)


def a_tensor(
    name: str = "image",
    shape: tuple[int | str, ...] = (BATCH, 2),
    *,
    datatype: Datatype = Datatype.FP32,
    layout: str = "",
) -> Tensor:
    return Tensor(name, datatype, shape, layout)


def a_signature(
    *,
    inputs: tuple[Tensor, ...] | None = None,
    outputs: tuple[Tensor, ...] | None = None,
    max_batch: int = 64,
    states: tuple[StatePair, ...] = (),
) -> Signature:
    """Return the signature of a classifier of three classes by two numbers."""
    return Signature(
        (a_tensor(),) if inputs is None else inputs,
        (a_tensor("scores", (BATCH, 3)),) if outputs is None else outputs,
        max_batch,
        states,
    )


def a_binding(
    name: str = "image",
    runtime_name: str = "input_0",
    *,
    datatype: Datatype = Datatype.FP32,
    permutation: tuple[int, ...] = (),
    scale: float | None = None,
    zero_point: int = 0,
) -> Binding:
    return Binding(
        name=name,
        runtime_name=runtime_name,
        datatype=datatype,
        permutation=permutation,
        scale=scale,
        zero_point=zero_point,
    )


INPUT_BYTES = floats(0.0, 0.5, 1.0, 0.25)
OUTPUT_BYTES = floats(0.1, 0.2, 0.7, 0.8, 0.1, 0.1)
MODEL_BYTES = bytes(range(256)) * 10


def a_golden_tensor(
    name: str = "image",
    shape: tuple[int, ...] = (2, 2),
    *,
    data: bytes = INPUT_BYTES,
    datatype: Datatype = Datatype.FP32,
) -> GoldenTensor:
    return GoldenTensor(name, datatype, shape, a_blob(data))


def a_golden(
    *,
    inputs: tuple[GoldenTensor, ...] | None = None,
    outputs: tuple[GoldenTensor, ...] | None = None,
    tolerance: float = 1e-5,
) -> Golden:
    """Return golden tensors of two rows that fit `a_signature()`."""
    scores = a_golden_tensor("scores", (2, 3), data=OUTPUT_BYTES)
    return Golden(
        inputs=(a_golden_tensor(),) if inputs is None else inputs,
        outputs=(scores,) if outputs is None else outputs,
        tolerance=tolerance,
    )


def a_report(*, value: float = 0.95, size_bytes: int = len(MODEL_BYTES)) -> Report:
    return Report(
        metric="accuracy",
        value=value,
        reference_value=0.96,
        drop_low=0.0,
        drop_high=0.02,
        agreement=0.98,
        samples=1000,
        size_bytes=size_bytes,
        evaluated_on="onnxruntime 1.31.1",
    )


class ManifestFacts(TypedDict, total=False):
    model: ModelName
    version: VersionName
    lineage: Digest
    profile: Profile
    precision: Precision
    recipe: tuple[str, ...]
    signature: Signature
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    static_batch: int | None
    files: dict[str, Blob]
    golden: Golden
    report: Report
    class_output: str | None
    labels: tuple[str, ...]
    critical: tuple[str, ...]


def a_manifest(**facts: Unpack[ManifestFacts]) -> Manifest:
    """Return the manifest whose blobs are `INPUT_BYTES`, `OUTPUT_BYTES` and `MODEL_BYTES`."""
    manifest = Manifest(
        model=parse_model_name("digits"),
        version=parse_version_name("v1"),
        lineage=a_digest("lineage"),
        profile=a_profile(),
        precision=Precision.FP32,
        recipe=("export",),
        signature=a_signature(),
        inputs=(a_binding(),),
        outputs=(a_binding("scores", "output_0"),),
        static_batch=None,
        files={MODEL_FILE: a_blob(MODEL_BYTES)},
        golden=a_golden(),
        report=a_report(),
        class_output="scores",
        labels=("none", "one", "two"),
    )
    return replace(manifest, **facts)


def a_bundle_of(
    data: bytes = MODEL_BYTES,
    *,
    key: Ed25519PrivateKey | None = None,
    **facts: Unpack[ManifestFacts],
) -> Bundle:
    """Return the sealed bundle of a model file's bytes, signed by `a_key()`."""
    manifest = replace(a_manifest(files={MODEL_FILE: a_blob(data)}), **facts)
    blobs = {digest_of(part): part for part in (INPUT_BYTES, OUTPUT_BYTES, data)}
    return seal(manifest, blobs, key or a_key())


def a_wanted(
    deployment: str = "digits-v1:canary:pi-1",
    *,
    bundle: Digest | None = None,
    probation_s: float = 60.0,
    deadline_s: float = 3600.0,
) -> Wanted:
    return Wanted(
        deployment=a_deployment_id(deployment),
        bundle=bundle or a_digest("bundle"),
        probation_s=probation_s,
        deadline_s=deadline_s,
    )


def an_order(
    *,
    device: str = "pi-1",
    epoch: int = 1,
    generation: int = 1,
    issued: int = A_TIME,
    expires: int = A_TIME + 90 * 86_400,
    snapshot: int = 0,
    aliases: dict[AliasName, Wanted] | None = None,
    revoked: tuple[Digest, ...] = (),
    trials: tuple[Trial, ...] = (),
    critical: tuple[str, ...] = (),
) -> Order:
    return Order(
        device=a_device_id(device),
        epoch=epoch,
        generation=generation,
        issued=issued,
        expires=expires,
        snapshot=snapshot,
        aliases={an_alias(): a_wanted()} if aliases is None else aliases,
        revoked=revoked,
        trials=trials,
        critical=critical,
    )


def a_target(
    *,
    version: str = "v1",
    profile: str = "x86-onnx-fp32",
    measuring: bool = False,
    releases: Mapping[AliasName, int] | None = None,
    needs: Mapping[AliasName, int] | None = None,
) -> Target:
    """Return what targets say of a bundle: the first release under the usual alias."""
    return Target(
        model=parse_model_name("digits"),
        version=parse_version_name(version),
        profile=parse_profile_name(profile),
        measuring=measuring,
        releases={an_alias(): 1} if releases is None else dict(releases),
        needs=dict(needs or {}),
    )


def a_trial(
    trial: str = "3f0c9a12b7de:1",
    *,
    bundle: Digest | None = None,
    runs: int = 200,
    deadline_s: float = 600.0,
) -> Trial:
    return Trial(
        trial=parse_trial_id(trial),
        bundle=bundle or a_digest("candidate"),
        runs=runs,
        deadline_s=deadline_s,
    )


def trial_figures(p50_ms: float = 2.0, *, p99_ms: float = 3.0, runs: int = 200) -> TrialFigures:
    return TrialFigures(
        runtime_version="1.27.0",
        runs=runs,
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        load_ms=12.5,
        memory_bytes=70_000_000,
        base_bytes=50_000_000,
        temperature_before_c=51.5,
        temperature_after_c=53.0,
    )


def a_trial_result(
    trial: str = "3f0c9a12b7de:1",
    *,
    bundle: Digest | None = None,
    figures: TrialFigures | None = None,
    faithful: bool | None = True,
    reason: Reason | None = None,
    detail: str = "",
) -> TrialResult:
    """Return the result of a trial: with figures, unless a reason is given."""
    return TrialResult(
        trial=parse_trial_id(trial),
        bundle=bundle or a_digest("candidate"),
        faithful=faithful,
        figures=None if reason else figures or trial_figures(),
        reason=reason,
        detail=detail,
    )


def a_trial_event(seq: int = 1, result: TrialResult | None = None) -> Event:
    return Event(
        store_id=a_store_id(),
        seq=seq,
        at=1_800_000_000.0,
        kind=EventKind.TRIAL,
        trial=result or a_trial_result(),
    )


def a_deployment(
    status: Status = Status.SUCCEEDED,
    reason: Reason | None = Reason.CONFIRMED,
    *,
    deployment: str = "digits-v1:canary:pi-1",
    bundle: Digest | None = None,
    phase: Phase | None = None,
    detail: str = "",
) -> Deployment:
    return Deployment(
        deployment=a_deployment_id(deployment),
        bundle=bundle or a_digest("bundle"),
        status=status,
        phase=phase,
        reason=reason,
        detail=detail,
    )


def a_reported(
    *,
    store_id: StoreId | None = None,
    report_seq: int = 1,
    generation: int = 1,
    profile: str = "x86-onnx-fp32",
    slots: dict[AliasName, Slots] | None = None,
    deployments: dict[AliasName, Deployment] | None = None,
    oldest_event: int = 1,
) -> Reported:
    serving = Slots(active=a_digest("bundle"))
    return Reported(
        store_id=store_id or a_store_id(),
        report_seq=report_seq,
        generation=generation,
        profile=parse_profile_name(profile),
        simulated=False,
        slots={an_alias(): serving} if slots is None else slots,
        deployments={an_alias(): a_deployment()} if deployments is None else deployments,
        versions={"wherry-agent": "0.1.0", "onnxruntime": "1.31.1"},
        oldest_event=oldest_event,
    )


def a_receipt(
    deployment: str = "digits-v1:canary:pi-1", *, bundle: Digest | None = None
) -> Receipt:
    return Receipt(
        device=a_device_id(),
        epoch=1,
        alias=an_alias(),
        deployment=a_deployment_id(deployment),
        bundle=bundle or a_digest("bundle"),
        outputs=a_digest("outputs"),
        requests=100,
        p50_ms=1.5,
        p99_ms=2.5,
        memory_bytes=61_000_000,
        runtime="onnxruntime",
        runtime_version="1.27.0",
        agent_version="0.5.0",
        at=float(A_TIME),
    )


def an_event(
    seq: int = 1,
    kind: EventKind = EventKind.OUTCOME,
    *,
    store_id: StoreId | None = None,
    at: float = 1_800_000_000.0,
    deployment: Deployment | None = None,
    reason: Reason | None = None,
    detail: str = "",
) -> Event:
    return Event(
        store_id=store_id or a_store_id(),
        seq=seq,
        at=at,
        kind=kind,
        alias=an_alias(),
        deployment=deployment or a_deployment(),
        reason=reason,
        detail=detail,
    )


def an_ack(seq: int = 1, *, store_id: StoreId | None = None) -> Ack:
    return Ack(store_id=store_id or a_store_id(), seq=seq)


def a_telemetry(
    seq: int = 1,
    *,
    store_id: StoreId | None = None,
    bundle: Digest | None = None,
    requests: int = 3,
    errors: dict[str, int] | None = None,
    latency: Histogram | None = None,
    compute: Histogram | None = None,
    feedback: Feedback | None = None,
    host: HostFacts | None = None,
) -> Telemetry:
    return Telemetry(
        store_id=store_id or a_store_id(),
        seq=seq,
        at=1_800_000_000.0,
        window_s=5.0,
        alias=an_alias(),
        bundle=bundle or a_digest("bundle"),
        requests=requests,
        errors=errors or {},
        latency=latency or a_histogram(),
        compute=compute or a_histogram(0.5, 1, 2),
        feedback=feedback or Feedback(labelled=2, right=1),
        host=host or HostFacts(cpu_percent=12.5, memory_available_bytes=1 << 30),
        traffic=Traffic(sent_bytes=1000, received_bytes=2000),
    )


def a_presence(*, online: bool = True, store_id: StoreId | None = None) -> Presence:
    return Presence(online=online, store_id=store_id or a_store_id())


def a_wants(digests: Sequence[Digest] | None = None) -> Wants:
    return Wants(digests=(a_digest("chunk"),) if digests is None else tuple(digests))
