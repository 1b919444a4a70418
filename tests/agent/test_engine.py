"""The engine with real workers: what loads, flips, dies and comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.agent.benches import ALIAS, Bench, a_bench, an_infer_request, ask
from tests.agent.bundles import (
    KEY,
    SIGNATURE,
    a_bundle,
    a_litert_bundle,
    a_profile,
    images,
    logits_of,
)
from tests.agent.processes import is_alive, niceness, worker_pids
from tests.agent.waiting import PATIENCE_S, wait_until
from wherry.bundle import Bundle, seal
from wherry.messages import SwapPolicy
from wherry.names import DeploymentId, Digest
from wherry.profile import Runtime
from wherry.reasons import Reason
from wherry_agent.asking import DEPTH
from wherry_agent.client import NotServing, decode_answer
from wherry_agent.core.restarts import Bounds
from wherry_agent.engine import (
    EngineSettings,
    Flipped,
    Loaded,
    LoadFailed,
    Unservable,
    WorkerDied,
)

pytestmark = pytest.mark.system

A, B = a_bundle(shift=0.0), a_bundle(version="v2", shift=100.0)


def test_a_bundle_is_loaded_beside_the_one_that_serves(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench, bench.client() as client:
        bench.serve(A)
        loaded = bench.load(B, "d-2")
        assert (loaded.deployment, loaded.bundle) == (DeploymentId("d-2"), B.digest)
        assert loaded.proof.memory_bytes > 1 << 20
        assert loaded.policy is SwapPolicy.AVAILABILITY
        assert ask(client, images(1))[0] == A.digest


def test_an_order_that_is_repeated_changes_nothing(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench:
        bench.serve(A)
        bench.engine.serve(ALIAS, bench.place(A))
        first, again, other = (bench.load(A, name) for name in ("d-1", "d-1", "d-2"))
        assert first == again
        assert other.deployment == "d-2"
        assert bench.has_no_news()
        assert len(worker_pids(A.digest)) == 1


def test_two_deployments_may_wait_for_one_worker(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench:
        place = bench.place(A)
        for name in ("d-1", "d-2", "d-1"):
            bench.engine.load(ALIAS, DeploymentId(name), place)
        assert {bench.expect(Loaded).deployment for _ in range(2)} == {"d-1", "d-2"}
        assert bench.has_no_news()


def test_a_flip_back_is_instant_while_both_are_resident(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench, bench.client() as client:
        bench.serve(A)
        bench.serve(B)
        started_s = time.monotonic()
        flipped = bench.serve(A)
        assert time.monotonic() - started_s < 0.1
        assert (flipped.bundle, flipped.replaced) == (A.digest, B.digest)
        assert ask(client, images(1))[0] == A.digest


def test_retiring_ends_every_worker_but_the_serving_one(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench, bench.client() as client:
        bench.serve(A)
        bench.serve(B)
        bench.load(a_bundle(version="v3", shift=7.0), "d-3")
        bench.engine.retire(ALIAS)
        wait_until(lambda: worker_pids("--bundle") == worker_pids(B.digest))
        assert ask(client, images(1))[0] == B.digest


def test_the_old_bundle_serves_until_the_new_one_is_up_and_is_then_retired(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench, bench.client() as client:
        bench.serve(A)
        bench.engine.serve(ALIAS, bench.place(B))
        bench.engine.retire(ALIAS)
        assert ask(client, images(1))[0] == A.digest
        bench.expect(Flipped)
        wait_until(lambda: not worker_pids(A.digest))
        assert ask(client, images(1))[0] == B.digest


def test_serving_nothing_is_said_with_a_time_to_come_back(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench, bench.client() as client:
        bench.serve(A)
        bench.engine.serve(ALIAS, None)
        bench.engine.retire(ALIAS)
        with pytest.raises(NotServing) as caught:
            ask(client, images(1))
        assert str(caught.value) == (
            "the agent has no answer (HTTP 503): "
            "nothing serves under 'default' now; try again in a second."
        )
        wait_until(lambda: not worker_pids(A.digest))


@pytest.mark.parametrize(
    ("bundle", "reason", "sentence"),
    [
        (a_bundle(golden_error=1.0), Reason.GOLDEN_MISMATCH, "'logits' is off by 1"),
        (a_bundle(nan_above=-9.0), Reason.NOT_FINITE, "build one for its profile"),
        (a_bundle(model=b"no model"), Reason.LOAD_FAILED, "the runtime refuses the model"),
        (
            a_bundle(profile=a_profile(runtime_floor="98.0")),
            Reason.MISSING_RUNTIME,
            "needs onnxruntime from 98.0 to below 99",
        ),
        (
            a_bundle(profile=a_profile(runtime=Runtime.TFLITE)),
            Reason.MISSING_RUNTIME,
            "needs tflite-runtime",
        ),
    ],
    ids=["golden", "nan", "broken", "version", "runtime"],
)
def test_a_bundle_that_cannot_serve_is_refused_with_its_reason(
    tmp_path: Path, bundle: Bundle, reason: Reason, sentence: str
) -> None:
    with a_bench(tmp_path) as bench, bench.client() as client:
        bench.serve(A)
        bench.engine.load(ALIAS, DeploymentId("d-2"), bench.place(bundle))
        failed = bench.expect(LoadFailed)
        assert (failed.bundle, failed.reason) == (bundle.digest, reason)
        assert sentence in failed.detail
        bench.engine.serve(ALIAS, bench.place(bundle))
        assert bench.expect(Unservable).reason == reason
        assert ask(client, images(1))[0] == A.digest


def test_an_order_to_serve_that_failed_does_not_come_true_later(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench, bench.client() as client:
        bench.serve(A)
        place = bench.place(B)
        model = place.blobs_folder / B.manifest.files["model"].digest
        model.write_bytes(b"rotten")
        bench.engine.serve(ALIAS, place)
        bench.expect(Unservable)
        bench.load(B)  # Writes the file anew.
        assert ask(client, images(1))[0] == A.digest
        assert bench.has_no_news()


def test_a_model_file_that_was_altered_on_the_disk_is_not_loaded(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench:
        place = bench.place(A)
        model = place.blobs_folder / A.manifest.files["model"].digest
        model.write_bytes(model.read_bytes()[:-1] + b"\0")
        bench.engine.load(ALIAS, DeploymentId("d-1"), place)
        assert bench.expect(LoadFailed).reason == Reason.WRONG_BYTES


def test_a_worker_that_is_not_ready_in_time_is_given_up(tmp_path: Path) -> None:
    with a_bench(tmp_path, EngineSettings(load_timeout_s=0.01)) as bench:
        bench.engine.load(ALIAS, DeploymentId("d-1"), bench.place(A))
        assert bench.expect(LoadFailed).reason == Reason.LOAD_TIMEOUT
        wait_until(lambda: not worker_pids(A.digest))


def test_a_worker_that_dies_while_it_loads_fails_its_deployment(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench:
        bench.engine.load(ALIAS, DeploymentId("d-1"), bench.place(A))
        wait_until(lambda: worker_pids(A.digest))
        os.kill(worker_pids(A.digest)[0], signal.SIGKILL)
        failed = bench.expect(LoadFailed)
        assert (failed.reason, failed.detail) == (Reason.LOAD_FAILED, "it was ended by SIGKILL")


def test_a_serving_worker_that_is_killed_comes_back_by_itself(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench, bench.client() as client:
        bench.serve(A)
        os.kill(worker_pids(A.digest)[0], signal.SIGKILL)
        died = bench.expect(WorkerDied)
        assert (died.bundle, died.detail) == (A.digest, "it was ended by SIGKILL")
        wait_until(lambda: client.is_ready(ALIAS))
        assert ask(client, images(1))[0] == A.digest


def test_what_was_in_flight_at_a_killed_worker_is_answered_by_the_one_before(
    tmp_path: Path,
) -> None:
    with a_bench(tmp_path) as bench, bench.wire() as wire:
        bench.serve(A)
        bench.serve(B)
        (pid,) = worker_pids(B.digest)
        os.kill(pid, signal.SIGSTOP)
        bench.ask_and_leave(wire, images(1))
        os.kill(pid, signal.SIGKILL)
        status, body = wire.response()
        assert (status, decode_answer(body).version) == (200, A.digest)
        assert bench.expect(WorkerDied).bundle == B.digest


def test_what_was_in_flight_at_a_killed_worker_alone_waits_for_it_to_come_back(
    tmp_path: Path,
) -> None:
    with a_bench(tmp_path) as bench, bench.wire() as wire:
        bench.serve(A)
        (pid,) = worker_pids(A.digest)
        os.kill(pid, signal.SIGSTOP)
        bench.ask_and_leave(wire, images(1))
        os.kill(pid, signal.SIGKILL)
        status, body = wire.response()
        assert (status, decode_answer(body).version) == (200, A.digest)
        bench.expect(WorkerDied)


def test_a_request_is_not_asked_again_of_a_model_with_another_signature(tmp_path: Path) -> None:
    narrow = msgspec.structs.replace(SIGNATURE, max_batch=8)
    other = seal(msgspec.structs.replace(A.manifest, signature=narrow), A.blobs, KEY)
    with a_bench(tmp_path) as bench, bench.wire() as wire:
        bench.serve(other)
        bench.serve(B)
        (pid,) = worker_pids(B.digest)
        os.kill(pid, signal.SIGSTOP)
        bench.ask_and_leave(wire, images(9))
        os.kill(pid, signal.SIGKILL)
        assert wire.response()[0] == 503


def test_a_candidate_answers_nothing_when_the_serving_worker_dies(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench, bench.client() as client:
        bench.serve(B)
        bench.serve(A)
        bench.engine.retire(ALIAS)
        bench.load(B)
        (pid,) = worker_pids(A.digest)
        os.kill(pid, signal.SIGKILL)
        bench.expect(WorkerDied)
        assert not client.is_ready(ALIAS)
        wait_until(lambda: client.is_ready(ALIAS))
        assert ask(client, images(1))[0] == A.digest


def test_a_flip_leaves_what_is_in_flight_to_the_worker_that_was_asked(tmp_path: Path) -> None:
    patient = EngineSettings(drain_timeout_s=1000)
    with a_bench(tmp_path, patient) as bench, bench.wire() as wire, bench.client() as client:
        bench.serve(A)
        bench.load(B)
        (pid,) = worker_pids(A.digest)
        os.kill(pid, signal.SIGSTOP)
        bench.ask_and_leave(wire, images(1))
        flipped = bench.serve(B)
        bench.engine.retire(ALIAS)
        assert flipped == Flipped(ALIAS, B.digest, A.digest, in_flight=1)
        assert ask(client, images(1))[0] == B.digest
        os.kill(pid, signal.SIGCONT)
        assert decode_answer(wire.response()[1]).version == A.digest
        wait_until(lambda: not worker_pids(A.digest))


def test_a_worker_that_drains_for_too_long_loses_its_requests_to_the_new_one(
    tmp_path: Path,
) -> None:
    settings = EngineSettings(drain_timeout_s=0.1)
    with a_bench(tmp_path, settings) as bench, bench.wire() as wire:
        bench.serve(A)
        bench.load(B)
        os.kill(worker_pids(A.digest)[0], signal.SIGSTOP)
        bench.ask_and_leave(wire, images(1))
        bench.serve(B)
        bench.engine.retire(ALIAS)
        assert decode_answer(wire.response()[1]).version == B.digest
        wait_until(lambda: not worker_pids(A.digest))


def test_a_worker_that_hangs_is_timed_out_and_started_again(tmp_path: Path) -> None:
    settings = EngineSettings(request_timeout_s=0.5)
    with a_bench(tmp_path, settings) as bench, bench.wire() as wire, bench.client() as client:
        bench.serve(A)
        os.kill(worker_pids(A.digest)[0], signal.SIGSTOP)
        wire.send(an_infer_request(images(1)))
        assert wire.response()[0] == 504
        assert bench.expect(WorkerDied).detail == "it answered nothing for 0.5 s"
        wait_until(lambda: client.is_ready(ALIAS))
        assert ask(client, images(1))[0] == A.digest


def test_more_requests_than_may_wait_are_sent_away(tmp_path: Path) -> None:
    settings = EngineSettings(queue_requests=2)
    with a_bench(tmp_path, settings) as bench, bench.client() as client:
        bench.serve(A)
        (pid,) = worker_pids(A.digest)
        os.kill(pid, signal.SIGSTOP)
        wires = [bench.wire() for _ in range(DEPTH + 2)]
        for wire in wires:
            bench.ask_and_leave(wire, images(1))
        with pytest.raises(NotServing, match="2 requests wait already"):
            ask(client, images(1))
        os.kill(pid, signal.SIGCONT)
        for wire in wires:
            with wire:
                assert wire.response()[0] == 200


def test_a_bundle_that_does_not_come_back_is_said_to_be_unservable(tmp_path: Path) -> None:
    settings = EngineSettings(restarts=Bounds(failures=1, pause_s=0.01, longest_pause_s=0.01))
    with a_bench(tmp_path, settings) as bench:
        bench.serve(A)
        model = bench.place(A).blobs_folder / A.manifest.files["model"].digest
        model.write_bytes(b"rotten")
        os.kill(worker_pids(A.digest)[0], signal.SIGKILL)
        bench.expect(WorkerDied)
        lost = bench.expect(Unservable)
        assert (lost.bundle, lost.reason) == (A.digest, Reason.WRONG_BYTES)
        bench.serve(B)


def test_an_answer_that_is_not_finite_is_refused_and_counted(tmp_path: Path) -> None:
    sick = a_bundle(nan_above=1000.0)
    with a_bench(tmp_path) as bench, bench.client() as client:
        bench.serve(sick)
        assert ask(client, images(1))[0] == sick.digest
        with pytest.raises(NotServing, match=r"have another version rolled out\.$") as caught:
            ask(client, images(1) + np.float32(2000))
        assert caught.value.status == 500
        assert "again" not in str(caught.value)
        (window,) = bench.counted()
        assert (window.requests, window.errors) == (2, {"not_finite": 1})
        assert (window.latency.total, window.compute.total) == (1, 1)


def test_flips_under_load_lose_no_request_and_every_answer_is_its_bundles_own(
    tmp_path: Path,
) -> None:
    lite = a_litert_bundle(version="v3", shift=-3.0)
    shifts = {A.digest: 0.0, B.digest: 100.0, lite.digest: -3.0}
    rows, over = images(3), threading.Event()
    wrong: list[str] = []
    answered = dict.fromkeys(shifts, 0)

    def ask_until_over(bench: Bench) -> None:
        with bench.client() as client:
            while not over.is_set():
                bundle, logits = ask(client, rows)
                answered[bundle] += 1
                if np.abs(logits - logits_of(rows, shift=shifts[bundle])).max() > 1 / 8:
                    wrong.append(bundle)

    with a_bench(tmp_path) as bench, ThreadPoolExecutor(3) as pool:
        for bundle in (A, B, lite):
            bench.serve(bundle)
        clients = [pool.submit(ask_until_over, bench) for _ in range(3)]
        for bundle in (A, B, lite) * 7:
            enough = answered[bundle.digest] + 20
            bench.serve(bundle)
            wait_until(partial(has_answered, answered, bundle.digest, enough))
        bench.engine.retire(ALIAS)
        over.set()
        for client in clients:
            client.result(PATIENCE_S)  # Raises what a lost request raised.
    assert wrong == []
    assert min(answered.values()) >= 140


def has_answered(answered: dict[Digest, int], bundle: Digest, enough: int) -> bool:
    return answered[bundle] >= enough


def test_a_model_loads_at_low_priority_and_answers_at_the_ordinary_one(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench:
        slow = a_bundle(work=3000)
        bench.engine.load(ALIAS, DeploymentId("d-1"), bench.place(slow))
        wait_until(lambda: 10 in niceness(worker_pids(slow.digest)))
        bench.expect(Loaded)
        (answering,) = worker_pids(slow.digest)
        assert os.getpriority(os.PRIO_PROCESS, answering) == 0


AN_AGENT = """
import sys, threading
from pathlib import Path
from tests.agent.benches import a_bench
from tests.agent.bundles import a_bundle
with a_bench(Path(sys.argv[1])) as bench:
    bench.serve(a_bundle())
    print("up", flush=True)
    threading.Event().wait()
"""


def test_a_worker_ends_with_its_supervisor_however_that_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", AN_AGENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == "up\n"
        (worker,) = worker_pids(A.digest, of=agent.pid)
        agent.kill()
    wait_until(lambda: not is_alive(worker))


def test_the_supervisor_loads_no_tensors() -> None:
    check = (
        "import sys, wherry_agent.engine, wherry_agent.serving, wherry_agent.telemetry;"
        "sys.exit(bool({'numpy', 'onnxruntime', 'ai_edge_litert'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
