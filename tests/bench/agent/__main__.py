"""`make bench-agent`: what serving, swapping and crashing cost, beside other servers.

    latency    the local API beside the same model in process; eight connections; batching
    peering    MLServer, KServe's SDK server, PyTriton and BentoML on the same models
    crashing   starts, and the worker ended by SIGSEGV
    swapping   a thousand swaps under constant load
    resting    memory and idle processor after ten minutes
    hostile    models that shall be refused

Each part is a process of its own, one after another: whatever runs beside a timing changes it.
`--quick` tries all of it in a few minutes, with figures that prove nothing. `--only PART` runs one
and prints what it found. The figures go to `build/bench/agent.json`, a table with bars to stdout.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time

import msgspec

from tests.bench.agent.bars import Peer, Report, bars_of
from tests.bench.agent.said import OUTPUT, SCRATCH, is_quick

PARTS = ("latency", "peering", "crashing", "swapping", "resting", "hostile")
LONGEST_S = 3600
QUICK = {"hostile": ["20"]}  # It takes the number of its damaged models.


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.agent")
    parser.add_argument("--quick", action="store_true", help="try it: figures that prove nothing")
    parser.add_argument("--only", choices=PARTS, help="run one part and print what it found")
    asked = parser.parse_args()
    if asked.only:
        _say(_run(asked.only).decode())
        return 0
    shutil.rmtree(SCRATCH, ignore_errors=True)
    found = {part: _timed(part) for part in PARTS}
    shutil.rmtree(SCRATCH, ignore_errors=True)
    report = _report(found)
    place = OUTPUT / ("agent-quick.json" if asked.quick else "agent.json")
    place.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    bars = list(bars_of(report))
    for bar in bars:
        verdict = "ok" if bar.holds else "MISSED"
        _say(f"{bar.name:42} {bar.value:12.4g}   {bar.word:8} {bar.bound:<10.4g} {verdict}")
    return 0 if all(bar.holds for bar in bars) else 1


def _report(found: dict[str, bytes]) -> Report:
    figures = {
        part: msgspec.json.decode(said, type=dict[str, float])
        for part, said in found.items()
        if part != "peering"
    }
    resting, crashing = figures["resting"], figures["crashing"]
    return Report(
        api=figures["latency"],
        peers=msgspec.json.decode(found["peering"], type=dict[str, list[Peer]])["peers"],
        swap=figures["swapping"],
        crash_to_answer_ms=crashing.pop("crash_to_answer_ms"),
        memory_mb={name: value for name, value in resting.items() if name != "idle_cpu_percent"},
        idle_cpu_percent=resting["idle_cpu_percent"],
        start_s=crashing.pop("start_s"),
        hostile=figures["hostile"],
        crash=crashing,
    )


def _timed(part: str) -> bytes:
    _say(f"{part} …")
    began = time.monotonic()
    found = _run(part)
    _say(f"{part}: {time.monotonic() - began:.0f} s")
    return found


def _run(part: str) -> bytes:
    """Return the line in which a part says what it found."""
    words = QUICK.get(part, ["--quick"]) if is_quick() else []
    command = [sys.executable, "-m", f"tests.bench.agent.{part}", *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=LONGEST_S)
    return done.stdout.splitlines()[-1]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
