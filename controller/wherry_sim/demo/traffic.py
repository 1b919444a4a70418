"""A local program of the demo: it asks its agent for answers without a pause, and checks each.

    python -m wherry_sim.demo.traffic SOCKET LIVE.npz ANSWERS_FOLDER SPANS.npy

It reads orders on standard input, a word a line: `steady` (`STEADY_RATE` requests a second),
`burst` (back to back on every connection, while a swap is under way), `stop`. Labels go back
`LABEL_DELAY_S` after the answers, as labels come in life: later than a probation lasts. Each
answer is compared with what the bundle named in it answered offline. At the end it prints what
it saw, as one JSON document, and leaves in SPANS.npy when each request was sent and when it was
answered or cut off (float64 [requests, 2], UNIX seconds).
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from wherry.errors import REFUSALS
from wherry.histogram import Histogram, bucket, from_counts
from wherry_agent.client import Answer, Client, Input, decode_answer, encode_request
from wherry_sim.demo.digits import Digits, read_set
from wherry_sim.demo.plan import ALIAS, LABEL_DELAY_S, STEADY_RATE

CONNECTIONS = 6
LABELS_A_SECOND = 75.0
LARGEST_ARREARS_S = 0.1
PAUSE_AFTER_FAILURE_S = 0.05


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What one bundle answered."""

    answers: int
    wrong: int
    inconsistent: int


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What the program saw; failures are UNIX times in seconds."""

    sent: int
    failures: tuple[float, ...]
    sentences: tuple[str, ...]
    tallies: dict[str, Tally]
    steady: Histogram
    burst: Histogram
    labels: int


class _Counts:
    """What one connection counts; read when its thread has ended."""

    def __init__(self) -> None:
        self.sent = self.labels = 0
        self.failures: list[tuple[float, str]] = []
        self.tallies: dict[str, list[int]] = {}
        self.durations: dict[str, dict[int, int]] = {"steady": {}, "burst": {}}
        self.spans: list[tuple[float, float]] = []


class Offline:
    """What each bundle answers offline: `ANSWERS/<digest>.npz` with `scores` and `tolerance`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[NDArray[np.float32], float]] = {}

    def is_consistent(self, bundle: str, row: int, scores: Sequence[float]) -> bool:
        answers, tolerance = self._of(bundle)
        strays = np.abs(np.asarray(scores, dtype=np.float32) - answers[row])
        return bool(strays.max() <= tolerance)

    def _of(self, bundle: str) -> tuple[NDArray[np.float32], float]:
        if bundle not in self._known:
            with np.load(self._folder / f"{bundle}.npz") as file:
                self._known[bundle] = (file["scores"], float(file["tolerance"]))
        return self._known[bundle]


class Program:
    """The connections of one local program, each a thread with a client of its own."""

    def __init__(self, socket: Path, live: Digits, offline: Offline) -> None:
        self._socket = socket
        self._labels = [int(label) for label in live.labels]
        self._bodies = [_body(image) for image in live.images]
        self._offline = offline
        self._mode = "steady"
        self._going = True
        self._due: deque[tuple[float, str, int]] = deque()
        self._counts = [_Counts() for _ in range(CONNECTIONS + 1)]
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(CONNECTIONS)
        ]
        self._threads.append(threading.Thread(target=self._label))

    def run(self, orders: Iterable[str]) -> Seen:
        """Ask until the orders end or say `stop`; return what was seen."""
        for thread in self._threads:
            thread.start()
        for order in orders:
            if order.strip() == "stop":
                break
            self._mode = order.strip()
        self._going = False
        for thread in self._threads:
            thread.join()
        return _seen(self._counts)

    def spans(self) -> NDArray[np.float64]:
        spans = [span for counts in self._counts for span in counts.spans]
        return np.asarray(spans, dtype=np.float64).reshape(-1, 2)

    def _ask(self, number: int) -> None:
        counts = self._counts[number]
        turn = number
        with Client(self._socket) as client:
            self._wait_until_ready(client)
            next_s = time.monotonic()
            while self._going:
                mode = self._mode
                row = turn % len(self._bodies)
                turn += CONNECTIONS
                self._ask_once(client, counts, mode, row, turn)
                next_s = next_due(next_s, time.monotonic())
                while mode == self._mode == "steady" and self._going:
                    left_s = next_s - time.monotonic()
                    if left_s <= 0:
                        break
                    time.sleep(min(left_s, 0.05))

    def _ask_once(self, client: Client, counts: _Counts, mode: str, row: int, turn: int) -> None:
        counts.sent += 1
        sent_at, began_ns = time.time(), time.perf_counter_ns()
        try:
            answer = decode_answer(client.infer_raw(ALIAS, self._bodies[row]))
        except REFUSALS as error:
            counts.failures.append((time.time(), str(error)))
            counts.spans.append((sent_at, time.time()))
            time.sleep(PAUSE_AFTER_FAILURE_S)
            return
        index = bucket(time.perf_counter_ns() - began_ns)
        counts.durations[mode][index] = counts.durations[mode].get(index, 0) + 1
        counts.spans.append((sent_at, time.time()))
        self._check(counts, answer, row)
        self._due.append((time.monotonic() + LABEL_DELAY_S, answer.id, self._labels[row]))

    def _check(self, counts: _Counts, answer: Answer, row: int) -> None:
        scores = [float(score) for score in answer.values("scores")]
        tally = counts.tallies.setdefault(answer.version, [0, 0, 0])
        tally[0] += 1
        tally[1] += scores.index(max(scores)) != self._labels[row]
        tally[2] += not self._offline.is_consistent(answer.version, row, scores)

    def _label(self) -> None:
        """Send labels when they are due, at a bounded rate: a burst's answers get a sample."""
        counts = self._counts[-1]
        with Client(self._socket) as client:
            while self._going:
                time.sleep(1 / LABELS_A_SECOND)
                now_s = time.monotonic()
                due = None
                while self._due and self._due[0][0] <= now_s:
                    due = self._due.popleft()
                    if now_s - due[0] < 1.0:
                        break
                if due is None:
                    continue
                try:
                    client.feedback(ALIAS, due[1], [due[2]])
                    counts.labels += 1
                except REFUSALS:
                    continue  # The agent was killed and has forgotten the answer.

    def _wait_until_ready(self, client: Client) -> None:
        while self._going:
            try:
                if client.is_ready(ALIAS):
                    return
            except REFUSALS:
                pass
            time.sleep(0.1)


def next_due(due_s: float, now_s: float) -> float:
    """Return when to ask again: evenly, and neither in arrears nor ahead after a burst."""
    pace_s = CONNECTIONS / STEADY_RATE
    return min(max(due_s + pace_s, now_s - LARGEST_ARREARS_S), now_s + pace_s)


def _body(image: NDArray[np.float32]) -> bytes:
    pixels = [round(float(pixel), 6) for pixel in image.ravel()]
    return encode_request({"image": Input("FP32", (1, *image.shape), pixels)})


def _seen(counts: Sequence[_Counts]) -> Seen:
    failures = sorted(failure for one in counts for failure in one.failures)
    tallies: dict[str, Tally] = {}
    for bundle in {bundle for one in counts for bundle in one.tallies}:
        rows = [one.tallies[bundle] for one in counts if bundle in one.tallies]
        answers, wrong, inconsistent = (sum(column) for column in zip(*rows, strict=True))
        tallies[bundle] = Tally(answers=answers, wrong=wrong, inconsistent=inconsistent)
    return Seen(
        sent=sum(one.sent for one in counts),
        failures=tuple(at_s for at_s, _ in failures),
        sentences=tuple(sorted({sentence for _, sentence in failures}))[:5],
        tallies=tallies,
        steady=_merged([one.durations["steady"] for one in counts]),
        burst=_merged([one.durations["burst"] for one in counts]),
        labels=sum(one.labels for one in counts),
    )


def _merged(durations: Sequence[Mapping[int, int]]) -> Histogram:
    total: dict[int, int] = {}
    for counts in durations:
        for index, count in counts.items():
            total[index] = total.get(index, 0) + count
    return from_counts(total)


def main(arguments: list[str]) -> int:
    socket, live, answers, spans = arguments
    program = Program(Path(socket), read_set(Path(live)), Offline(Path(answers)))
    seen = program.run(iter(sys.stdin.readline, ""))
    np.save(spans, program.spans())
    sys.stdout.write(msgspec.json.encode(seen).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
