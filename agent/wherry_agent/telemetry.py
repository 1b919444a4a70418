"""The recorder: what happened to requests since the last window was taken, by alias and bundle.

The serving thread records, the deciding thread takes. Recording a request costs two integer
buckets and a lock that nobody holds for long.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from wherry.histogram import Histogram, bucket, from_counts
from wherry.measures import Feedback
from wherry.names import AliasName, Digest


@dataclass(frozen=True, slots=True)
class WindowCounts:
    """One window of one bundle under one alias; `requests` counts the failed ones too."""

    alias: AliasName
    bundle: Digest
    requests: int = field(kw_only=True)
    errors: dict[str, int] = field(kw_only=True)
    latency: Histogram = field(kw_only=True)
    compute: Histogram = field(kw_only=True)
    feedback: Feedback = field(kw_only=True)


@dataclass(slots=True)
class _Counts:
    requests: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    latency: dict[int, int] = field(default_factory=dict)
    compute: dict[int, int] = field(default_factory=dict)
    labelled: int = 0
    right: int = 0


class Recorder:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[AliasName, Digest], _Counts] = {}

    def answered(
        self, alias: AliasName, bundle: Digest, *, latency_ns: int, compute_ns: int
    ) -> None:
        latency, compute = bucket(latency_ns), bucket(compute_ns)
        with self._lock:
            counts = self._of(alias, bundle)
            counts.requests += 1
            counts.latency[latency] = counts.latency.get(latency, 0) + 1
            counts.compute[compute] = counts.compute.get(compute, 0) + 1

    def failed(self, alias: AliasName, bundle: Digest, error: str) -> None:
        """Count a request that got no answer, under its class of error."""
        with self._lock:
            counts = self._of(alias, bundle)
            counts.requests += 1
            counts.errors[error] += 1

    def labelled(self, alias: AliasName, bundle: Digest, *, labels: int, right: int) -> None:
        with self._lock:
            counts = self._of(alias, bundle)
            counts.labelled += labels
            counts.right += right

    def take(self) -> tuple[WindowCounts, ...]:
        """Return what was recorded since the last call, and begin anew."""
        with self._lock:
            taken, self._counts = self._counts, {}
        return tuple(_window(*key, counts) for key, counts in taken.items())

    def _of(self, alias: AliasName, bundle: Digest) -> _Counts:
        key = (alias, bundle)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = _Counts()
        return counts


def _window(alias: AliasName, bundle: Digest, counts: _Counts) -> WindowCounts:
    return WindowCounts(
        alias,
        bundle,
        requests=counts.requests,
        errors=dict(counts.errors),
        latency=from_counts(counts.latency),
        compute=from_counts(counts.compute),
        feedback=Feedback(counts.labelled, counts.right),
    )
