"""A thousand swaps under constant load: what failed, what was wrong, what was slower, what grew.

    python -m tests.bench.agent.swapping [--quick]

Two bundles take turns. For each swap a worker is started beside the one that serves, loads, warms
up and is checked; the flip follows at once, and the old worker is retired at once, so that all of a
swap but the beginning of the load lies in its window, from 0.25 s before the flip to 0.25 s after.
Then nothing is done for as long: the control window. Even and odd control windows are held against
each other the same way, which says how much of a ratio is the machine's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tests.agent.bundles import write_bundle
from tests.bench.agent import nets
from tests.bench.agent.asking import SHIFTS, Load
from tests.bench.agent.clients import answers, binary_request
from tests.bench.agent.figures import Times, ratio_of
from tests.bench.agent.hosting import SOCKET
from tests.bench.agent.processes import (
    device_environment,
    memory_of,
    tree_of,
    until_true,
    workers_of,
)
from tests.bench.agent.said import SCRATCH, is_quick, note, say

SWAPS, QUICK_SWAPS = 1000, 20
PER_S = 150.0
HALF_WINDOW_S = 0.25
SETTLED_SWAPS = 20  # Before the memory that growth is held against.


@dataclass(frozen=True, slots=True)
class Window:
    """From when to when, in the machine's nanoseconds."""

    begins_ns: int
    ends_ns: int


class Host:
    """The process that holds the engine."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.bench.agent.hosting", str(folder)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=device_environment(),
        )
        self.pid = self._process.pid

    def order(self, words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()

    def expect(self, event: str) -> int:
        """Return when the next event came, which must be of one kind."""
        assert self._process.stdout is not None
        told = json.loads(self._process.stdout.readline())
        assert told["event"] == event, told
        return int(told["at_ns"])

    def swap_to(self, bundle: str) -> int:
        """Bring a bundle up, let it answer, retire the other; return when it flipped."""
        self.order(f"load {bundle}")
        self.expect("Loaded")
        self.order(f"serve {bundle}")
        at_ns = self.expect("Flipped")
        self.order("retire")
        return at_ns

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    folder = SCRATCH / "swapping"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bundles = [nets.a_bundle_of("tiny", shift) for shift in SHIFTS]
    for bundle in bundles:
        write_bundle(bundle, folder)
    host = Host(folder)
    host.swap_to(bundles[0].digest)
    request = binary_request(nets.rows_of("tiny"))
    until_true(lambda: answers(folder / SOCKET, request), 10.0)
    load = _start_load(folder / SOCKET)
    swaps, controls, grown = _swap(host, [one.digest for one in bundles])
    found = _end_load(load)
    host.close()
    _tell(found, swaps, controls, grown)


def _swap(host: Host, bundles: list[str]) -> tuple[list[Window], list[Window], list[float]]:
    """Return the windows of the swaps, those between, and the memory after each swap."""
    swaps, controls, memory = list[Window](), list[Window](), list[float]()
    half_ns = int(HALF_WINDOW_S * 1e9)
    for number in range(QUICK_SWAPS if is_quick() else SWAPS):
        at_ns = host.swap_to(bundles[(number + 1) % 2])
        swaps.append(Window(at_ns - half_ns, at_ns + half_ns))
        time.sleep(HALF_WINDOW_S)
        until_true(lambda: len(workers_of(host.pid)) == 1, 10.0)
        began_ns = time.monotonic_ns()
        time.sleep(2 * HALF_WINDOW_S)
        controls.append(Window(began_ns, time.monotonic_ns()))
        memory.append(sum(memory_of(pid).rss_mb for pid in tree_of(host.pid)))
        if (number + 1) % 100 == 0:
            note(f"{number + 1} swaps, {memory[-1]:.1f} MB")
    return swaps, controls, memory


def _start_load(socket: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.bench.agent.asking", str(socket), str(PER_S)]
    load = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    time.sleep(3.0)  # It loads numpy and computes what is right.
    return load


def _end_load(load: subprocess.Popen[bytes]) -> Load:
    said, _ = load.communicate()
    return msgspec.json.decode(said, type=Load)


def _tell(load: Load, swaps: list[Window], controls: list[Window], memory: list[float]) -> None:
    sent, took = np.array(load.sent_ns), np.array(load.took_ns, np.float64)
    swapped, steady = (_times(sent, took, windows) for windows in (swaps, controls))
    over = ratio_of(swapped, steady, 99)
    beside = ratio_of(steady[::2], steady[1::2], 99)
    settled = min(SETTLED_SWAPS, len(memory) // 3)
    before, after = (
        float(np.median(part)) for part in (memory[settled : 2 * settled], memory[-settled:])
    )
    for why in load.why:
        note(f"failed: {why}")
    say(
        {
            "count": len(swaps),
            "requests": len(took),
            "failed": load.failed,
            "wrong": load.wrong,
            "p99_over_steady": over.value,
            "p99_over_steady_low": over.low,
            "p99_over_steady_high": over.high,
            "p99_over_steady_control": beside.value,
            "p99_over_steady_control_low": beside.low,
            "p99_over_steady_control_high": beside.high,
            "steady_p99_us": float(np.percentile(np.concatenate(steady), 99)) / 1e3,
            "swap_p99_us": float(np.percentile(np.concatenate(swapped), 99)) / 1e3,
            "memory_growth": after / before - 1,
            "memory_before_mb": before,
            "memory_after_mb": after,
        }
    )


def _times(sent: NDArray[np.int64], took: Times, windows: list[Window]) -> list[Times]:
    """Return what requests that were sent in each window took."""
    found = []
    for window in windows:
        begins, ends = np.searchsorted(sent, (window.begins_ns, window.ends_ns))
        found.append(took[begins:ends])
    return [times for times in found if len(times)]


if __name__ == "__main__":
    main()
