"""The agent beside other servers: the same ONNX model, encoding, client, transport and core.

    python -m tests.bench.agent.peering [--quick]

All servers live at the same time, on one core; the client, on the other, asks each a few times by
turns, in another order each round. All are asked over loopback, since not every peer can listen on
a Unix socket. Memory is what all processes of a server take together (resident pages; those that
several share count in each), after they were asked.
"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tests.bench.agent import nets
from tests.bench.agent.clients import Wire, answers, bento_request, binary_request, json_request
from tests.bench.agent.environments import PACKAGES, python_of
from tests.bench.agent.figures import Times, pooled, ratio_of
from tests.bench.agent.lives import a_life
from tests.bench.agent.processes import (
    CLIENT_CORE,
    SERVER_CORE,
    device_environment,
    end,
    memory_of,
    pin,
    pin_self,
    tree_of,
    until_true,
)
from tests.bench.agent.said import SCRATCH, is_quick, note, say
from tests.brokers import free_port

OURS = "wherry"
PATIENCE_S = 120.0
TRIES = 3  # To start a peer: a port that was free may be taken when it listens there.
SERVERS = Path(__file__).parent / "peers"
Encode = Callable[[nets.Floats], bytes]
# Which peers speak an encoding of their requests that the agent speaks too.
ENCODINGS: dict[str, dict[str, Encode]] = {
    "json": {
        OURS: json_request,
        "mlserver": json_request,
        "kserve": json_request,
        "pytriton": json_request,
        "bentoml": bento_request,
    },
    "binary": {OURS: binary_request, "kserve": binary_request, "pytriton": binary_request},
}
NETS = {"tiny": (100, 30), "heavy": (60, 8)}  # Rounds, and requests of each server in one.


@dataclass(frozen=True, slots=True)
class Served:
    port: int
    pid: int

    def rss_mb(self) -> float:
        return sum(memory_of(pid).rss_mb for pid in tree_of(self.pid))


def main() -> None:
    pin_self(CLIENT_CORE)
    for peer in PACKAGES:
        python_of(peer)
    rows = [row for name in NETS for row in _compare(name)]
    say({"peers": rows})


def _compare(name: str) -> Iterator[dict[str, object]]:
    """Yield our figures over each peer's, for one net in each encoding."""
    folder = SCRATCH / "peering" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = folder / "model.onnx"
    model.write_bytes(nets.NETS[name](0.0))
    with ExitStack() as stack:
        life = stack.enter_context(a_life(folder / "agent", nets.a_bundle_of(name)))
        servers = {OURS: Served(life.port, life.pid)}
        for peer in PACKAGES:
            servers[peer] = stack.enter_context(_serving(peer, name, model))
        for served in servers.values():
            pin(served.pid, SERVER_CORE)
        for encoding, speakers in ENCODINGS.items():
            requests = {who: encode(nets.rows_of(name)) for who, encode in speakers.items()}
            times = _ask_by_turns(servers, requests, *NETS[name])
            for peer in requests.keys() - {OURS}:
                yield _row(peer, name, encoding, times, servers)


def _row(
    peer: str, name: str, encoding: str, times: dict[str, list[Times]], servers: dict[str, Served]
) -> dict[str, object]:
    half = ratio_of(times[OURS], times[peer], 50)
    tail = ratio_of(times[OURS], times[peer], 99)
    ours_mb, theirs_mb = servers[OURS].rss_mb(), servers[peer].rss_mb()
    ours_ms, theirs_ms = (pooled(times[who], 50) / 1e6 for who in (OURS, peer))
    note(
        f"{name} {encoding}: p50 {ours_ms:.2f} ms, {peer} {theirs_ms:.2f}; "
        f"{ours_mb:.0f} MB, {peer} {theirs_mb:.0f}"
    )
    return {
        "name": peer,
        "encoding": encoding,
        "size_bytes": nets.rows_of(name).nbytes,
        "p50_ratio": half.value,
        "p50_ratio_interval": [half.low, half.high],
        "p99_ratio": tail.value,
        "p99_ratio_interval": [tail.low, tail.high],
        "rss_ratio": ours_mb / theirs_mb,
        "p50_ms": ours_ms,
        "peer_p50_ms": theirs_ms,
        "rss_mb": ours_mb,
        "peer_rss_mb": theirs_mb,
    }


def _ask_by_turns(
    servers: dict[str, Served], requests: dict[str, bytes], rounds: int, each: int
) -> dict[str, list[Times]]:
    chance = random.Random(3)
    times: dict[str, list[Times]] = {who: [] for who in requests}
    order = list(requests)
    with ExitStack() as stack:
        wires = {who: stack.enter_context(Wire(servers[who].port)) for who in order}
        for number in range(-2, rounds // (10 if is_quick() else 1)):
            chance.shuffle(order)
            for who in order:
                found = [wires[who].timed(requests[who]) for _ in range(each)]
                if number >= 0:  # What comes before is to warm up.
                    times[who].append(np.array(found, np.float64))
    return times


@contextmanager
def _serving(peer: str, name: str, model: Path) -> Iterator[Served]:
    asked = ENCODINGS["json"][peer](nets.rows_of(name))
    for _ in range(TRIES):
        process, port = _start(peer, model)
        try:
            until_true(partial(_is_decided, process, port, asked), PATIENCE_S)
            if process.poll() is None:
                yield Served(port, process.pid)
                return
        finally:
            end(process)
    raise AssertionError(f"{peer} ended; see {model.parent / f'{peer}.log'}")


def _start(peer: str, model: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start a peer with ports for HTTP, gRPC and metrics; return the first."""
    ports = [free_port() for _ in range(3)]
    command = [str(python_of(peer)), f"serve_{peer}.py", str(model), *map(str, ports)]
    environment = device_environment()
    environment.pop("PYTHONPATH", None)  # What is ours is not theirs.
    with (model.parent / f"{peer}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=SERVERS, stdout=log, stderr=log, env=environment, stdin=subprocess.DEVNULL
        )
    return process, ports[0]


def _is_decided(process: subprocess.Popen[bytes], port: int, asked: bytes) -> bool:
    return process.poll() is not None or answers(port, asked)


if __name__ == "__main__":
    main()
