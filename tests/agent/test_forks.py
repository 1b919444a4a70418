"""Workers are forked from one process: what they share, hold and outlive, and when they are not."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.agent.bundles import a_bundle, a_litert_bundle, images, logits_of, write_bundle
from tests.agent.processes import parent_of
from tests.agent.test_runners import Bench, ask, pid_of, values_of
from wherry.bundle import Bundle
from wherry_agent import link
from wherry_agent.forks import LONGEST_PAUSE_S, ROOM, SHORTEST_PAUSE_S, STEADY_S, Forks

pytestmark = pytest.mark.system

PATIENCE_S = 30.0
ONNX, LITERT = a_bundle(), a_litert_bundle()
STARTED = "import os, sys, threading\nfrom wherry_agent import forking, runtimes\n"
GOES_ON = "\nsys.exit(forking.main())"


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def forks(clock: Clock) -> Iterator[Forks]:
    one = Forks(clock=clock)
    yield one
    one.close()


def a_bench(folder: Path, forks: Forks) -> Bench:
    return Bench(folder, partial(link.start_runner, start_process=forks.start_process))


async def a_worker(folder: Path, forks: Forks, bundle: Bundle = ONNX) -> tuple[Bench, int]:
    """Return the bench of a bundle that is ready, and its process."""
    bench = a_bench(folder, forks)
    return bench, pid_of(await bench.ready(bundle))


def lives(forks: Forks) -> bool:
    """Say whether there is a fork server, as far as it was heard."""
    return forks.pid is not None


def is_forked(pid: int, forks: Forks) -> bool:
    return parent_of(pid) == forks.pid


def kilobytes(pid: int, name: str) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(rf"^{name}: +(\d+)", rollup, re.MULTILINE)))


def limits_of(pid: int) -> str:
    return Path(f"/proc/{pid}/limits").read_text()


def wait_for_end(pid: int) -> None:
    """Wait until a process, whoever's child it is, has ended."""
    try:
        watched = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended, _, _ = select.select([watched], [], [], PATIENCE_S)
    os.close(watched)
    assert ended


def kill_fork_server(forks: Forks) -> None:
    assert forks.pid is not None
    os.kill(forks.pid, signal.SIGKILL)
    os.waitid(os.P_PID, forks.pid, os.WEXITED | os.WNOWAIT)


def stopped(benches: list[Bench]) -> None:
    for bench in benches:
        for runner in bench.runners:
            runner.kill()


def test_workers_are_forked_from_the_first_on_and_stand_in_lists_as_workers(
    tmp_path: Path, forks: Forks
) -> None:
    async def story() -> None:
        benches = [await a_worker(tmp_path / str(number), forks) for number in range(2)]
        for bench, pid in benches:
            assert is_forked(pid, forks)
            words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
            place = bench.runners[0].place
            assert words[1:5] == ["-m", "wherry_agent.worker", "--bundle", place.digest]
        stopped([bench for bench, _ in benches])

    asyncio.run(story())


def test_a_forked_worker_holds_the_descriptors_of_a_started_one_and_its_leash(
    tmp_path: Path, forks: Forks
) -> None:
    def kinds(pid: int) -> list[str]:
        places = Path(f"/proc/{pid}/fd").iterdir()
        return sorted(re.sub(r"\d+", "", str(place.readlink())) for place in places)

    async def story() -> None:
        started = Bench(tmp_path / "started", link.start_runner)
        expected = kinds(pid_of(await started.ready(a_bundle())))
        benches = [await a_worker(tmp_path / str(number), forks) for number in range(3)]
        for _, pid in benches:
            assert kinds(pid) == sorted([*expected, "pipe:[]"])
        stopped([started, *(bench for bench, _ in benches)])

    asyncio.run(story())


def test_a_forked_worker_is_bound_as_a_started_one_is(tmp_path: Path, forks: Forks) -> None:
    def bounds(pid: int) -> list[str]:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        kept = [line for line in status if line.startswith(("NoNewPrivs", "SigIgn", "SigCgt"))]
        limits = limits_of(pid).splitlines()
        kept += [line for line in limits if "core file" in line or "open files" in line]
        return [*kept, Path(f"/proc/{pid}/oom_score_adj").read_text()]

    async def story() -> None:
        started = Bench(tmp_path / "started", link.start_runner)
        expected = bounds(pid_of(await started.ready(a_bundle())))
        bench, pid = await a_worker(tmp_path / "forked", forks)
        assert bounds(pid) == expected
        (data,) = re.findall("^Max data size +(.+?) ", limits_of(pid), re.MULTILINE)
        assert int(data) < 1 << 30
        stopped([started, bench])

    asyncio.run(story())


def test_forked_workers_share_most_of_what_they_imported(tmp_path: Path, forks: Forks) -> None:
    async def story() -> None:
        started = Bench(tmp_path / "started", link.start_runner)
        alone = kilobytes(pid_of(await started.ready(a_bundle())), "Private_Dirty")
        benches = [await a_worker(tmp_path / str(number), forks) for number in range(2)]
        for _, pid in benches:
            assert kilobytes(pid, "Private_Dirty") < alone - 8 * 1024
        stopped([started, *(bench for bench, _ in benches)])

    asyncio.run(story())


def test_how_a_forked_worker_ended_is_told(tmp_path: Path, forks: Forks) -> None:
    async def story() -> None:
        bench, pid = await a_worker(tmp_path, forks)
        os.kill(pid, signal.SIGSEGV)
        assert await bench.listener.next("died") == ("it was ended by SIGSEGV",)
        await bench.listener.next("ended")

    asyncio.run(story())


def test_workers_serve_on_when_the_fork_server_dies_and_another_follows_after_a_pause(
    tmp_path: Path, forks: Forks, clock: Clock
) -> None:
    async def story() -> None:
        old, pid = await a_worker(tmp_path / "old", forks)
        kill_fork_server(forks)
        between, started = await a_worker(tmp_path / "between", forks)
        assert not lives(forks) and parent_of(started) == os.getpid()
        assert np.allclose(values_of(await ask(old.runners[0], images(2))), logits_of(images(2)))
        os.kill(pid, signal.SIGSEGV)
        await old.listener.next("ended")  # Though nobody is left to say how.
        clock.now_s += SHORTEST_PAUSE_S
        forks.start()
        assert lives(forks)
        stopped([between])

    asyncio.run(story())


async def forked_soon(folder: Path, forks: Forks, bundle: Bundle = ONNX) -> None:
    """Start workers until one is forked."""
    for number in range(200):
        bench, pid = await a_worker(folder / str(number), forks, bundle)
        found = is_forked(pid, forks)
        stopped([bench])
        if found:
            return
    raise AssertionError("none was forked")


def test_after_a_fork_server_died_workers_are_forked_again(
    tmp_path: Path, forks: Forks, clock: Clock
) -> None:
    async def story() -> None:
        await forked_soon(tmp_path / "before", forks)
        kill_fork_server(forks)
        await a_stopped_worker(tmp_path / "between", forks)
        clock.now_s += SHORTEST_PAUSE_S
        await forked_soon(tmp_path / "after", forks)

    asyncio.run(story())


async def a_stopped_worker(folder: Path, forks: Forks) -> None:
    bench, _ = await a_worker(folder, forks)
    stopped([bench])


def test_pauses_grow_while_fork_servers_die_and_shrink_after_a_steady_one(
    tmp_path: Path, clock: Clock
) -> None:
    forks = Forks(command=("/bin/false", ROOM), clock=clock)
    pauses: list[float] = []

    async def die(number: int) -> None:
        await a_stopped_worker(tmp_path / str(number), forks)
        while lives(forks):
            forks.listen()
        began_s = clock.now_s
        while not lives(forks):
            clock.now_s += 0.5
            forks.start()
        pauses.append(clock.now_s - began_s)

    async def story() -> None:
        for number in range(3):
            await die(number)
        clock.now_s += STEADY_S
        await die(3)

    asyncio.run(story())
    forks.close()
    assert pauses == [1.0, 2.0, 4.0, 1.0]
    assert max(pauses) < LONGEST_PAUSE_S


def test_with_more_than_one_thread_nothing_is_forked(tmp_path: Path, clock: Clock) -> None:
    another = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
    forks = Forks(command=(sys.executable, "-c", STARTED + another + GOES_ON), clock=clock)

    async def story() -> None:
        for number in range(2):
            bench, pid = await a_worker(tmp_path / str(number), forks)
            assert parent_of(pid) == os.getpid()
            stopped([bench])
        assert lives(forks)  # It lives, and refuses.

    asyncio.run(story())
    forks.close()


def test_a_process_is_alone_without_other_threads() -> None:
    script = (
        "import threading; from wherry_agent.forking import is_alone; print(is_alone());"
        "threading.Thread(target=threading.Event().wait, daemon=True).start();"
        "print(is_alone(0.0))"
    )
    told = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    assert told.stdout.split() == [b"True", b"False"]


def test_a_runtime_that_ends_the_fork_server_is_imported_there_no_more(
    tmp_path: Path, clock: Clock
) -> None:
    crashes = "runtimes.import_runtime = lambda runtime: os.abort()"
    forks = Forks(command=(sys.executable, "-c", STARTED + crashes + GOES_ON), clock=clock)

    async def story() -> None:
        servers = set[int | None]()
        for number in range(5):
            bench, pid = await a_worker(tmp_path / str(number), forks)
            assert parent_of(pid) == os.getpid()
            stopped([bench])
            servers.add(forks.pid)
            clock.now_s += LONGEST_PAUSE_S
        assert len(servers - {None}) == 2  # Nothing has ended the second one.

    asyncio.run(story())
    forks.close()


def test_another_runtime_is_imported_beside_what_serves_and_forked_from_then_on(
    tmp_path: Path, forks: Forks
) -> None:
    async def story() -> None:
        await a_stopped_worker(tmp_path / "first", forks)
        bench, pid = await a_worker(tmp_path / "started", forks, LITERT)
        assert parent_of(pid) == os.getpid()
        stopped([bench])
        await forked_soon(tmp_path / "forked", forks, LITERT)

    asyncio.run(story())


def test_a_forked_worker_ends_with_the_agent_though_its_fork_server_ended_before(
    tmp_path: Path,
) -> None:
    manifest, blobs = write_bundle(a_bundle(), tmp_path)
    command = [sys.executable, "-m", "tests.agent.forked", str(manifest), str(blobs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        server, worker = map(int, agent.stdout.readline().split())
        os.kill(server, signal.SIGKILL)
        wait_for_end(server)
        os.kill(worker, signal.SIGSTOP)  # So that it cannot look at its socket.
        agent.kill()
    wait_for_end(worker)


def test_a_worker_whose_agent_ended_before_it_was_on_its_leash_ends_at_once() -> None:
    script = (
        "import os; from wherry_agent.forking import hold_on; held, other = os.pipe();"
        "os.close(other); hold_on(held); os.write(1, b'it goes on')"
    )
    told = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=True)
    assert not told.stdout
