"""The documents whose bytes are kept, by the name of their format."""

from __future__ import annotations

import msgspec

from tests import builders as a
from tests.vectors import papers, repository
from wherry.enrolment import Enrolled, EnrolRequest, Renewal, RenewRequest, Waiting
from wherry.histogram import LARGEST_NS, Histogram, from_durations
from wherry.manifest import Manifest
from wherry.measures import ClassCounts, Feedback, HostFacts, Seen, ShadowCounts
from wherry.messages import (
    Ack,
    DeltaIndex,
    Desired,
    Event,
    EventKind,
    Flip,
    Order,
    Presence,
    Reported,
    Slots,
    Telemetry,
    TrustReport,
    Wants,
)
from wherry.profile import Facts, Precision, Profile, Runtime
from wherry.reasons import Phase, Reason, Status
from wherry.reference import Distribution, Reference
from wherry.signature import BATCH, Datatype, Signature, StatePair
from wherry.trust.keeping import Trust
from wherry_agent.settings import Identity

Documents = dict[str, msgspec.Struct]

DOCUMENT_KINDS: dict[str, type[msgspec.Struct]] = {
    "order": Order,
    "desired": Desired,
    "delta_index": DeltaIndex,
    "reported": Reported,
    "event": Event,
    "ack": Ack,
    "telemetry": Telemetry,
    "presence": Presence,
    "wants": Wants,
    "manifest": Manifest,
    "profile": Profile,
    "signature": Signature,
    "histogram": Histogram,
    "reference": Reference,
    "trust": Trust,
    "enrol": EnrolRequest,
    "renewal": Renewal,
    "renew": RenewRequest,
    "enrolled": Enrolled,
    "waiting": Waiting,
    "identity": Identity,
}


def documents() -> dict[str, Documents]:
    """Return the values whose bytes are kept, by the name of their format."""
    return {
        "order": {
            "default": a.an_order(),
            "nothing_wanted": a.an_order(generation=0, aliases={}),
            "two_aliases_and_revoked": a.an_order(
                generation=7,
                aliases={
                    a.an_alias("detector"): a.a_wanted("d:2", probation_s=1.5),
                    a.an_alias(): a.a_wanted(),
                },
                revoked=(a.a_digest("bad"),),
            ),
            "under_a_snapshot": a.an_order(snapshot=12),
            "trials": a.an_order(
                generation=8,
                trials=(a.a_trial(), a.a_trial("3f0c9a12b7de:2", bundle=a.a_digest("fp32"))),
            ),
        },
        "desired": {**repository.desired()},
        "delta_index": {
            "default": DeltaIndex(
                base=a.a_digest("old"), blob=a.a_digest("new"), delta=a.a_blob(b"a delta" * 300)
            )
        },
        "reported": {
            "default": a.a_reported(),
            "with_trust": a_report_of_trust(),
            "fresh": a.a_reported(report_seq=0, generation=0, slots={}, deployments={}),
            "in_probation": a.a_reported(
                slots={
                    a.an_alias(): Slots(
                        active=a.a_digest("new"), previous=a.a_digest("old"), candidate=None
                    )
                },
                deployments={
                    a.an_alias(): a.a_deployment(Status.IN_PROGRESS, None, phase=Phase.PROBATION)
                },
            ),
        },
        "event": {
            "default": a.an_event(),
            "progress": a.an_event(
                2,
                EventKind.PROGRESS,
                deployment=a.a_deployment(Status.IN_PROGRESS, None, phase=Phase.FETCHING),
            ),
            **{
                f"reason_{reason.value}": a.an_event(deployment=a.a_deployment(reason=reason))
                for reason in Reason
            },
            **{
                f"status_{status.value}": a.an_event(deployment=a.a_deployment(status))
                for status in Status
            },
            "refusal_of_bytes": a.an_event(
                3, EventKind.REFUSAL, reason=Reason.WRONG_BYTES, detail='“altered” \\ "x"\n'
            ),
            "refusal_of_metadata": a_refusal(Reason.EXPIRED_SNAPSHOT),
            "flip": a_flip(),
            "trial": a.a_trial_event(4),
            "trial_without_figures": a.a_trial_event(
                5, a.a_trial_result(faithful=None, reason=Reason.BUSY, detail="a deployment came")
            ),
        },
        "ack": {"default": a.an_ack(), "largest": a.an_ack((1 << 53) - 1)},
        "telemetry": {
            "default": a.a_telemetry(),
            "idle": a.a_telemetry(requests=0, latency=Histogram(), compute=Histogram()),
            "errors": a.a_telemetry(errors={"timeout": 2, "bad_request": 1}),
            "whole_host": a.a_telemetry(host=a_whole_host()),
            "all_that_is_measured": a_whole_telemetry(),
        },
        "presence": {"online": a.a_presence(), "offline": a.a_presence(online=False)},
        "wants": {
            "one": a.a_wants(),
            "eight": a.a_wants([a.a_digest(str(number)) for number in range(8)]),
        },
        "manifest": {"default": a.a_manifest(), "quantized": a_quantized_manifest()},
        "profile": {
            "default": a.a_profile(),
            "litert": a.a_profile(
                runtime=Runtime.LITERT,
                runtime_floor="2.1",
                runtime_below="3",
                precisions=(Precision.INT8, Precision.FP32),
                memory_bytes=1 << 29,
                latency_ms=2.5,
                detected=("arch", "memory_bytes"),
            ),
        },
        "signature": {
            "default": a.a_signature(),
            "recurrent": a.a_signature(
                inputs=(a.a_tensor("audio", (BATCH, "time")), a.a_tensor("h", (BATCH, 64))),
                outputs=(a.a_tensor("speech", (BATCH, 1)), a.a_tensor("h_out", (BATCH, 64))),
                max_batch=1,
                states=(StatePair("h_out", "h"),),
            ),
        },
        "histogram": {
            "empty": Histogram(),
            "three": a.a_histogram(),
            "whole_range": from_durations([0, 0, 1, 31, 32, 33, 1000, LARGEST_NS]),
        },
        "reference": {"default": a_reference()},
        "trust": {**repository.trusts()},
        **papers.enrolments(),
    }


def a_quantized_manifest() -> Manifest:
    return a.a_manifest(
        precision=Precision.INT8,
        recipe=("export", "quantize static"),
        static_batch=1,
        inputs=(a.a_binding(datatype=Datatype.INT8, scale=0.00390625, zero_point=-128),),
        class_output=None,
        labels=(),
    )


def a_report_of_trust() -> Reported:
    return msgspec.structs.replace(
        a.a_reported(),
        facts=Facts(arch="aarch64", model="Raspberry Pi 5", cores=4, memory_bytes=1 << 33),
        trust=TrustReport(
            epoch=2, root=2, timestamp=14, snapshot=6, targets=2, now_s=1_800_003_600.5
        ),
        degraded=(Reason.ALL_REVOKED, Reason.CLOCK_AHEAD),
    )


def a_refusal(reason: Reason) -> Event:
    """Return an event that tells of something refused beside any deployment."""
    return Event(
        store_id=a.a_store_id(),
        seq=6,
        at=1_800_000_000.0,
        kind=EventKind.REFUSAL,
        reason=reason,
        detail="snapshot/6: expired at 1799999999",
    )


def a_flip() -> Event:
    flip = Flip(bundle=a.a_digest("new"), replaced=a.a_digest("old"), in_flight=3)
    return Event(
        store_id=a.a_store_id(),
        seq=7,
        at=1_800_000_000.25,
        kind=EventKind.FLIP,
        alias=a.an_alias(),
        flip=flip,
    )


def a_whole_telemetry() -> Telemetry:
    image = Seen(name="image", rows=2, values=6, counts=(1, 2, 2), zeros=1, not_finite=1)
    scores = Seen(
        name="scores", rows=2, values=4, counts=(4,), zeros=0, not_finite=0, classes=(1, 1)
    )
    classes = {"0": ClassCounts(2, 1, 1), "1": ClassCounts(0, 1, 0)}
    shadow = ShadowCounts(
        requests=4,
        rows=3,
        agreed=2,
        distance=0.75,
        largest_distance=0.5,
        compute=a.a_histogram(2),
        incumbent_compute=a.a_histogram(1),
        errors={"timed_out": 1},
        skipped={"busy": 2, "too_hot": 1},
    )
    return msgspec.structs.replace(
        a.a_telemetry(feedback=Feedback(2, 1, classes, 3, 1.5, 0.75, 1)),
        inputs=(image,),
        outputs=(scores,),
        shadow=shadow,
        worker_bytes=60_000_000,
        restarts=1,
        dropped_windows=7,
        host=HostFacts(load_1m=0.5, throttled=True),
    )


def a_whole_host() -> HostFacts:
    return HostFacts(
        cpu_percent=99.5,
        memory_available_bytes=1 << 28,
        memory_total_bytes=1 << 30,
        disk_free_bytes=1 << 34,
        temperature_c=71.25,
        uptime_s=86_400.5,
        agent_rss_bytes=22 << 20,
    )


def a_reference() -> Reference:
    return Reference(
        inputs=(
            Distribution(
                name="pixels",
                rows=4,
                edges=(-0.5, 0.25),
                counts=(1, 5, 2),
                zeros=0.125,
                not_finite=0.0,
                stride=2,
            ),
        ),
        outputs=(
            Distribution(
                name="scores",
                rows=4,
                edges=(0.5,),
                counts=(6, 2),
                zeros=0.0,
                not_finite=0.0,
                classes=(0.75, 0.25),
            ),
        ),
    )
