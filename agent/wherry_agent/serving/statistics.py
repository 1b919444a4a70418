"""What the statistics extension tells of each bundle: counts and nanoseconds since the start."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from wherry.names import AliasName, Digest

BUNDLES_KEPT = 32  # Under all aliases; the one that did nothing for longest goes first.


@dataclass(slots=True)
class _Sum:
    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns

    def told(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


@dataclass(slots=True)
class _Counts:
    last_ms: int = 0
    rows: int = 0
    success: _Sum = field(default_factory=_Sum)
    fail: _Sum = field(default_factory=_Sum)
    queue: _Sum = field(default_factory=_Sum)
    compute: _Sum = field(default_factory=_Sum)
    batches: dict[int, _Sum] = field(default_factory=dict)


class Statistics:
    """Counted on the engine's thread only."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[AliasName, Digest], _Counts] = OrderedDict()

    def answered(
        self,
        alias: AliasName,
        bundle: Digest,
        *,
        rows: int,
        latency_ns: int,
        compute_ns: int,
        now_ms: int,
    ) -> None:
        counts = self._of(alias, bundle)
        counts.last_ms = now_ms
        counts.rows += rows
        counts.success.add(latency_ns)
        counts.compute.add(compute_ns)
        counts.queue.add(max(latency_ns - compute_ns, 0))
        batch = counts.batches.get(rows)
        if batch is None:
            batch = counts.batches[rows] = _Sum()
        batch.add(compute_ns)

    def failed(self, alias: AliasName, bundle: Digest, latency_ns: int) -> None:
        self._of(alias, bundle).fail.add(latency_ns)

    def tell(self, alias: AliasName | None = None) -> dict[str, object]:
        """Return the statistics of one alias, or of all."""
        chosen = [
            _told(key, counts)
            for key, counts in sorted(self._counts.items(), key=lambda item: item[0])
            if alias in (None, key[0])
        ]
        return {"model_stats": chosen}

    def _of(self, alias: AliasName, bundle: Digest) -> _Counts:
        key = (alias, bundle)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = _Counts()
            if len(self._counts) > BUNDLES_KEPT:
                self._counts.popitem(last=False)
        else:
            self._counts.move_to_end(key)
        return counts


def _told(key: tuple[AliasName, Digest], counts: _Counts) -> dict[str, object]:
    nothing = _Sum().told()
    return {
        "name": key[0],
        "version": key[1],
        "last_inference": counts.last_ms,
        "inference_count": counts.rows,
        "execution_count": counts.success.count,
        "inference_stats": {
            "success": counts.success.told(),
            "fail": counts.fail.told(),
            "queue": counts.queue.told(),
            "compute_input": nothing,
            "compute_infer": counts.compute.told(),
            "compute_output": nothing,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": nothing,
                "compute_infer": batch.told(),
                "compute_output": nothing,
            }
            for rows, batch in sorted(counts.batches.items())
        ],
    }
