"""The engine's ways to swap, to share and to shadow, with real workers under real requests."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.agent.benches import ALIAS, Bench, a_bench, ask
from tests.agent.bundles import Floats, a_bundle, a_profile, images, logits_of
from tests.agent.processes import command_of, niceness, parent_of, worker_pids
from tests.agent.waiting import PATIENCE_S, wait_until
from wherry.messages import Shadow, Split, SwapPolicy
from wherry.names import DeploymentId, Digest
from wherry.profile import Runtime
from wherry.reasons import Reason
from wherry.signature import Datatype
from wherry_agent.asking import Answer, Unanswered
from wherry_agent.core.restarts import Bounds
from wherry_agent.engine import (
    Asking,
    Duty,
    EngineSettings,
    Flipped,
    LoadFailed,
    Unservable,
    WorkerDied,
)
from wherry_agent.frames import Fault, Tensor
from wherry_agent.settings import Isolation

pytestmark = pytest.mark.system

A, B = a_bundle(shift=0.0), a_bundle(version="v2", shift=100.0)
SHIFTS = {A.digest: 0.0, B.digest: 100.0}
RESOURCE = SwapPolicy.RESOURCE


def begin(
    bench: Bench, rows: Floats, key: str = "", bundle: Digest | None = None
) -> Future[Answer | Unanswered]:
    """Ask the engine itself; the future gets what came of it."""
    came: Future[Answer | Unanswered] = Future()
    image = Tensor("image", Datatype.FP32, rows.shape, rows.tobytes())
    asking = Asking(ALIAS, (image,), came.set_result, key, bundle)
    bench.engine.loop.call_soon_threadsafe(bench.engine.ask, asking)
    return came


def logits_in(answer: Answer) -> Floats:
    (logits,) = answer.tensors
    return np.frombuffer(logits.data, np.float32).reshape(logits.shape)


@contextmanager
def constant_requests(bench: Bench, clients: int = 2) -> Iterator[Counter[Digest]]:
    """Ask all the while, and hold every answer against what its bundle should give."""
    rows, over = images(3), threading.Event()
    answered: Counter[Digest] = Counter()

    def ask_until_over() -> None:
        with bench.client() as client:
            while not over.is_set():
                bundle, logits = ask(client, rows)
                assert np.abs(logits - logits_of(rows, shift=SHIFTS[bundle])).max() < 1 / 8
                answered[bundle] += 1

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask_until_over) for _ in range(clients)]
        try:
            wait_until(lambda: answered.total() > 10)
            yield answered
        finally:
            over.set()
        for each in asking:
            each.result(PATIENCE_S)  # Raises what a lost request raised.


def test_a_swap_by_resource_loses_no_request_and_has_one_bundle_resident(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench:
        bench.serve(A)
        with constant_requests(bench) as answered:
            loaded = bench.load(B, policy=RESOURCE)
            assert loaded.policy is RESOURCE
            assert not worker_pids(A.digest)
            flipped = bench.serve(B)
            assert (flipped.replaced, flipped.policy) == (A.digest, RESOURCE)
            bench.engine.retire(ALIAS)
            wait_until(lambda: answered[B.digest] > 10)


@pytest.mark.parametrize("is_there", [True, False])
def test_workers_are_forked_where_the_settings_have_a_fork_server(
    tmp_path: Path, is_there: bool
) -> None:
    settings = EngineSettings(fork_server=is_there)
    with a_bench(tmp_path, settings) as bench:
        bench.serve(A)
        (worker,) = worker_pids(A.digest)
        parent = parent_of(worker)
        assert ("wherry_agent.forking" in command_of(parent)) == is_there
        assert (parent == os.getpid()) != is_there


def test_a_candidate_that_fails_by_resource_leaves_the_incumbent_answering(tmp_path: Path) -> None:
    sick = a_bundle(golden_error=1.0)
    with a_bench(tmp_path) as bench:
        bench.serve(A)
        with constant_requests(bench) as answered:
            bench.engine.load(ALIAS, DeploymentId("d-2"), bench.place(sick), RESOURCE)
            assert bench.expect(LoadFailed).reason is Reason.GOLDEN_MISMATCH
            enough = answered[A.digest] + 10
            wait_until(lambda: answered[A.digest] > enough)
        assert set(answered) == {A.digest}


def test_a_split_answers_each_key_by_one_side_under_load_and_through_a_crash(
    tmp_path: Path,
) -> None:
    with a_bench(tmp_path) as bench:
        bench.serve(A)
        bench.load(B, duty=Duty.SHARE)
        bench.engine.share(ALIAS, bench.place(B), Split(share=0.5))
        assert bench.expect(Flipped).share == 0.5
        rows, keys = images(2), [f"customer-{number}" for number in range(30)]
        sides = []
        for _ in range(2):
            came = [begin(bench, rows, key).result(PATIENCE_S) for key in keys]
            answers = [answer for answer in came if isinstance(answer, Answer)]
            for answer in answers:
                expected = logits_of(rows, shift=SHIFTS[answer.bundle])
                assert np.abs(logits_in(answer) - expected).max() < 1 / 8
            sides.append([answer.bundle for answer in answers])
        assert sides[0] == sides[1]
        assert set(sides[0]) == {A.digest, B.digest}
        os.kill(worker_pids(B.digest)[0], signal.SIGKILL)
        came = [begin(bench, rows, key).result(PATIENCE_S) for key in keys]
        assert len([answer for answer in came if isinstance(answer, Answer)]) == len(keys)


def test_a_shadow_is_compared_and_a_sick_one_that_looks_healthy_disagrees(tmp_path: Path) -> None:
    sick = a_bundle(version="v2", class_shift=1)
    with a_bench(tmp_path) as bench, bench.client() as client:
        bench.serve(A)
        bench.load(sick, duty=Duty.SHADOW)
        whole = Shadow(share=1.0, core_share=1.0)
        bench.engine.shadow(ALIAS, bench.place(sick), whole)
        rows = images(3)
        ask(client, rows)
        wait_until(lambda: bench.engine.memory()[ALIAS, sick.digest] > 0)
        seen: list[tuple[int, int]] = []

        def has_compared() -> bool:
            ask(client, rows)
            for window in bench.counted():
                if window.bundle == sick.digest and window.shadow is not None:
                    seen.append((window.shadow.rows, window.shadow.agreed))
                    assert window.requests == 0
            return sum(rows for rows, _ in seen) >= 30

        wait_until(has_compared)
        classes = logits_of(rows).argmax(1) == logits_of(rows, class_shift=1).argmax(1)
        agreed = sum(agreed for _, agreed in seen) / sum(rows for rows, _ in seen)
        assert agreed == pytest.approx(classes.mean())


def test_requests_that_wait_are_computed_together_and_a_bad_one_spoils_no_other(
    tmp_path: Path,
) -> None:
    moody = a_bundle(nan_above=1000.0)
    with a_bench(tmp_path, EngineSettings(batch_rows=16)) as bench:
        bench.serve(moody)
        (pid,) = worker_pids(moody.digest)
        os.kill(pid, signal.SIGSTOP)
        asked = [images(1 + number % 3, seed=number) for number in range(12)]
        asked[7] = asked[7] + np.float32(2000)
        began = [begin(bench, rows) for rows in asked]
        os.kill(pid, signal.SIGCONT)
        came = [each.result(PATIENCE_S) for each in began]
        for number, (rows, outcome) in enumerate(zip(asked, came, strict=True)):
            if number == 7:
                assert isinstance(outcome, Unanswered)
                assert outcome.fault is Fault.NOT_FINITE
            else:
                assert isinstance(outcome, Answer)
                assert np.abs(logits_in(outcome) - logits_of(rows)).max() < 1e-5


def test_what_is_asked_right_after_a_crash_waits_and_is_answered(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench, bench.client() as client:
        bench.serve(A)
        (pid,) = worker_pids(A.digest)
        os.kill(pid, signal.SIGSEGV)
        wait_until(lambda: not worker_pids(A.digest) or worker_pids(A.digest) != [pid])
        assert ask(client, images(1))[0] == A.digest
        assert bench.expect(WorkerDied).detail == "it was ended by SIGSEGV"
        assert niceness(worker_pids(A.digest)) == {0}


def test_a_bundle_that_dies_again_and_again_is_told_as_a_crash_loop(tmp_path: Path) -> None:
    often = EngineSettings(restarts=Bounds(pause_s=0.01, deaths=3))
    with a_bench(tmp_path, often) as bench, bench.client() as client:
        bench.serve(A)
        for _ in range(3):
            wait_until(lambda: client.is_ready(ALIAS))
            os.kill(worker_pids(A.digest)[0], signal.SIGKILL)
            bench.expect(WorkerDied)
        assert bench.expect(Unservable).reason is Reason.CRASH_LOOP
        wait_until(lambda: client.is_ready(ALIAS))


def test_a_graceful_stop_answers_what_was_asked_and_nothing_more(tmp_path: Path) -> None:
    slow = a_bundle(work=400)
    with a_bench(tmp_path) as bench:
        bench.serve(slow)
        began = [begin(bench, images(1)) for _ in range(6)]
        bench.engine.drain(PATIENCE_S)
        assert all(each.done() and isinstance(each.result(), Answer) for each in began)
        late = begin(bench, images(1)).result(PATIENCE_S)
        assert isinstance(late, Unanswered)


def test_draining_ends_at_its_time_though_a_worker_hangs(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench:
        bench.serve(A)
        os.kill(worker_pids(A.digest)[0], signal.SIGSTOP)
        began = begin(bench, images(1))
        bench.engine.drain(0.1)
        assert not began.done()


def test_memory_is_told_of_each_resident_bundle(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench:
        bench.serve(A)
        bench.load(B)
        memory = bench.engine.memory()
        assert set(memory) == {(ALIAS, A.digest), (ALIAS, B.digest)}
        assert min(memory.values()) > 1 << 20


def test_inline_by_setting_there_is_no_worker_and_a_bad_candidate_is_refused(
    tmp_path: Path,
) -> None:
    inline = EngineSettings(isolation=Isolation.INLINE)
    sick = a_bundle(golden_error=1.0)
    with a_bench(tmp_path, inline) as bench:
        bench.serve(A)
        with constant_requests(bench) as answered:
            bench.engine.load(ALIAS, DeploymentId("d-2"), bench.place(sick))
            assert bench.expect(LoadFailed).reason is Reason.GOLDEN_MISMATCH
            bench.serve(B)
            bench.engine.retire(ALIAS)
            wait_until(lambda: answered[B.digest] > 10)
            assert not worker_pids("--bundle")


def test_tflite_runtime_is_run_in_a_worker_whatever_the_setting(tmp_path: Path) -> None:
    crashing = a_bundle(profile=a_profile(runtime=Runtime.TFLITE))
    with a_bench(tmp_path, EngineSettings(isolation=Isolation.INLINE)) as bench:
        bench.engine.load(ALIAS, DeploymentId("d-1"), bench.place(crashing))
        wait_until(lambda: worker_pids(crashing.digest))
        assert bench.expect(LoadFailed).reason is Reason.MISSING_RUNTIME
