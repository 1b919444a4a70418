"""The recorder: what happened to requests since the last window was taken, by alias and bundle.

The serving thread records, the deciding thread takes. Recording a request costs two integer
buckets and a lock that nobody holds for long. What was taken is added to totals that never begin
anew, for whoever reads counters; those of bundles that served long ago are let go.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from wherry.histogram import Histogram, bucket, from_counts, merge
from wherry.measures import Feedback, Seen, ShadowCounts, capped, sum_by_class, sum_seen
from wherry.names import AliasName, Digest
from wherry_agent.asking import Compared

TOTALS_KEPT = 16  # Of bundles under aliases, those that did something last.


@dataclass(frozen=True, slots=True)
class WindowCounts:
    """One window of one bundle under one alias; `requests` counts the failed ones too.

    `latency_ns` and `compute_ns` are the sums of what the histograms count. `shadow` is None
    where the bundle did not shadow. `worker_bytes` is the worker's memory at the window's end,
    None where nobody has measured it.
    """

    alias: AliasName
    bundle: Digest
    requests: int = field(default=0, kw_only=True)
    errors: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    latency: Histogram = field(default=Histogram(), kw_only=True)
    compute: Histogram = field(default=Histogram(), kw_only=True)
    latency_ns: int = field(default=0, kw_only=True)
    compute_ns: int = field(default=0, kw_only=True)
    feedback: Feedback = field(default=Feedback(), kw_only=True)
    inputs: tuple[Seen, ...] = field(default=(), kw_only=True)
    outputs: tuple[Seen, ...] = field(default=(), kw_only=True)
    shadow: ShadowCounts | None = field(default=None, kw_only=True)
    restarts: int = field(default=0, kw_only=True)
    worker_bytes: int | None = field(default=None, kw_only=True)

    def __add__(self, more: WindowCounts) -> WindowCounts:
        """Return the window of both; they are of the same bundle, and `more` is the later."""
        return replace(
            self,
            requests=self.requests + more.requests,
            errors=sum_by_class(self.errors, more.errors),
            latency=merge((self.latency, more.latency)),
            compute=merge((self.compute, more.compute)),
            latency_ns=self.latency_ns + more.latency_ns,
            compute_ns=self.compute_ns + more.compute_ns,
            feedback=self.feedback + more.feedback,
            inputs=sum_seen((self.inputs, more.inputs)),
            outputs=sum_seen((self.outputs, more.outputs)),
            shadow=_sum_shadows(self.shadow, more.shadow),
            restarts=self.restarts + more.restarts,
            worker_bytes=more.worker_bytes,
        )


@dataclass(slots=True)
class _ShadowCounts:
    requests: int = 0
    rows: int = 0
    agreed: int = 0
    distance: float = 0.0
    largest_distance: float = 0.0
    compute: Counter[int] = field(default_factory=Counter)
    incumbent: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Counts:
    requests: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latency: dict[int, int] = field(default_factory=dict)
    compute: dict[int, int] = field(default_factory=dict)
    latency_ns: int = 0
    compute_ns: int = 0
    feedback: Feedback = field(default_factory=Feedback)
    inputs: tuple[Seen, ...] = ()
    outputs: tuple[Seen, ...] = ()
    shadow: _ShadowCounts | None = None
    restarts: int = 0


class Recorder:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[AliasName, Digest], _Counts] = {}
        self._totals: dict[tuple[AliasName, Digest], WindowCounts] = {}

    def answered(
        self, alias: AliasName, bundle: Digest, *, latency_ns: int, compute_ns: int
    ) -> None:
        latency, compute = bucket(latency_ns), bucket(compute_ns)
        with self._lock:
            counts = self._counts.get((alias, bundle)) or self._of(alias, bundle)
            counts.requests += 1
            latencies, computes = counts.latency, counts.compute
            latencies[latency] = latencies.get(latency, 0) + 1
            computes[compute] = computes.get(compute, 0) + 1
            counts.latency_ns += latency_ns
            counts.compute_ns += compute_ns

    def failed(self, alias: AliasName, bundle: Digest, error: str) -> None:
        """Count a request that got no answer, under its class of error."""
        with self._lock:
            counts = self._of(alias, bundle)
            counts.requests += 1
            counts.errors[error] += 1

    def labelled(self, alias: AliasName, bundle: Digest, feedback: Feedback) -> None:
        """Count what the labels of one answer say of it."""
        with self._lock:
            counts = self._of(alias, bundle)
            counts.feedback += feedback

    def saw(
        self,
        alias: AliasName,
        bundle: Digest,
        inputs: tuple[Seen, ...],
        outputs: tuple[Seen, ...],
    ) -> None:
        """Count what a runner saw of a sample of inputs and outputs since it last told."""
        with self._lock:
            counts = self._of(alias, bundle)
            counts.inputs = sum_seen((counts.inputs, inputs))
            counts.outputs = sum_seen((counts.outputs, outputs))

    def restarted(self, alias: AliasName, bundle: Digest) -> None:
        """Count a worker that was started again after it had died."""
        with self._lock:
            self._of(alias, bundle).restarts += 1

    def shadowed(self, alias: AliasName, compared: Compared, *, incumbent_ns: int) -> None:
        """Count a copied request whose answers were compared.

        `incumbent_ns` is the compute time that the answer took which was returned.
        """
        with self._lock:
            counts = self._shadow_of(alias, compared.bundle)
            counts.requests += 1
            counts.rows += compared.rows
            counts.agreed += compared.agreed
            counts.distance = capped(counts.distance + compared.distance)
            counts.largest_distance = max(
                counts.largest_distance, capped(compared.largest_distance)
            )
            counts.compute[bucket(compared.compute_ns)] += 1
            counts.incumbent[bucket(incumbent_ns)] += 1

    def failed_to_shadow(self, alias: AliasName, bundle: Digest, error: str) -> None:
        """Count a copied request that the candidate gave no answer to, under its class of error."""
        with self._lock:
            counts = self._shadow_of(alias, bundle)
            counts.requests += 1
            counts.errors[error] += 1

    def skipped_shadowing(self, alias: AliasName, bundle: Digest, cause: str) -> None:
        """Count a request that was sampled and not copied."""
        with self._lock:
            self._shadow_of(alias, bundle).skipped[cause] += 1

    def take(self) -> tuple[WindowCounts, ...]:
        """Return what was recorded since the last call, and begin anew."""
        with self._lock:
            taken, self._counts = self._counts, {}
            windows = tuple(_window(*key, counts) for key, counts in taken.items())
            for window in windows:
                self._add_up(window)
        return windows

    def totals(self) -> tuple[WindowCounts, ...]:
        """Return what was recorded since the start, of the bundles that did something last."""
        with self._lock:
            totals = dict(self._totals)
            for key, counts in self._counts.items():
                window = _window(*key, counts)
                totals[key] = totals[key] + window if key in totals else window
        return tuple(totals.values())

    def _add_up(self, window: WindowCounts) -> None:
        key = (window.alias, window.bundle)
        known = self._totals.pop(key, None)
        self._totals[key] = window if known is None else known + window
        if len(self._totals) > TOTALS_KEPT:
            del self._totals[next(iter(self._totals))]

    def _of(self, alias: AliasName, bundle: Digest) -> _Counts:
        key = (alias, bundle)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = _Counts()
        return counts

    def _shadow_of(self, alias: AliasName, bundle: Digest) -> _ShadowCounts:
        counts = self._of(alias, bundle)
        if counts.shadow is None:
            counts.shadow = _ShadowCounts()
        return counts.shadow


def _window(alias: AliasName, bundle: Digest, counts: _Counts) -> WindowCounts:
    return WindowCounts(
        alias,
        bundle,
        requests=counts.requests,
        errors=dict(counts.errors),
        latency=from_counts(counts.latency),
        compute=from_counts(counts.compute),
        latency_ns=counts.latency_ns,
        compute_ns=counts.compute_ns,
        feedback=counts.feedback,
        inputs=counts.inputs,
        outputs=counts.outputs,
        shadow=None if counts.shadow is None else _shadow(counts.shadow),
        restarts=counts.restarts,
    )


def _shadow(counts: _ShadowCounts) -> ShadowCounts:
    return ShadowCounts(
        requests=counts.requests,
        rows=counts.rows,
        agreed=counts.agreed,
        distance=counts.distance,
        largest_distance=counts.largest_distance,
        compute=from_counts(counts.compute),
        incumbent_compute=from_counts(counts.incumbent),
        errors=dict(counts.errors),
        skipped=dict(counts.skipped),
    )


def _sum_shadows(some: ShadowCounts | None, more: ShadowCounts | None) -> ShadowCounts | None:
    if some is None or more is None:
        return some or more
    return some + more
