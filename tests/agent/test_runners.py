"""Runners bring up, answer, compare, keep deadlines and end; in a process and in a thread alike."""

from __future__ import annotations

import asyncio
import mmap
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from tests.agent.bundles import (
    Floats,
    a_bundle,
    a_profile,
    images,
    logits_of,
    write_bundle,
)
from wherry.bundle import Bundle
from wherry.measures import Seen
from wherry.names import AliasName, Digest
from wherry.profile import Runtime
from wherry.reasons import Reason
from wherry.signature import Datatype
from wherry_agent import frames, inline, link
from wherry_agent.arena import Arena
from wherry_agent.asking import (
    DEPTH,
    Answer,
    Bringing,
    BundlePlace,
    Compared,
    Comparison,
    Proof,
    Question,
    Runner,
    RunnerListener,
    RunnerState,
    StartRunner,
    Unanswered,
)
from wherry_agent.forks import Forks
from wherry_agent.frames import ALIGNMENT, LARGEST_BODY_BYTES, TOO_LARGE, Fault, Tensor
from wherry_agent.link import Link
from wherry_agent.processes import WorkerProcess

pytestmark = pytest.mark.system

ALIAS = AliasName("default")
PATIENCE_S = 30.0
FORKS = Forks()
forked: StartRunner = partial(link.start_runner, start_process=FORKS.start_process)
STARTS = [link.start_runner, forked, inline.start_runner]
both = pytest.mark.parametrize("start", STARTS, ids=["link", "forked", "inline"])

Story: TypeAlias = Coroutine[object, object, None]


@dataclass
class Listener:
    """Keeps what a runner told, in order."""

    told: list[tuple[object, ...]] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    def became_ready(self, runner: Runner, proof: Proof) -> None:
        self._tell("ready", proof)

    def failed_to_load(self, runner: Runner, reason: Reason, detail: str) -> None:
        self._tell("failed", reason, detail)

    def died(self, runner: Runner, detail: str) -> None:
        self._tell("died", detail)

    def left_unanswered(self, runner: Runner, question: Question | Comparison) -> None:
        self._tell("left", question)

    def has_room(self, runner: Runner) -> None:
        self._tell("room")

    def saw(self, runner: Runner, inputs: tuple[Seen, ...], outputs: tuple[Seen, ...]) -> None:
        self._tell("saw", inputs, outputs)

    def ended(self, runner: Runner) -> None:
        self._tell("ended")

    def words(self) -> list[object]:
        return [word for word, *_ in self.told]

    async def next(self, word: str) -> tuple[object, ...]:
        """Wait until `word` was told, and return what was told with it."""
        while word not in self.words():
            self.heard.clear()
            await asyncio.wait_for(self.heard.wait(), PATIENCE_S)
        return next(told[1:] for told in self.told if told[0] == word)

    def _tell(self, *what: object) -> None:
        self.told.append(what)
        self.heard.set()


class Bench:
    def __init__(self, folder: Path, start: StartRunner) -> None:
        self.folder, self.start = folder, start
        self.listener = Listener()
        self.runners: list[Runner] = []
        self.answers: list[Answer | Unanswered] = []

    def begin(self, bundle: Bundle, bringing: Bringing | None = None) -> Runner:
        manifest, blobs = write_bundle(bundle, self.folder)
        place = BundlePlace(bundle.digest, manifest, blobs_folder=blobs, manifest=bundle.manifest)
        runner = self.start(ALIAS, place, self.listener, bringing or Bringing())
        self.runners.append(runner)
        return runner

    async def ready(self, bundle: Bundle, bringing: Bringing | None = None) -> Runner:
        runner = self.begin(bundle, bringing)
        await self.listener.next("ready")
        return runner


def run(folder: Path, start: StartRunner, story: Callable[[Bench], Awaitable[None]]) -> None:
    async def whole() -> None:
        bench = Bench(folder, start)
        try:
            await story(bench)
        finally:
            for runner in bench.runners:
                runner.kill()

    asyncio.run(whole())


def pid_of(runner: Runner) -> int:
    """Return the process of a runner that has one."""
    assert isinstance(runner, Link) and runner.pid
    return runner.pid


def state_of(runner: Runner) -> RunnerState:
    return runner.state


def an_image(rows: Floats) -> Tensor:
    return Tensor("image", Datatype.FP32, rows.shape, rows.tobytes())


async def ask(runner: Runner, rows: Floats, timeout_s: float = PATIENCE_S) -> Answer | Unanswered:
    answered: asyncio.Future[Answer | Unanswered] = asyncio.get_running_loop().create_future()
    runner.ask(Question(ALIAS, (an_image(rows),), answered.set_result), timeout_s)
    return await answered


def values_of(answer: Answer | Unanswered) -> Floats:
    assert isinstance(answer, Answer), answer
    (logits,) = answer.tensors
    return np.frombuffer(logits.data, np.float32).reshape(logits.shape)


@both
def test_a_bundle_comes_up_with_its_proof_and_answers(tmp_path: Path, start: StartRunner) -> None:
    async def story(bench: Bench) -> None:
        bundle = a_bundle(shift=1.5)
        runner = bench.begin(bundle)
        assert (runner.alias, runner.place.digest) == (ALIAS, bundle.digest)
        assert state_of(runner) is RunnerState.STARTING
        (proof,) = await bench.listener.next("ready")
        assert isinstance(proof, Proof)
        assert proof.runtime_version and proof.load_ms > 0 and proof.peak_bytes > 0
        assert state_of(runner) is RunnerState.READY and runner.ready_at_s > 0
        for seed in range(5):
            answer = await ask(runner, images(3, seed=seed))
            expected = logits_of(images(3, seed=seed), shift=1.5)
            assert np.allclose(values_of(answer), expected)
            assert isinstance(answer, Answer)
            assert answer.bundle == bundle.digest and answer.compute_ns > 0

    run(tmp_path, start, story)


@both
def test_answers_stay_as_they_were_whatever_is_asked_next(
    tmp_path: Path, start: StartRunner
) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle())
        batches = [images(5000, seed=seed) for seed in range(6)]
        answers = [await ask(runner, rows) for rows in batches]
        for rows, answer in zip(batches, answers, strict=True):
            assert np.allclose(values_of(answer), logits_of(rows))

    run(tmp_path, start, story)


@both
def test_questions_asked_together_are_answered_in_their_order(
    tmp_path: Path, start: StartRunner
) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle())
        sizes = [1, 4000, 2, 9000]
        answers = await asyncio.gather(*(ask(runner, images(rows)) for rows in sizes))
        for rows, answer in zip(sizes, answers, strict=True):
            assert np.allclose(values_of(answer), logits_of(images(rows)))

    run(tmp_path, start, story)


@both
def test_a_runner_that_owed_all_it_may_owe_tells_when_it_has_room(
    tmp_path: Path, start: StartRunner
) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle())
        await ask(runner, images(1))
        assert "room" not in bench.listener.words()
        asked = [asyncio.create_task(ask(runner, images(1))) for _ in range(DEPTH)]
        await asyncio.sleep(0)
        assert runner.in_flight == DEPTH
        await asyncio.gather(*asked)
        assert bench.listener.words().count("room") == 1
        assert runner.in_flight == 0

    run(tmp_path, start, story)


@both
def test_a_comparison_is_made_where_the_model_is(tmp_path: Path, start: StartRunner) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle())
        for rows in (2, 5000):
            reference = logits_of(images(rows), shift=0.5)
            tensor = Tensor("logits", Datatype.FP32, reference.shape, reference.tobytes())
            done: asyncio.Future[Compared | Unanswered]
            done = asyncio.get_running_loop().create_future()
            asked = Comparison(ALIAS, (an_image(images(rows)),), (tensor,), done.set_result)
            runner.ask(asked, PATIENCE_S)
            compared = await done
            assert isinstance(compared, Compared)
            assert (compared.rows, compared.agreed) == (rows, rows)
            assert 0 < compared.largest_distance <= compared.distance
            assert compared.compute_ns > 0

    run(tmp_path, start, story)


@both
def test_an_answer_that_is_not_finite_is_a_fault(tmp_path: Path, start: StartRunner) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle(nan_above=1000.0))
        answer = await ask(runner, np.full((1, 2, 2), 2000.0, np.float32))
        assert isinstance(answer, Unanswered)
        assert (answer.fault, answer.bundle) == (Fault.NOT_FINITE, runner.place.digest)
        assert isinstance(await ask(runner, images(1)), Answer)

    run(tmp_path, start, story)


@both
def test_a_bundle_that_does_not_come_up_says_why(tmp_path: Path, start: StartRunner) -> None:
    async def story(bench: Bench) -> None:
        runner = bench.begin(a_bundle(golden_error=1.0))
        reason, detail = await bench.listener.next("failed")
        assert reason is Reason.GOLDEN_MISMATCH and "logits" in str(detail)
        await bench.listener.next("ended")
        assert runner.state is RunnerState.ENDED
        assert bench.listener.words() == ["failed", "ended"]

    run(tmp_path, start, story)


@both
def test_a_bundle_that_is_not_ready_in_time_has_failed(tmp_path: Path, start: StartRunner) -> None:
    async def story(bench: Bench) -> None:
        bench.begin(a_bundle(), Bringing(load_timeout_s=0.001))
        reason, _ = await bench.listener.next("failed")
        assert reason is Reason.LOAD_TIMEOUT
        await bench.listener.next("ended")
        assert bench.listener.words() == ["failed", "ended"]

    run(tmp_path, start, story)


@both
def test_a_runner_that_drains_answers_what_it_was_asked(tmp_path: Path, start: StartRunner) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle(work=400))
        asked = asyncio.create_task(ask(runner, images(2)))
        await asyncio.sleep(0)
        runner.drain(PATIENCE_S)
        assert runner.state is RunnerState.DRAINING
        assert isinstance(await asked, Answer)
        await bench.listener.next("ended")
        assert bench.listener.words() == ["ready", "ended"]

    run(tmp_path, start, story)


@both
def test_what_is_not_answered_within_the_drain_goes_back(
    tmp_path: Path, start: StartRunner
) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle(work=400))
        asked = Question(ALIAS, (an_image(images(16)),), lambda _: None)
        runner.ask(asked, PATIENCE_S)
        runner.drain(0.001)
        (left,) = await bench.listener.next("left")
        assert left is asked
        await bench.listener.next("ended")

    run(tmp_path, start, story)


@both
def test_a_question_whose_time_is_over_is_answered_so_and_its_answer_is_still_owed(
    tmp_path: Path, start: StartRunner
) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle(work=400))
        answer = await ask(runner, images(16), timeout_s=0.001)
        assert isinstance(answer, Unanswered) and answer.fault is Fault.TIMED_OUT
        assert runner.in_flight == 1
        assert isinstance(await ask(runner, images(1)), Answer)
        assert runner.in_flight == 0 and runner.state is RunnerState.READY

    run(tmp_path, start, story)


@both
def test_a_runner_that_is_silent_for_too_long_is_given_up(
    tmp_path: Path, start: StartRunner
) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle(work=400), Bringing(silence_s=0.002))
        answer = await ask(runner, images(16), timeout_s=0.001)
        assert isinstance(answer, Unanswered) and answer.fault is Fault.TIMED_OUT
        (detail,) = await bench.listener.next("died")
        assert detail == "it answered nothing for 0.002 s"
        assert runner.state is RunnerState.ENDED

    run(tmp_path, start, story)


async def ask_from_berth(asked: Link, berthed: Link, rows: Floats) -> Answer | Unanswered:
    """Ask one runner what arrived in the memory of another one, or in its own."""
    image, head = rows.tobytes(), b"a head"
    berth = berthed.berth(len(head) + len(image), len(head))
    assert berth is not None
    berth.memory[:] = head + image
    assert np.frombuffer(berth.memory[len(head) :], np.float32).ctypes.data % ALIGNMENT == 0
    tensor = Tensor("image", Datatype.FP32, rows.shape, berth.memory[len(head) :])
    answered: asyncio.Future[Answer | Unanswered] = asyncio.get_running_loop().create_future()
    asked.ask(Question(ALIAS, (tensor,), answered.set_result, berth), PATIENCE_S)
    return await answered


def test_what_arrived_in_a_workers_memory_is_asked_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle())
        assert isinstance(runner, Link)
        with monkeypatch.context() as patch:
            patch.delattr(Arena, "write")
            for seed in range(3):
                rows = images(16, seed=seed)
                assert np.allclose(
                    values_of(await ask_from_berth(runner, runner, rows)), logits_of(rows)
                )

    run(tmp_path, link.start_runner, story)


def test_what_arrived_in_the_memory_of_another_worker_is_copied(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        one = await bench.ready(a_bundle())
        bench.listener.told.clear()
        other = await bench.ready(a_bundle(shift=1.5))
        assert isinstance(one, Link)
        assert isinstance(other, Link)
        rows = images(16)
        answer = await ask_from_berth(other, one, rows)
        assert np.allclose(values_of(answer), logits_of(rows, shift=1.5))

    run(tmp_path, link.start_runner, story)


def test_a_worker_that_is_killed_leaves_its_questions_to_the_engine(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle(work=400))
        assert isinstance(runner, Link)
        asked = Question(ALIAS, (an_image(images(16)),), lambda _: None)
        runner.ask(asked, PATIENCE_S)
        os.kill(pid_of(runner), signal.SIGSEGV)
        await bench.listener.next("ended")
        assert bench.listener.told[1:] == [
            ("died", "it was ended by SIGSEGV"),
            ("left", asked),
            ("ended",),
        ]

    run(tmp_path, link.start_runner, story)


def test_what_a_worker_said_before_it_was_killed_is_heard(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle())
        assert isinstance(runner, Link)
        arenas, rows = shared_by(pid_of(runner)), images(5000)
        runner.ask(Question(ALIAS, (an_image(rows),), bench.answers.append), PATIENCE_S)
        while not all(map(held_bytes, arenas)) or is_running(pid_of(runner)):
            os.sched_yield()  # The answer is sent while the loop does not run.
        os.kill(pid_of(runner), signal.SIGKILL)
        os.waitid(os.P_PID, pid_of(runner), os.WEXITED | os.WNOWAIT)
        await bench.listener.next("ended")
        assert bench.listener.words() == ["ready", "died", "ended"]
        (answer,) = bench.answers
        assert np.allclose(values_of(answer), logits_of(rows))

    run(tmp_path, link.start_runner, story)


STRANGE = {
    "not asked": frames.Answered(99, 1, None, ()),
    "not in the arena": frames.Answered(
        1, 1, -64, (frames.TensorHead("logits", Datatype.FP32, (1, 4)),)
    ),
    "no body": frames.Answered(1, 1, None, (frames.TensorHead("logits", Datatype.FP32, (1, 4)),)),
    "of another kind": frames.Compared(1, 1, 1, 0.0, 0.0, 1),
    "ready again": frames.Ready("1", Digest("0" * 64), 1.0, 1, 1),
    "too late to fail": frames.Failed(Reason.LOAD_FAILED, "no"),
    "a question": frames.Trim(0),
}


def receive(runner: Link, data: bytes) -> None:
    runner.get_buffer(-1)[: len(data)] = data
    runner.buffer_updated(len(data))


@pytest.mark.parametrize("head", STRANGE.values(), ids=STRANGE.keys())
def test_a_worker_that_says_what_it_may_not_is_ended(tmp_path: Path, head: frames.Head) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle())
        assert isinstance(runner, Link)
        os.kill(pid_of(runner), signal.SIGSTOP)  # What follows is said in its place.
        asked = Question(ALIAS, (an_image(images(1)),), bench.answers.append)
        runner.ask(asked, PATIENCE_S)
        receive(runner, frames.encode(head))
        assert bench.listener.words() == ["ready", "died", "left"]
        assert runner.state is RunnerState.ENDED and not bench.answers
        await bench.listener.next("ended")

    run(tmp_path, link.start_runner, story)


@both
def test_a_runner_that_is_killed_says_nothing(tmp_path: Path, start: StartRunner) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle(work=400))
        runner.ask(Question(ALIAS, (an_image(images(4)),), bench.answers.append), PATIENCE_S)
        runner.kill()
        await asyncio.sleep(0)
        assert bench.listener.words() == ["ready"] and not bench.answers

    run(tmp_path, start, story)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def no_process(
    place: BundlePlace, bringing: Bringing, inherited: int, arenas: tuple[int, int]
) -> WorkerProcess:
    raise BlockingIOError("no more processes")


async def a_long_start(
    place: BundlePlace, bringing: Bringing, inherited: int, arenas: tuple[int, int]
) -> WorkerProcess:
    await asyncio.sleep(PATIENCE_S)
    raise AssertionError("it was not ended meanwhile")


def test_a_worker_that_can_have_no_process_fails_and_leaves_nothing(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        before = descriptors()
        bench.begin(a_bundle())
        reason, what = await bench.listener.next("failed")
        assert reason is Reason.LOAD_FAILED and "no more processes" in str(what)
        await bench.listener.next("ended")
        assert bench.listener.words() == ["failed", "ended"]
        assert descriptors() == before

    run(tmp_path, partial(link.start_runner, start_process=no_process), story)


def test_a_worker_may_be_ended_before_it_has_a_process(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        before = descriptors()
        runner = bench.begin(a_bundle())
        assert isinstance(runner, Link)
        await asyncio.sleep(0)
        assert runner.pid is None and runner.memory_bytes() == 0
        runner.end()
        await bench.listener.next("ended")
        assert bench.listener.words() == ["ended"] and descriptors() == before

    run(tmp_path, partial(link.start_runner, start_process=a_long_start), story)


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_worker_may_be_killed_before_it_has_a_process(tmp_path: Path, is_begun: bool) -> None:
    async def story(bench: Bench) -> None:
        before = descriptors()
        runner = bench.begin(a_bundle())
        if is_begun:
            await asyncio.sleep(0)
        runner.kill()
        assert descriptors() == before
        await asyncio.sleep(0.01)
        assert not bench.listener.words()

    run(tmp_path, partial(link.start_runner, start_process=a_long_start), story)


def test_a_worker_has_memory_of_its_own(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle())
        assert 1 << 20 < runner.memory_bytes() < 1 << 30

    run(tmp_path, link.start_runner, story)


def test_shared_memory_that_is_needed_no_more_is_given_back(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle())
        assert isinstance(runner, Link)
        assert isinstance(await ask(runner, images(10_000)), Answer)
        arenas = shared_by(pid_of(runner))
        assert len(arenas) >= 2

        async def empty() -> None:
            while any(map(held_bytes, arenas)):
                assert isinstance(await ask(runner, images(1)), Answer)

        await asyncio.wait_for(empty(), PATIENCE_S)

    def start(
        alias: AliasName, place: BundlePlace, listener: RunnerListener, bringing: Bringing
    ) -> Runner:
        return Link(alias, place, listener=listener, bringing=bringing, trim_s=0.01)

    run(tmp_path, start, story)


def shared_by(pid: int) -> list[Path]:
    """Return the arenas that a worker inherited."""
    places = Path(f"/proc/{pid}/fd").iterdir()
    return [place for place in places if "wherry-arena" in str(place.readlink())]


def is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "R"


def held_bytes(place: Path) -> int:
    return place.stat().st_blocks * 512


def test_a_question_that_is_too_large_is_refused_and_costs_the_worker_nothing(
    tmp_path: Path,
) -> None:
    async def story(bench: Bench) -> None:
        runner = await bench.ready(a_bundle())
        with mmap.mmap(-1, LARGEST_BODY_BYTES) as nothing:  # Never looked at, so never there.
            view = memoryview(nothing)
            image = Tensor("image", Datatype.FP32, (len(view) // 16, 2, 2), view)
            answered = asyncio.get_running_loop().create_future()
            runner.ask(Question(ALIAS, (image,), answered.set_result), PATIENCE_S)
            assert runner.in_flight == 0
            refused = await answered
            view.release()
        assert isinstance(refused, Unanswered)
        assert (refused.fault, refused.detail) == (Fault.RUNTIME_FAILED, TOO_LARGE)
        assert isinstance(await ask(runner, images(1)), Answer)

    run(tmp_path, link.start_runner, story)


def test_tflite_runtime_is_run_in_a_worker_always(tmp_path: Path) -> None:
    async def story(bench: Bench) -> None:
        runner = bench.begin(a_bundle(profile=a_profile(runtime=Runtime.TFLITE)))
        assert isinstance(runner, Link)

    run(tmp_path, inline.start_runner, story)
