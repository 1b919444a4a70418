"""What a process binds itself to, each tried in a child that would go further."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from textwrap import dedent

import pytest

from wherry_agent import limits

HEAD = """
import ctypes, os, resource, sys, threading, time
from wherry_agent import limits

def bounds(**given):
    default = dict(memory_bytes=64 << 20, cpu_s=30.0, threads=1, niceness=10)
    return limits.LoadBounds(**(default | given))

def niceness():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

def become_nobody():
    if os.geteuid() == 0:
        os.setuid(65534)

def spend(cpu_s):
    ends = time.process_time() + cpu_s
    while time.process_time() < ends:
        pass
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a child, as a worker would."""
    return subprocess.run(
        [sys.executable, "-c", HEAD + dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def told_by(code: str) -> list[str]:
    done = run(code)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_an_enclosed_process_ends_with_its_parent_and_gains_nothing() -> None:
    told = told_by("""
        limits.enclose()
        ends_by = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(ends_by))
        status = open("/proc/self/status").read()
        print(ends_by.value, "NoNewPrivs:\\t1" in status, open("/proc/self/oom_score_adj").read())
        print(*resource.getrlimit(resource.RLIMIT_CORE))
        print(*resource.getrlimit(resource.RLIMIT_NOFILE))
    """)
    files = str(limits.OPEN_FILES)
    score = str(limits.SERVING_OOM_SCORE)
    assert told == [str(signal.SIGKILL.value), "True", score, "0", "0", files, files]


def test_a_limit_is_never_raised_above_the_one_that_is_there() -> None:
    told = told_by("""
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        limits.enclose()
        print(*resource.getrlimit(resource.RLIMIT_NOFILE))
    """)
    assert told == ["64", "64"]


@pytest.mark.parametrize(("taken_mib", "is_had"), [(32, "True"), (128, "False")])
def test_loading_has_the_memory_that_it_may_take_and_no_more(taken_mib: int, is_had: str) -> None:
    told = told_by(f"""
        with limits.loading(bounds()):
            try:
                taken = bytearray({taken_mib} << 20)
            except MemoryError:
                taken = b""
        print(len(taken) > 0)
    """)
    assert told == [is_had]


def test_the_memory_stays_bound_when_loading_is_over() -> None:
    done = run("""
        with limits.loading(bounds()):
            pass
        bytearray(128 << 20)
    """)
    assert "MemoryError" in done.stderr


def test_maps_are_bound_too() -> None:
    told = told_by(f"""
        import mmap
        limits.limit_memory(64 << 20, threads=1)
        try:
            mmap.mmap(-1, {2 * limits.SHARED_BYTES}, prot=mmap.PROT_READ)
        except OSError as error:
            print(error.errno)
    """)
    assert told == ["12"]


def test_what_loads_for_ever_is_ended_by_its_processor_time() -> None:
    done = run("""
        with limits.loading(bounds(cpu_s=0.1)):
            spend(20)
    """)
    assert limits.is_over_cpu(done.returncode)
    assert "processor time" in limits.describe_end(done.returncode)


def test_processor_time_is_free_again_when_loading_is_over() -> None:
    told = told_by("""
        with limits.loading(bounds(cpu_s=0.1)):
            pass
        spend(2.5)
        print("alive")
    """)
    assert told == ["alive"]


def test_the_loading_thread_is_nice_and_no_other_one() -> None:
    told = told_by("""
        main = threading.get_native_id()
        def load():
            with limits.loading(bounds()):
                print(niceness(), os.getpriority(os.PRIO_PROCESS, main))
        thread = threading.Thread(target=load)
        thread.start()
        thread.join()
    """)
    here = os.getpriority(os.PRIO_PROCESS, 0)
    assert told == [str(max(10, here)), str(here)]


def test_a_priority_that_cannot_be_raised_again_is_not_lowered_where_threads_would_keep_it() -> (
    None
):
    told = told_by("""
        become_nobody()
        resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
        print(limits.can_return())
        with limits.loading(bounds(threads=2)):
            print(niceness() == os.getpriority(os.PRIO_PROCESS, os.getppid()))
        with limits.loading(bounds(threads=1)):
            print(niceness())
    """)
    assert told == ["False", "True", "10"]


def test_threads_of_the_runtime_return_to_the_ordinary_priority_where_they_may() -> None:
    told = told_by("""
        told, stop = threading.Event(), threading.Event()
        def compute():
            print(niceness())
            told.set()
            stop.wait()
        with limits.loading(bounds(threads=2)):
            thread = threading.Thread(target=compute)
            thread.start()
            told.wait()
        print(os.getpriority(os.PRIO_PROCESS, thread.native_id), niceness())
        stop.set()
    """)
    here = os.getpriority(os.PRIO_PROCESS, 0)
    while_loading = max(10, here) if limits.can_return() else here
    assert told == [str(while_loading), str(here), str(here)]


def test_a_process_is_the_first_to_go_while_it_loads() -> None:
    told = told_by("""
        limits.enclose()
        with limits.loading(bounds()):
            print(open("/proc/self/oom_score_adj").read())
        print(open("/proc/self/oom_score_adj").read())
    """)
    assert told == [str(limits.LOADING_OOM_SCORE), str(limits.SERVING_OOM_SCORE)]


def test_every_thread_keeps_to_the_cores_of_the_profile() -> None:
    core = min(os.sched_getaffinity(0))
    told = told_by(f"""
        stop, ready = threading.Event(), threading.Event()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        limits.pin(({core}, 4095))
        print(*os.sched_getaffinity(0), *os.sched_getaffinity(thread.native_id))
        stop.set()
    """)
    assert told == [str(core), str(core)]


def test_a_profile_without_affinity_may_run_everywhere() -> None:
    before = os.sched_getaffinity(0)
    limits.pin(())
    assert os.sched_getaffinity(0) == before


def test_cores_that_are_not_there_are_named() -> None:
    with pytest.raises(limits.MissingCores, match=r"the cores 4094, 4095 and .* correct affinity"):
        limits.pin((4095, 4094))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "it closed its socket"),
        (-signal.SIGSEGV, "it was ended by SIGSEGV"),
        (1, "it ended with exit status 1"),
    ],
)
def test_an_end_is_told_in_words(status: int | None, words: str) -> None:
    assert limits.describe_end(status) == words
    assert not limits.is_over_cpu(status)


def test_code_that_was_needed_once_is_let_go_and_what_runs_goes_on() -> None:
    ended = run(
        """
        import numpy, onnxruntime
        from wherry_agent import measuring
        before = measuring.memory_bytes("RssFile")
        limits.let_go_of_code()
        assert measuring.memory_bytes("RssFile") < before - (4 << 20)
        assert numpy.ones(9).sum() == 9 and onnxruntime.get_available_providers()
        """
    )
    assert ended.returncode == 0, ended.stderr


def test_code_of_which_something_was_changed_stays() -> None:
    smaps = """\
7f00-7f10 r-xp 00000000 08:01 1  /usr/lib/a.so
Rss:                 8 kB
Anonymous:           0 kB
7f20-7f30 r-xp 00000000 08:01 2  /usr/lib/b.so
Anonymous:           4 kB
7f40-7f50 r--p 00000000 08:01 1  /usr/lib/a.so
Anonymous:           0 kB
7f60-7f70 r-xp 00000000 00:00 0  [vdso]
Anonymous:           0 kB
7f80-7f90 r-xp 00000000 00:00 0
Anonymous:           0 kB
"""
    assert list(limits.untouched_code(smaps)) == [(0x7F00, 0x7F10)]
