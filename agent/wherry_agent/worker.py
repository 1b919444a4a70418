"""The process that runs one bundle: `python -m wherry_agent.worker`, or a fork (`forking`).

    check the model's digest, load, warm up, check the golden outputs: Ready, then answers;
    or Failed with a reason, then ends; with --trial: measure, Tried, then ends

It loads in a thread of low priority, so that loading does not disturb what serves, and answers
at the ordinary one. It ends when the engine's end of the socket closes, however that came, and
it has nothing to save: the engine may kill it at any time.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from wherry import codec
from wherry.errors import REFUSALS
from wherry.messages import detail
from wherry.names import parse_digest
from wherry_agent import frames, limits, measuring
from wherry_agent.arena import Arena, Window
from wherry_agent.asking import Bringing, Proof, decode_bringing

if TYPE_CHECKING:  # Imported where they are needed: they import numpy, and that costs.
    from wherry_agent.bringup import Loaded, Place

BLAS_THREADS = "OPENBLAS_NUM_THREADS"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a bundle.

    --bundle DIGEST --manifest FILE --blobs FOLDER --socket DESCRIPTOR (inherited)
    and --arenas DESCRIPTOR,DESCRIPTOR --bringing JSON, or --trial JSON
    """
    asked = _asked(sys.argv[1:] if arguments is None else arguments)
    prepare()
    limits.enclose()
    with socket.socket(fileno=int(asked["--socket"])) as link:
        if "--trial" in asked:
            return _try(link, asked, codec.decode(measuring.Bounds, asked["--trial"].encode()))
        questions, answers = map(int, asked["--arenas"].split(","))
        return _work(link, asked, (questions, answers))


def go_on(words: Sequence[str], socket_descriptor: int, arenas: tuple[int, int]) -> int:
    """Run a bundle in a process that was forked from one that is prepared and enclosed."""
    with socket.socket(fileno=socket_descriptor) as link:
        return _work(link, _asked(words), arenas)


def prepare() -> None:
    """Set what must be set before anything is imported."""
    gc.disable()  # Importing makes much that stays: looking for garbage in it took 12 % of a start.
    os.environ[BLAS_THREADS] = "1"  # numpy computes nothing here, and its threads spin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The engine says when to end.


def _asked(words: Sequence[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))


def _work(
    link: socket.socket,
    asked: dict[str, str],
    descriptors: tuple[int, int],
) -> int:
    bringing = Bringing()
    if "--bringing" in asked:
        bringing = decode_bringing(asked["--bringing"].encode())
    arenas = Window(descriptors[0]), Arena(descriptors[1])
    loaded = _load_or_fail(link, asked, bringing)
    if loaded is None:
        return 1
    gc.freeze()  # What stays is looked at no more.
    gc.enable()
    from wherry_agent.desk import Desk
    from wherry_agent.observing import Observer, reference_of

    reference = reference_of(loaded.manifest, Path(asked["--blobs"]))
    observer = Observer(loaded.manifest, reference, bringing.seen_share)
    desk = Desk(link, loaded, observer, arenas=arenas, niceness=bringing.niceness)
    try:
        link.sendall(frames.encode(_ready(loaded.proof)))
        desk.answer_all()
    except ConnectionError:
        return 0  # The engine ended; so does its worker.
    return 0


def _try(link: socket.socket, asked: dict[str, str], bounds: measuring.Bounds) -> int:
    """Measure the bundle at a low priority, its golden inputs row by row."""
    os.setpriority(os.PRIO_PROCESS, 0, bounds.niceness)
    loaded = _load_or_fail(link, asked, Bringing(niceness=bounds.niceness))
    if loaded is None:
        return 1
    from wherry_agent.bringup import measure, reason_of

    try:
        figures = measure(loaded, _place_of(asked), bounds)
    except (*REFUSALS, OSError) as error:
        link.sendall(frames.encode(frames.Failed(reason_of(error), detail(str(error)))))
        return 1
    link.sendall(frames.encode(frames.Tried(figures)))
    return 0


def _place_of(asked: dict[str, str]) -> Place:
    from wherry_agent.bringup import Place

    bundle = parse_digest(asked["--bundle"])
    return Place(bundle, Path(asked["--manifest"]), Path(asked["--blobs"]))


def _ready(proof: Proof) -> frames.Ready:
    return frames.Ready(
        runtime_version=proof.runtime_version,
        outputs=proof.outputs,
        load_ms=proof.load_ms,
        memory_bytes=proof.memory_bytes,
        peak_bytes=proof.peak_bytes,
    )


def _load_or_fail(link: socket.socket, asked: dict[str, str], bringing: Bringing) -> Loaded | None:
    """Return the bundle, loaded and checked; None once the engine was told why it is not.

    What is imported for it is imported first, at the same low priority: it costs as much.
    """
    found: list[Loaded | Exception] = []
    _run_apart(link, lambda: _import(asked, bringing.niceness))
    _run_apart(link, lambda: found.append(_bring_up(asked, bringing)))
    from wherry_agent.bringup import Loaded, reason_of

    if not found:
        return None  # What the thread broke off with stands in the log.
    (outcome,) = found
    if isinstance(outcome, Loaded):
        return outcome
    link.sendall(frames.encode(frames.Failed(reason_of(outcome), detail(str(outcome)))))
    return None


def _import(asked: dict[str, str], niceness: int) -> None:
    """Import what brings the bundle up and answers for it, in a thread that ends with that."""
    limits.be_nice(niceness)
    from wherry_agent import bringup, runtimes

    for name in ("desk", "observing"):
        import_module(f"wherry_agent.{name}")
    with suppress(*REFUSALS, OSError):  # Bringing up meets it again, and tells.
        runtimes.find(bringup.read_manifest(_place_of(asked)).profile)


def _bring_up(asked: dict[str, str], bringing: Bringing) -> Loaded | Exception:
    from wherry_agent.bringup import bring_up_alone

    try:
        return bring_up_alone(_place_of(asked), bringing)
    except (*REFUSALS, OSError) as error:
        return error


def _run_apart(link: socket.socket, work: Callable[[], None]) -> None:
    """Run `work` in a thread of its own; end the process if the engine ends meanwhile."""
    done, tell = os.pipe()

    def run() -> None:
        try:
            work()
        finally:
            os.close(tell)

    thread = threading.Thread(target=run, name="load")
    thread.start()
    ready, _, _ = select.select([link.fileno(), done], [], [])
    if done not in ready:
        # The engine sends nothing before Ready: what there is to read is its end.
        os._exit(0)
    os.close(done)
    thread.join()


if __name__ == "__main__":
    sys.exit(main())
