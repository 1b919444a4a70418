"""The process that runs one bundle: `python -m wherry_agent.worker`, started by the engine.

    check the model's digest, load, warm up, check the golden outputs: Ready, then answers;
    or Failed with a reason, then ends; with --trial: measure, Tried, then ends

It loads in a thread of low priority, so that loading does not disturb what serves, and answers
at the ordinary one. It ends when the engine's end of the socket closes, however that came, and
it has nothing to save: the engine may kill it at any time.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from wherry import codec
from wherry.errors import REFUSALS
from wherry.messages import detail
from wherry.names import parse_digest
from wherry_agent import frames, limits, measuring
from wherry_agent.arena import Arena, Window
from wherry_agent.asking import Bringing, Proof, decode_bringing
from wherry_agent.bringup import Loaded, Place, bring_up_alone, measure, reason_of
from wherry_agent.desk import Desk
from wherry_agent.observing import Observer, reference_of


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m wherry_agent.worker")
    parser.add_argument("--bundle", type=parse_digest, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--blobs", type=Path, required=True)
    parser.add_argument("--socket", type=int, required=True, help="an inherited descriptor")
    parser.add_argument("--arenas", type=int, nargs=2, help="of questions and of answers, likewise")
    parser.add_argument("--bringing", type=_bringing, default=Bringing(), help="its bounds")
    parser.add_argument("--trial", type=_bounds, help="measure within these bounds, and end")
    asked = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The engine says when to end.
    limits.enclose()
    with socket.socket(fileno=asked.socket) as link:
        place = Place(asked.bundle, asked.manifest, asked.blobs)
        if asked.trial:
            return _try(link, place, asked.trial)
        arenas = Window(asked.arenas[0]), Arena(asked.arenas[1])
        return _work(link, place, asked.bringing, arenas)


def _bounds(text: str) -> measuring.Bounds:
    return codec.decode(measuring.Bounds, text.encode())


def _bringing(text: str) -> Bringing:
    return decode_bringing(text.encode())


def _work(
    link: socket.socket, place: Place, bringing: Bringing, arenas: tuple[Window, Arena]
) -> int:
    loaded = _load_or_fail(link, place, bringing)
    if loaded is None:
        return 1
    reference = reference_of(loaded.manifest, place.blobs)
    observer = Observer(loaded.manifest, reference, bringing.seen_share)
    desk = Desk(link, loaded, observer, arenas=arenas, niceness=bringing.niceness)
    try:
        link.sendall(frames.encode(_ready(loaded.proof)))
        desk.answer_all()
    except ConnectionError:
        return 0  # The engine ended; so does its worker.
    return 0


def _try(link: socket.socket, place: Place, bounds: measuring.Bounds) -> int:
    """Measure the bundle at `place` at a low priority, its golden inputs row by row."""
    os.setpriority(os.PRIO_PROCESS, 0, bounds.niceness)
    loaded = _load_or_fail(link, place, Bringing(niceness=bounds.niceness))
    if loaded is None:
        return 1
    try:
        figures = measure(loaded, place, bounds)
    except (*REFUSALS, OSError) as error:
        link.sendall(frames.encode(frames.Failed(reason_of(error), detail(str(error)))))
        return 1
    link.sendall(frames.encode(frames.Tried(figures)))
    return 0


def _ready(proof: Proof) -> frames.Ready:
    return frames.Ready(
        runtime_version=proof.runtime_version,
        outputs=proof.outputs,
        load_ms=proof.load_ms,
        memory_bytes=proof.memory_bytes,
        peak_bytes=proof.peak_bytes,
    )


def _load_or_fail(link: socket.socket, place: Place, bringing: Bringing) -> Loaded | None:
    """Return the bundle, loaded and checked; None once the engine was told why it is not."""
    try:
        return _load_apart(link, place, bringing).result()
    except (*REFUSALS, OSError) as error:
        link.sendall(frames.encode(frames.Failed(reason_of(error), detail(str(error)))))
        return None


def _load_apart(link: socket.socket, place: Place, bringing: Bringing) -> Future[Loaded]:
    """Load in a thread of its own; end the process if the engine ends meanwhile."""
    done, tell = os.pipe()
    executor = ThreadPoolExecutor(1, thread_name_prefix="load")
    loading = executor.submit(bring_up_alone, place, bringing)
    loading.add_done_callback(lambda _: os.close(tell))
    ready, _, _ = select.select([link.fileno(), done], [], [])
    if done not in ready:
        # The engine sends nothing before Ready: what there is to read is its end.
        os._exit(0)
    os.close(done)
    executor.shutdown()
    return loading


if __name__ == "__main__":
    sys.exit(main())
