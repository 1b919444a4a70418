"""The local API beside the same model run in this process: what a request costs more.

    python -m tests.bench.agent.latency [--quick]

Each round asks through the Unix socket and runs in process by turns, the agent and the bare model
on one core and the client on the other; where there are eight connections, they are eight threads.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests.bench.agent import nets
from tests.bench.agent.clients import Wire, binary_request, json_request
from tests.bench.agent.figures import Times, pooled
from tests.bench.agent.lives import Life, a_life
from tests.bench.agent.processes import CLIENT_CORE, SERVER_CORE, pin, pin_self
from tests.bench.agent.said import SCRATCH, Part, is_quick, say
from wherry_agent.settings import ServingSettings

ROUNDS = {"tiny": 200, "wide": 200, "busy": 100, "heavy": 100}
EACH = {"tiny": 50, "wide": 25, "busy": 10, "heavy": 10}
CONNECTIONS, ROWS_BATCHED = 8, 8


class Bare:
    """The model run in a process of its own by nothing but onnxruntime, on the servers' core."""

    def __init__(self, name: str, folder: Path) -> None:
        model = folder / f"{name}.onnx"
        model.write_bytes(nets.NETS[name](0.0))
        command = [sys.executable, "-m", "tests.bench.agent.bare", name, str(model)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.times(5)
        pin(self._process.pid, SERVER_CORE)

    def times(self, count: int) -> Times:
        """Return the nanoseconds that each of so many runs took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return np.array(self._process.stdout.readline().split(), np.float64)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def main() -> None:
    shutil.rmtree(SCRATCH / "latency", ignore_errors=True)
    (SCRATCH / "latency").mkdir(parents=True)
    pin_self(CLIENT_CORE)
    tiny, wide, busy, heavy = (_beside(name) for name in ("tiny", "wide", "busy", "heavy"))
    say(
        {
            "added_us_1kb": tiny["binary"] - tiny["bare"],
            "added_us_1kb_json": tiny["json"] - tiny["bare"],
            "added_us_600kb": wide["binary"] - wide["bare"],
            # What 600 KB cost has a bar of its own, so here the inputs are small.
            "over_inprocess_5ms": busy["binary"] / busy["bare"],
            "inprocess_5ms_us": busy["bare"],
            "over_inprocess_600kb": heavy["binary"] / heavy["bare"],
            "inprocess_600kb_us": heavy["bare"],
            **_many("alone", ServingSettings()),
            **_many("batched", ServingSettings(batch_rows=ROWS_BATCHED, batch_wait_ms=0.5)),
        }
    )


def _beside(name: str) -> Part:
    """Return the p50 of each way in microseconds, asked by turns."""
    rows = nets.rows_of(name)
    requests = {"binary": binary_request(rows)}
    if name == "tiny":
        requests["json"] = json_request(rows)
    rounds = ROUNDS[name] // (10 if is_quick() else 1)
    with _living(name) as life, Wire(life.socket) as wire:
        bare = Bare(name, life.home.parent)
        times: dict[str, list[Times]] = {way: [] for way in ("bare", *requests)}
        for number in range(-2, rounds):
            found = {"bare": bare.times(EACH[name])}
            for way, request in requests.items():
                asked = [wire.timed(request) for _ in range(EACH[name])]
                found[way] = np.array(asked, np.float64)
            if number >= 0:  # What comes before is to warm up.
                for way, timed in found.items():
                    times[way].append(timed)
        bare.close()
    return {way: pooled(timed, 50) / 1e3 for way, timed in times.items()}


def _many(name: str, serving: ServingSettings) -> Part:
    """Return what eight connections get that ask all the time."""
    request = binary_request(nets.rows_of("tiny"))
    each = 200 if is_quick() else 2000
    with _living("tiny", serving) as life:
        wires = [Wire(life.socket) for _ in range(CONNECTIONS)]
        found: list[Times] = []

        def ask(wire: Wire) -> None:
            found.append(np.array([wire.timed(request) for _ in range(each)], np.float64))

        threads = [threading.Thread(target=ask, args=(wire,)) for wire in wires]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for wire in wires:
            wire.__exit__()
    assert len(found) == CONNECTIONS
    last_s = max(float(times.sum()) for times in found) / 1e9
    return {
        f"connections8_{name}_p50_us": pooled(found, 50) / 1e3,
        f"connections8_{name}_p99_us": pooled(found, 99) / 1e3,
        f"connections8_{name}_per_s": CONNECTIONS * each / last_s,
    }


@contextmanager
def _living(name: str, serving: ServingSettings | None = None) -> Iterator[Life]:
    folder = (
        SCRATCH / "latency" / (f"{name}-batched" if serving and serving.batch_rows > 1 else name)
    )
    shutil.rmtree(folder, ignore_errors=True)
    with a_life(folder, nets.a_bundle_of(name), serving) as life:
        pin(life.pid, SERVER_CORE)
        yield life


if __name__ == "__main__":
    main()
