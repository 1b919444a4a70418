"""An engine without processes and without time: runners that do what the test says."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.builders import a_digest, a_manifest, a_signature, an_alias
from wherry.manifest import Manifest
from wherry.measures import Seen
from wherry.messages import SwapPolicy
from wherry.names import AliasName, DeploymentId, Digest
from wherry.reasons import Reason
from wherry.signature import Datatype, Signature
from wherry_agent.asking import (
    DEPTH,
    Answer,
    Berth,
    Bringing,
    BundlePlace,
    Compared,
    Comparison,
    Proof,
    Question,
    RunnerListener,
    RunnerState,
    Unanswered,
)
from wherry_agent.engine.events import EngineEvent
from wherry_agent.engine.requests import Requests
from wherry_agent.engine.residents import Residents
from wherry_agent.engine.settings import EngineSettings
from wherry_agent.engine.shadows import Shadows
from wherry_agent.engine.slots import Duty, Slots
from wherry_agent.engine.waiting import Asking
from wherry_agent.frames import Fault, Tensor

ALIAS = an_alias()
ROW_BYTES = 8  # Two numbers in, as `a_signature` has it.
PROOF = Proof(
    "1.31.1", a_digest("outputs"), load_ms=3.0, memory_bytes=40 << 20, peak_bytes=50 << 20
)
MIB = 1 << 20


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self._numbers = count()
        self._due: list[tuple[float, int, Callable[[], object]]] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, when: float, callback: Callable[[], object]) -> object:
        heapq.heappush(self._due, (when, next(self._numbers), callback))
        return None

    def pass_time(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self._due and self._due[0][0] <= end_s:
            when, _, callback = heapq.heappop(self._due)
            self.now_s = max(self.now_s, when)
            callback()
        self.now_s = end_s


class FakeRunner:
    """A `Runner` that comes up, answers and dies when the test says so."""

    def __init__(
        self, stage: Stage, place: BundlePlace, listener: RunnerListener, bringing: Bringing
    ) -> None:
        self.alias, self.place, self.bringing = ALIAS, place, bringing
        self.state, self.ready_at_s = RunnerState.STARTING, 0.0
        self.asked: list[Question | Comparison] = []
        self.timeouts_s: list[float] = []
        self.measured_bytes = 50 * MIB
        self._stage, self._listener = stage, listener

    @property
    def in_flight(self) -> int:
        return len(self.asked)

    def ask(self, question: Question | Comparison, timeout_s: float) -> None:
        assert self.state is RunnerState.READY
        assert len(self.asked) < DEPTH
        self.asked.append(question)
        self.timeouts_s.append(timeout_s)

    def drain(self, timeout_s: float) -> None:
        if self.asked:
            self.state = RunnerState.DRAINING
        else:
            self.end()

    def end(self) -> None:
        self.state = RunnerState.ENDED
        left, self.asked = self.asked, []
        for question in left:
            self._listener.left_unanswered(self, question)
        self._stage.dying.append(self)

    def kill(self) -> None:
        self.state = RunnerState.ENDED

    def berth(self, size_bytes: int, head_bytes: int) -> Berth | None:
        return None

    def memory_bytes(self) -> int:
        return self.measured_bytes

    # What the test says

    def come_up(self) -> None:
        assert self.state is RunnerState.STARTING
        self.state, self.ready_at_s = RunnerState.READY, self._stage.clock.now_s
        self._listener.became_ready(self, PROOF)

    def fail(self, reason: Reason = Reason.GOLDEN_MISMATCH, detail: str = "off by 1") -> None:
        self.end()
        self._listener.failed_to_load(self, reason, detail)

    def die(self, detail: str = "it was ended by SIGSEGV") -> None:
        self.state = RunnerState.ENDED
        self._listener.died(self, detail)
        self.end()

    def answer(self) -> None:
        """Answer the oldest question with a score of three per row: the row's first number."""
        question = self.asked[0]
        assert isinstance(question, Question)
        self.settle(Answer(self.place.digest, (scores_of(question.tensors[0]),), 1000))

    def settle(self, outcome: Answer | Compared | Unanswered) -> None:
        question = self.asked.pop(0)
        question.done(outcome)  # type: ignore[arg-type]  # The test says what fits.
        if self.state is RunnerState.DRAINING and not self.asked:
            self.end()
        elif self.state is RunnerState.READY and len(self.asked) == DEPTH - 1:
            self._listener.has_room(self)

    def refuse(self, fault: Fault) -> None:
        self.settle(Unanswered(fault, fault.value, self.place.digest))

    def see(self, inputs: tuple[Seen, ...], outputs: tuple[Seen, ...]) -> None:
        self._listener.saw(self, inputs, outputs)


@dataclass
class Notes:
    """A `Recording` that keeps every word."""

    said: list[tuple[str, Digest]] = field(default_factory=list)
    compared: list[tuple[Compared, int]] = field(default_factory=list)

    def saw(
        self,
        alias: AliasName,
        bundle: Digest,
        inputs: tuple[Seen, ...],
        outputs: tuple[Seen, ...],
    ) -> None:
        self.said.append(("saw", bundle))

    def restarted(self, alias: AliasName, bundle: Digest) -> None:
        self.said.append(("restarted", bundle))

    def shadowed(self, alias: AliasName, compared: Compared, *, incumbent_ns: int) -> None:
        self.compared.append((compared, incumbent_ns))

    def failed_to_shadow(self, alias: AliasName, bundle: Digest, error: str) -> None:
        self.said.append((error, bundle))

    def skipped_shadowing(self, alias: AliasName, bundle: Digest, cause: str) -> None:
        self.said.append((cause, bundle))


class Stage:
    def __init__(self, settings: EngineSettings | None = None) -> None:
        self.clock, self.notes = FakeClock(), Notes()
        self.available_bytes: int | None = 1 << 40
        self.temperature_c: float | None = 40.0
        self.events: list[EngineEvent] = []
        self.started: list[FakeRunner] = []
        self.dying: list[FakeRunner] = []
        self.outcomes: list[Answer | Unanswered] = []
        self.slots: dict[AliasName, Slots] = {}
        self.fails_to_start = False
        settings = settings or EngineSettings()
        shadows = Shadows(
            self.clock,
            self.notes,
            temperature_c=lambda: self.temperature_c,
            timeout_s=settings.request_timeout_s,
        )
        self.requests = Requests(self.clock, self.slots, shadows, settings)
        self.residents = Residents(
            self.clock,
            self.slots,
            requests=self.requests,
            shadows=shadows,
            recorder=self.notes,
            settings=settings,
            start_runner=self._start_runner,
            memory_available_bytes=lambda: self.available_bytes,
            on_event=self.events.append,
        )

    def _start_runner(
        self, alias: AliasName, place: BundlePlace, listener: RunnerListener, bringing: Bringing
    ) -> FakeRunner:
        if self.fails_to_start:
            raise OSError("no more processes")
        runner = FakeRunner(self, place, listener, bringing)
        self.started.append(runner)
        return runner

    def take_events(self) -> list[EngineEvent]:
        taken = list(self.events)
        self.events.clear()
        return taken

    def bury(self) -> None:
        """Have every process that ended be gone."""
        while self.dying:
            runner = self.dying.pop(0)
            self.residents.ended(runner)

    def serve(self, place: BundlePlace) -> FakeRunner:
        """Have a bundle serve, which is brought up where it is not."""
        self.residents.serve(ALIAS, place)
        runner = self.runner(place)
        if runner.state is RunnerState.STARTING:
            runner.come_up()
        self.take_events()
        return runner

    def load(
        self,
        place: BundlePlace,
        policy: SwapPolicy = SwapPolicy.AVAILABILITY,
        duty: Duty = Duty.ANSWER,
    ) -> None:
        self.residents.load(ALIAS, DeploymentId("d-1"), place, policy, duty)

    def bring_up(self, place: BundlePlace) -> FakeRunner:
        """Have a candidate resident beside what serves."""
        self.load(place)
        runner = self.runner(place)
        runner.come_up()
        self.take_events()
        return runner

    def runner(self, place: BundlePlace) -> FakeRunner:
        """Return the newest runner of a bundle."""
        return next(r for r in reversed(self.started) if r.place.digest == place.digest)

    def ask(self, *values: float, key: str = "", bundle: Digest | None = None) -> None:
        """Ask with one row for each value; `outcomes` gets what came of it."""
        self.requests.ask(Asking(ALIAS, (rows(*values),), self.outcomes.append, key, bundle))

    def answers(self) -> list[tuple[Digest, list[float]]]:
        """Return who gave each answer, and the first score of each row."""
        given = [outcome for outcome in self.outcomes if isinstance(outcome, Answer)]
        return [(answer.bundle, list(first_scores(answer))) for answer in given]

    def faults(self) -> list[Fault]:
        return [outcome.fault for outcome in self.outcomes if isinstance(outcome, Unanswered)]


def residents(stage: Stage) -> list[str]:
    """Return the names of what is resident or on its way, until their processes are gone."""
    slots = stage.slots[ALIAS]
    runners = [*slots.runners.values(), *slots.leaving]
    return sorted(str(runner.place.manifest_path) for runner in runners)


def a_place(name: str = "A", manifest: Manifest | None = None) -> BundlePlace:
    return BundlePlace(
        a_digest(name),
        Path(name),
        blobs_folder=Path("blobs"),
        manifest=manifest or a_manifest(signature=a_signature()),
    )


def of_signature(signature: Signature, name: str = "A") -> BundlePlace:
    return a_place(name, a_manifest(signature=signature))


def rows(*values: float) -> Tensor:
    """Return the input of a request, one row of two numbers for each value."""
    data = b"".join(_float_bytes((value, 0.0)) for value in values)
    return Tensor("image", Datatype.FP32, (len(values), 2), data)


def scores_of(image: Tensor) -> Tensor:
    floats = memoryview(bytes(image.data)).cast("f")
    data = b"".join(_float_bytes((value, 0.0, 0.0)) for value in floats[::2])
    return Tensor("scores", Datatype.FP32, (image.shape[0], 3), data)


def first_scores(answer: Answer) -> Sequence[float]:
    return memoryview(bytes(answer.tensors[0].data)).cast("f").tolist()[::3]


def values_of(question: Question | Comparison) -> Sequence[float]:
    """Return the first number of each row of a question."""
    return memoryview(bytes(question.tensors[0].data)).cast("f").tolist()[::2]


def _float_bytes(values: Sequence[float]) -> bytes:
    buffer = memoryview(bytearray(4 * len(values))).cast("f")
    for at, value in enumerate(values):
        buffer[at] = value
    return bytes(buffer)
