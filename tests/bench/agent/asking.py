"""The constant load of the swaps: one request after the other at a steady pace, each checked.

    python -m tests.bench.agent.asking SOCKET PER_S

The answer must be what the bundle that signs for it computes: the scores of the tiny net, with
that bundle's shift. At the end of standard input it says of each request when it was sent and how
long it took, in nanoseconds, and how many failed and how many were wrong.
"""

from __future__ import annotations

import select
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from tests.bench.agent import nets
from tests.bench.agent.clients import Refused, Wire, binary_request
from tests.bench.agent.processes import CLIENT_CORE, pin_self

SHIFTS = (0.0, 3.0)


class Load(msgspec.Struct, frozen=True):
    """`sent_ns` and `took_ns` are of the requests that were answered, in their order."""

    sent_ns: list[int]
    took_ns: list[int]
    failed: int
    wrong: int
    why: list[str]


class _Answer(msgspec.Struct):
    model_version: str


def main(socket: Path, per_s: float) -> None:
    pin_self(CLIENT_CORE)
    rows = nets.rows_of("tiny")
    request, expected = binary_request(rows), _expected(rows)
    sent_ns, took_ns = list[int](), list[int]()
    wrong, why = 0, list[str]()
    wire, period_s = Wire(socket), 1 / per_s
    due_s = time.perf_counter()
    while not _is_over(due_s):
        due_s = max(due_s + period_s, time.perf_counter() - period_s)
        began = time.monotonic_ns()
        try:
            body = wire.ask(request)
        except (OSError, Refused) as error:
            why.append(str(error))
            wire = Wire(socket)
            continue
        took_ns.append(time.monotonic_ns() - began)
        sent_ns.append(began)
        wrong += not _is_right(body, expected)
    load = Load(sent_ns, took_ns, len(why), wrong, why[:5])
    sys.stdout.buffer.write(msgspec.json.encode(load))


def _is_over(due_s: float) -> bool:
    """Wait until the next request is due; say whether standard input ended meanwhile."""
    wait_s = max(0.0, due_s - time.perf_counter())
    readable, _, _ = select.select([sys.stdin], [], [], wait_s)
    return bool(readable)


def _expected(rows: nets.Floats) -> dict[str, nets.Floats]:
    """Return what each bundle answers, by its digest."""
    found = {}
    for shift in SHIFTS:
        scores = nets.session_of(nets.tiny(shift)).run(["y"], {"x": rows})[0]
        found[str(nets.a_bundle_of("tiny", shift).digest)] = scores
    return found


def _is_right(body: bytes, expected: dict[str, nets.Floats]) -> bool:
    scores = np.frombuffer(body[-4 * nets.CLASSES :], np.float32)
    head = msgspec.json.decode(body[: -4 * nets.CLASSES], type=_Answer)
    wanted = expected.get(head.model_version)
    return wanted is not None and bool(np.allclose(scores, wanted[0], atol=1e-4))


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
