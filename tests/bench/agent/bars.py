"""The bars of `make bench-agent`: which figure may be how much, and which of them hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

MIB_ABOVE_IMPORTS = 8.0
AT_MOST = {
    "api.added_us_1kb": 250.0,
    "api.added_us_600kb": 450.0,
    "api.over_inprocess_5ms": 1.06,
    "swap.failed": 0.0,
    "swap.wrong": 0.0,
    "swap.p99_over_steady": 1.5,
    "swap.memory_growth": 0.05,
    "crash_to_answer_ms": 250.0,
    "crash.hung_or_unclear": 0.0,
    "memory_mb.supervisor_rss": 45.0,
    "memory_mb.supervisor_pss": 34.0,
    "memory_mb.worker": 65.0,
    "idle_cpu_percent": 0.2,
    "start_s": 1.0,
    "hostile.agent_down": 0.0,
    "hostile.incumbent_down": 0.0,
}
SWAPS = 1000.0
BETTER = 1.0  # What each figure of ours over a peer's must stay below.
OVER_MLSERVER_1KB = 1 / 3
KIB = 1024


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """One peer on one net in one encoding: ratios are ours over theirs."""

    name: str
    encoding: str
    size_bytes: int
    p50_ratio: float
    p99_ratio: float
    rss_ratio: float
    p50_ratio_interval: tuple[float, float]
    p99_ratio_interval: tuple[float, float]
    p50_ms: float
    peer_p50_ms: float
    rss_mb: float
    peer_rss_mb: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `build/bench/agent.json` holds; `crash` has what stands beside the bars."""

    api: dict[str, float]
    peers: list[Peer]
    swap: dict[str, float]
    crash_to_answer_ms: float
    memory_mb: dict[str, float]
    idle_cpu_percent: float
    start_s: float
    hostile: dict[str, float]
    crash: dict[str, float]


@dataclass(frozen=True, slots=True)
class Bar:
    name: str
    value: float
    bound: float
    word: str = "at most"

    @property
    def holds(self) -> bool:
        match self.word:
            case "at least":
                return self.value >= self.bound
            case "below":
                return self.value < self.bound
            case _:
                return self.value <= self.bound


def bars_of(report: Report) -> Iterator[Bar]:
    """Yield every figure that is bounded, with its bound."""
    found = msgspec.to_builtins(report)
    for name, bound in AT_MOST.items():
        yield Bar(name, _figure(found, name.split(".")), bound)
    memory = report.memory_mb
    above_mb = memory["supervisor_rss"] - memory["supervisor_imports_rss"]
    yield Bar("memory_mb.supervisor above imports", above_mb, MIB_ABOVE_IMPORTS)
    yield Bar("swap.count", report.swap["count"], SWAPS, "at least")
    hostile = report.hostile
    yield Bar("hostile.refused", hostile["refused"], hostile["tried"], "at least")
    for peer in report.peers:
        yield from _bars_of_peer(peer)


def _bars_of_peer(peer: Peer) -> Iterator[Bar]:
    name = f"{peer.name} {peer.encoding} {peer.size_bytes // KIB} KiB"
    is_third = peer.name == "mlserver" and peer.size_bytes <= KIB
    yield Bar(f"{name}: p50", peer.p50_ratio, OVER_MLSERVER_1KB if is_third else BETTER, "below")
    yield Bar(f"{name}: p99", peer.p99_ratio, BETTER, "below")
    yield Bar(f"{name}: memory", peer.rss_ratio, BETTER, "below")


def _figure(found: object, path: list[str]) -> float:
    for name in path:
        assert isinstance(found, dict)
        found = found[name]
    assert isinstance(found, (int, float))
    return float(found)
