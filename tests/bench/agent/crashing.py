"""Starts and crashes: how long until the first answer, and until the next after a SIGSEGV.

    python -m tests.bench.agent.crashing [--quick]

Each round starts an agent on a home that has confirmed a bundle, waits for an answer, has four
connections ask all the time, and ends the one worker with SIGSEGV. No other bundle is resident, so
that what answers next is the worker started again. The figures are the worst of all rounds.
"""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from tests.bench.agent import nets
from tests.bench.agent.clients import Refused, Wire, binary_request
from tests.bench.agent.lives import Life, a_life
from tests.bench.agent.said import SCRATCH, is_quick, note, say

ROUNDS, QUICK_ROUNDS = 20, 3
CONNECTIONS = 4
AROUND_S = 0.5
CLEAR = (502, 503, 504)  # What says that a request was not answered, and that it may be repeated.
BETWEEN_S = 0.002  # Asking on after a refusal.


@dataclass(slots=True)
class Asked:
    """What one connection got; `answered_s` are pairs of when an answer was asked for and came."""

    answered_s: list[tuple[float, float]] = field(default_factory=list)
    refused: int = 0
    unclear: list[str] = field(default_factory=list)


def main() -> None:
    folder = SCRATCH / "crashing"
    shutil.rmtree(folder, ignore_errors=True)
    request = binary_request(nets.rows_of("stored"))
    starts_s, crashes_ms, refused, unclear = list[float](), list[float](), 0, list[str]()
    with a_life(folder, nets.a_bundle_of("stored")) as life:
        for _ in range(QUICK_ROUNDS if is_quick() else ROUNDS):
            life.end()
            began_s = time.monotonic()
            life.begin()
            life.wait_for_answer(request)
            starts_s.append(time.monotonic() - began_s)
            crash_ms, asked = _crash(life, request)
            crashes_ms.append(crash_ms)
            refused += sum(one.refused for one in asked)
            unclear += [why for one in asked for why in one.unclear]
    for why in unclear[:5]:
        note(f"no clear answer: {why}")
    say(
        {
            "crash_to_answer_ms": max(crashes_ms),
            "to_answer_median_ms": float(np.median(crashes_ms)),
            "start_s": max(starts_s),
            "start_median_s": float(np.median(starts_s)),
            "count": len(crashes_ms),
            "refused": refused,
            "hung_or_unclear": len(unclear),
        }
    )


def _crash(life: Life, request: bytes) -> tuple[float, list[Asked]]:
    """Return how long nothing was answered after the worker's end, and what each connection got."""
    over = threading.Event()
    asked = [Asked() for _ in range(CONNECTIONS)]
    threads = [threading.Thread(target=_ask, args=(life, request, one, over)) for one in asked]
    for thread in threads:
        thread.start()
    time.sleep(AROUND_S)
    worker = life.worker
    killed_s = time.monotonic()
    os.kill(worker, signal.SIGSEGV)
    time.sleep(AROUND_S)
    while not _next_answers(asked, killed_s):
        assert time.monotonic() < killed_s + 60.0, "nothing answers after a crash"
        time.sleep(0.05)
    over.set()
    for thread in threads:
        thread.join()
    return 1e3 * (min(_next_answers(asked, killed_s)) - killed_s), asked


def _next_answers(asked: list[Asked], killed_s: float) -> list[float]:
    """Return when answers came to what was asked after the crash."""
    pairs = [pair for one in asked for pair in tuple(one.answered_s)]
    return [came_s for sent_s, came_s in pairs if sent_s > killed_s]


def _ask(life: Life, request: bytes, asked: Asked, over: threading.Event) -> None:
    wire = Wire(life.socket)
    while not over.is_set():
        sent_s = time.monotonic()
        try:
            wire.ask(request)
        except Refused as refused:
            asked.refused += 1
            if refused.status not in CLEAR:
                asked.unclear.append(str(refused))
            over.wait(BETWEEN_S)
        except OSError as error:
            asked.unclear.append(repr(error))
            wire = Wire(life.socket)
        else:
            asked.answered_s.append((sent_s, time.monotonic()))


if __name__ == "__main__":
    main()
