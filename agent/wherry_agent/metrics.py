"""What the agent measures, as Prometheus text: for whoever scrapes this machine.

Names and units follow Prometheus' practice (base units, `_total` for counters); the format is the
text exposition format 0.0.4. No device is named: the scraper knows whom it asked. Counters begin
with the process. The bounds of histograms are powers of two nanoseconds, where the bounds of our
own buckets lie too, so that their counts are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TypeAlias

from wherry.histogram import Histogram, bucket
from wherry.measures import HostFacts
from wherry.names import AliasName, Digest
from wherry_agent.telemetry import WindowCounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BOUNDS_NS = tuple(1 << power for power in range(15, 35))  # 33 us to 17 s.

_Labels: TypeAlias = tuple[tuple[str, str], ...]
_Sample: TypeAlias = tuple[str, _Labels, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What was measured since the process began, and what is so now.

    `workers` is the memory of each bundle's worker in bytes.
    """

    version: str
    totals: tuple[WindowCounts, ...] = ()
    host: HostFacts = field(default_factory=HostFacts)
    workers: Mapping[tuple[AliasName, Digest], int] = field(default_factory=dict)
    dropped_windows: int = 0


@dataclass(frozen=True, slots=True)
class _Family:
    name: str
    kind: str
    help: str
    samples: tuple[_Sample, ...]


def render(snapshot: Snapshot) -> str:
    """Return the page; families without a sample are left out."""
    families = (
        _info(snapshot),
        *_of_requests(snapshot.totals),
        *_of_shadows(snapshot.totals),
        *_of_workers(snapshot),
        *_of_host(snapshot.host),
        _counter(
            "wherry_telemetry_windows_dropped_total",
            "Windows lost before the controller had them, since the store was made.",
            [((), snapshot.dropped_windows)],
        ),
    )
    return "".join(_text(family) for family in families if family.samples)


def _info(snapshot: Snapshot) -> _Family:
    labels = (("version", snapshot.version),)
    return _gauge("wherry_agent_info", "The agent's release.", [(labels, 1)])


def _of_requests(totals: tuple[WindowCounts, ...]) -> Iterator[_Family]:
    by_key = [(_key(one), one) for one in totals]
    yield _counter(
        "wherry_requests_total",
        "Requests that were answered or failed.",
        [(key, one.requests) for key, one in by_key],
    )
    yield _counter(
        "wherry_request_errors_total",
        "Requests that got no answer, by class of error.",
        [
            ((*key, ("error", error)), count)
            for key, one in by_key
            for error, count in sorted(one.errors.items())
        ],
    )
    yield _histogram(
        "wherry_request_duration_seconds",
        "From a request's last byte to its answer's first.",
        [(key, one.latency, one.latency_ns) for key, one in by_key],
    )
    yield _histogram(
        "wherry_compute_duration_seconds",
        "The runtime's part of a request.",
        [(key, one.compute, one.compute_ns) for key, one in by_key],
    )
    yield _counter(
        "wherry_labels_total",
        "Answers that labels came for.",
        [(key, one.feedback.labelled) for key, one in by_key],
    )
    yield _counter(
        "wherry_labels_right_total",
        "Answers that their labels say are right.",
        [(key, one.feedback.right) for key, one in by_key],
    )


def _of_shadows(totals: tuple[WindowCounts, ...]) -> Iterator[_Family]:
    shadows = [(_key(one), one.shadow) for one in totals if one.shadow is not None]
    yield _counter(
        "wherry_shadow_requests_total",
        "Requests that a shadowing candidate got copies of.",
        [(key, one.requests) for key, one in shadows],
    )
    yield _counter(
        "wherry_shadow_rows_total",
        "Rows that were compared with the incumbent's.",
        [(key, one.rows) for key, one in shadows],
    )
    yield _counter(
        "wherry_shadow_rows_agreed_total",
        "Rows in which candidate and incumbent agree.",
        [(key, one.agreed) for key, one in shadows],
    )
    yield _counter(
        "wherry_shadow_skipped_total",
        "Requests that were sampled and not copied, by cause.",
        [
            ((*key, ("cause", cause)), count)
            for key, one in shadows
            for cause, count in sorted(one.skipped.items())
        ],
    )


def _of_workers(snapshot: Snapshot) -> Iterator[_Family]:
    yield _counter(
        "wherry_worker_restarts_total",
        "Workers that were started again after they had died.",
        [(_key(one), one.restarts) for one in snapshot.totals],
    )
    yield _gauge(
        "wherry_worker_memory_bytes",
        "Memory of a worker's own.",
        [
            ((("alias", alias), ("bundle", bundle)), size)
            for (alias, bundle), size in snapshot.workers.items()
        ],
    )


def _of_host(host: HostFacts) -> Iterator[_Family]:
    load = None if host.cpu_percent is None else host.cpu_percent / 100
    throttled = None if host.throttled is None else int(host.throttled)
    rows: tuple[tuple[str, str, float | None], ...] = (
        ("cpu_usage_ratio", "Share of all cores that was busy since the last scrape.", load),
        ("memory_available_bytes", "Memory that programs may take.", host.memory_available_bytes),
        ("memory_total_bytes", "Memory of the machine.", host.memory_total_bytes),
        ("disk_free_bytes", "Room on the disk of the agent's store.", host.disk_free_bytes),
        ("temperature_celsius", "The hottest thermal zone.", host.temperature_c),
        ("uptime_seconds", "Since the machine started.", host.uptime_s),
        ("agent_resident_memory_bytes", "Memory of the supervisor.", host.agent_rss_bytes),
        ("load1", "Programs that ran or waited, over one minute.", host.load_1m),
        ("throttled", "1 while processors are slowed down.", throttled),
    )
    for name, meaning, value in rows:
        if value is not None:
            yield _gauge(f"wherry_host_{name}", meaning, [((), value)])


def _key(counts: WindowCounts) -> _Labels:
    return (("alias", counts.alias), ("bundle", counts.bundle))


def _counter(name: str, meaning: str, rows: Iterable[tuple[_Labels, float]]) -> _Family:
    return _Family(name, "counter", meaning, tuple((name, key, value) for key, value in rows))


def _gauge(name: str, meaning: str, rows: Iterable[tuple[_Labels, float]]) -> _Family:
    return _Family(name, "gauge", meaning, tuple((name, key, value) for key, value in rows))


def _histogram(name: str, meaning: str, rows: Iterable[tuple[_Labels, Histogram, int]]) -> _Family:
    samples: list[_Sample] = []
    for key, durations, sum_ns in rows:
        for bound_ns in _BOUNDS_NS:
            labels = (*key, ("le", repr(bound_ns / 1e9)))
            samples.append((f"{name}_bucket", labels, _below(durations, bound_ns)))
        samples.append((f"{name}_bucket", (*key, ("le", "+Inf")), durations.total))
        samples.append((f"{name}_sum", key, sum_ns / 1e9))
        samples.append((f"{name}_count", key, durations.total))
    return _Family(name, "histogram", meaning, tuple(samples))


def _below(durations: Histogram, bound_ns: int) -> int:
    first = bucket(bound_ns)
    shorter = takewhile(
        lambda row: row[0] < first, zip(durations.buckets, durations.counts, strict=True)
    )
    return sum(count for _, count in shorter)


def _text(family: _Family) -> str:
    head = f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n"
    return head + "".join(
        f"{name}{_labels(labels)} {value!r}\n" for name, labels, value in family.samples
    )


def _labels(labels: _Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
