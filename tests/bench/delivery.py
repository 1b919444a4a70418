"""`make bench-delivery`: what trust and delivery cost, and what kills and hostile bytes leave.

    verifier    what verifying takes of memory and time, with 10,000 bundles
    delta       the size of fine-tuned models' deltas, beside those of others' tools
    fanout      one bundle to many agents, beside nginx
    returning   many agents for a bundle that was cleared
    kills       agent and broker killed at random instants

The figures go to `build/bench/delivery.json`, and a table with their bars to stdout.
"""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.bench import deltas, verifier
from tests.bench.fanout import fanout, returning
from tests.bench.kills import kills

OUTPUT = Path(__file__).resolve().parents[2] / "build" / "bench"
KIB = 1024
# At most; `bsdiff_encode_over_ours` is at least.
DELTA_BARS = {
    "int8": 0.05,
    "fp16": 0.15,
    "fp32": 0.45,
    "head": 0.04,
    "adamw_int8": 0.10,
    "adamw_fp16": 0.25,
    "adamw_fp32": 0.52,
    "over_best_other": 1.0,
}
FANOUT_BARS = {
    "controller_sent_over_bundle": 1.1,
    "broker_extra_mb": 30.0,
    "wall_over_nginx": 3.0,
    "wrong_bytes": 0.0,
}
VERIFIER_BARS = {"rss_mb": 4.0, "packet_ms": 10.0, "packet_bytes": 6 * KIB - 1.0}

Part = dict[str, float]


@dataclass(frozen=True, slots=True)
class Bar:
    name: str
    value: float
    bound: float
    is_least: bool = False

    @property
    def holds(self) -> bool:
        return self.value >= self.bound if self.is_least else self.value <= self.bound


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Shares are fractions of the full file, sizes of memory MiB."""

    delta: Part
    fanout: Part
    returning: Part
    kills: Part
    verifier: Part


def main() -> int:
    logging.disable(logging.WARNING)  # Links that break are what the kills are about.
    scratch = OUTPUT / "delivery-scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    report = Report(
        verifier=_timed("verifier", verifier.measure),
        delta=_timed("delta", deltas.measure),
        fanout=_timed("fanout", lambda: _fanout(scratch / "fanout")),
        returning=_timed("returning", lambda: _returning(scratch / "returning")),
        kills=_timed("kills", lambda: _kills(scratch / "kills")),
    )
    shutil.rmtree(scratch, ignore_errors=True)
    (OUTPUT / "delivery.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    bars = list(bars_of(report))
    for bar in bars:
        word = "at least" if bar.is_least else "at most"
        verdict = "ok" if bar.holds else "MISSED"
        _say(f"{bar.name:42} {bar.value:12.4g}   {word:8} {bar.bound:<10g} {verdict}")
    return 0 if all(bar.holds for bar in bars) else 1


def bars_of(report: Report) -> Iterator[Bar]:
    """Yield every figure that is bounded, with its bound."""
    yield from _most("delta", report.delta, DELTA_BARS)
    encoded = report.delta["bsdiff_encode_over_ours"]
    yield Bar("delta.bsdiff_encode_over_ours", encoded, 5.0, is_least=True)
    yield from _most("fanout", report.fanout, FANOUT_BARS)
    yield Bar("returning.devices", report.returning["devices"], 1000, is_least=True)
    yield from _most("returning", report.returning, {"controller_sent_over_bundle": 1.5})
    yield Bar("kills.runs", report.kills["runs"], 500, is_least=True)
    yield from _most("kills", report.kills, {"bad": 0.0})
    yield from _most("verifier", report.verifier, VERIFIER_BARS)


def _most(part: str, figures: Part, bounds: Mapping[str, float]) -> Iterator[Bar]:
    for key, bound in bounds.items():
        yield Bar(f"{part}.{key}", figures[key], bound)


def _fanout(folder: Path) -> Part:
    folder.mkdir()
    found = fanout(folder)
    _say(f"  {found.agents} agents: {found.wall_s:.1f} s, by nginx {found.nginx_s:.1f} s")
    return {key: getattr(found, key) for key in FANOUT_BARS}


def _returning(folder: Path) -> Part:
    folder.mkdir()
    found = returning(folder)
    _say(f"  {found.devices} agents: {found.wall_s:.1f} s, {found.wrong_bytes} wrong bytes")
    sent = found.controller_sent_over_bundle
    return {"devices": found.devices, "controller_sent_over_bundle": sent}


def _kills(folder: Path) -> Part:
    folder.mkdir()
    found = kills(folder)
    _say(f"  {found.of_brokers} of brokers, in {found.deployments} deployments")
    for problem in found.problems:
        _say(f"  {problem}")
    return {"runs": found.runs, "bad": found.bad}


def _timed(name: str, measure: Callable[[], Part]) -> Part:
    _say(f"{name} …")
    began = time.monotonic()
    figures = measure()
    _say(f"{name}: {time.monotonic() - began:.0f} s")
    return figures


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
