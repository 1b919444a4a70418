"""What is asked of a model and what comes back, whoever runs it: the words of engine and runners.

A runner brings up one bundle and answers for it: `link` in a worker process, `inline` in the
agent's own. It computes one question after the other, in the order in which it was asked, and is
asked no more than `DEPTH` at a time, so that what waits can still be merged or go elsewhere.
Everything here happens on the engine's loop.

What each request makes anew is a struct: a frozen dataclass takes three times as long to make.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol, TypeAlias

import msgspec

from wherry.manifest import Manifest
from wherry.measures import Seen
from wherry.names import AliasName, Digest
from wherry.reasons import Reason
from wherry_agent.frames import Fault, Tensor

DEPTH = 2  # Questions that a runner is owed answers to: one computed, one ready to be.


@dataclass(frozen=True, slots=True)
class BundlePlace:
    """A bundle on this device, its manifest verified.

    `manifest_path` holds the signed envelope; each blob stands at `blobs_folder`/<sha256>.
    """

    digest: Digest
    manifest_path: Path
    blobs_folder: Path = field(kw_only=True)
    manifest: Manifest = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class Proof:
    """What a bundle showed when it was brought up on this very device.

    `outputs` is the sha256 of the bytes that it computed for the golden inputs; `memory_bytes` is
    what its process has of its own once it is warm, `peak_bytes` the most it ever had.
    """

    runtime_version: str
    outputs: Digest
    load_ms: float
    memory_bytes: int
    peak_bytes: int


class Berth(Protocol):
    """A place for a body in the memory that a runner reads its questions from.

    What stands at the end of `memory` is asked from there; what the runner's process runs may
    write there as well. `leave` gives the place back, unless a question has it by then.
    """

    @property
    def memory(self) -> memoryview: ...
    def leave(self) -> None: ...


class Answer(msgspec.Struct, frozen=True):
    bundle: Digest
    tensors: tuple[Tensor, ...]
    compute_ns: int


@dataclass(frozen=True, slots=True)
class Unanswered:
    """`bundle` is the one that should have answered; None where nothing serves."""

    fault: Fault
    detail: str
    bundle: Digest | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """How a candidate's outputs stand to the incumbent's, for the rows of one question.

    `distance` is the sum over rows of the L2 distance over the incumbent's L2 norm.
    """

    bundle: Digest
    rows: int
    agreed: int
    distance: float
    largest_distance: float
    compute_ns: int


class Question(msgspec.Struct, frozen=True):
    """Inputs in the signature's order; `done` is called once, on the engine's loop.

    The tensors' bytes may be a client's until `done` is called; a runner copies them when asked.
    """

    alias: AliasName
    tensors: tuple[Tensor, ...]
    done: Callable[[Answer | Unanswered], None]
    berth: Berth | None = None  # Where the one tensor may stand.


@dataclass(frozen=True, slots=True)
class Comparison:
    """Inputs, and the outputs that the incumbent gave for them, for a candidate to compare with."""

    alias: AliasName
    tensors: tuple[Tensor, ...]
    reference: tuple[Tensor, ...]
    done: Callable[[Compared | Unanswered], None]


class RunnerState(Enum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    ENDED = "ended"


class RunnerListener(Protocol):
    """What the engine wants to be told of a runner, each on the engine's loop."""

    def became_ready(self, runner: Runner, proof: Proof) -> None: ...
    def failed_to_load(self, runner: Runner, reason: Reason, detail: str) -> None: ...
    def died(self, runner: Runner, detail: str) -> None: ...
    def left_unanswered(self, runner: Runner, question: Question | Comparison) -> None: ...
    def has_room(self, runner: Runner) -> None:
        """It was owed `DEPTH` answers and is now owed fewer."""

    def saw(self, runner: Runner, inputs: tuple[Seen, ...], outputs: tuple[Seen, ...]) -> None:
        """What it saw of a sample of inputs and outputs since it last told."""

    def ended(self, runner: Runner) -> None: ...


class Runner(Protocol):
    """One bundle, brought up and asked.

        STARTING --ready--> READY --drain--> DRAINING --nothing left to answer--> ENDED

    Every state ends with the runner's end and at its own deadline, STARTING with a failure too.
    """

    @property
    def alias(self) -> AliasName: ...
    @property
    def place(self) -> BundlePlace: ...
    @property
    def state(self) -> RunnerState: ...
    @property
    def ready_at_s(self) -> float: ...
    @property
    def in_flight(self) -> int:
        """Return how many answers it owes, those included that nobody waits for any more."""

    def ask(self, question: Question | Comparison, timeout_s: float) -> None:
        """Have it computed; it must be READY. After `timeout_s` it is answered TIMED_OUT."""

    def berth(self, size_bytes: int, head_bytes: int) -> Berth | None:
        """Return a place for a body whose tensor follows a head; None: it has none."""

    def drain(self, timeout_s: float) -> None: ...
    def end(self) -> None:
        """End now; what it was asked goes back to the engine by `left_unanswered`."""

    def kill(self) -> None:
        """End without a word to anybody, and wait until it is gone."""

    def memory_bytes(self) -> int:
        """Return the memory of its own (anonymous, resident); 0 where it has no process."""


@dataclass(frozen=True, slots=True)
class Bringing:
    """How a bundle is brought up: the bounds and the courtesy of it."""

    load_timeout_s: float = 60.0
    silence_s: float = 10.0  # Owed an answer and silent for so long, it is ended as hung.
    niceness: int = 10  # Never SCHED_IDLE: beside a busy process that took 20 s to load.
    is_proved: bool = False  # It was up before: requests wait, and one run is warm enough.
    seen_share: float = 0.01
    optimized_folder: Path | None = None  # Where what the runtime made of a model is kept.


def encode_bringing(bringing: Bringing) -> bytes:
    return msgspec.json.encode(bringing, enc_hook=str)


def decode_bringing(data: bytes) -> Bringing:
    return msgspec.json.decode(data, type=Bringing, dec_hook=_path)


def _path(kind: type, value: object) -> Path:
    if kind is not Path or not isinstance(value, str):
        raise NotImplementedError(kind)
    return Path(value)


StartRunner: TypeAlias = Callable[[AliasName, BundlePlace, RunnerListener, Bringing], Runner]
