"""What a process that runs models is bound to: memory, processor time, cores, priority, its end.

A process only ever binds itself, before it touches what it does not trust. Two limits hold memory:
RLIMIT_DATA what it may write (mapped files, shared memory and untouched reservations are not in
it), RLIMIT_AS all that it maps. Where memory runs out nevertheless the kernel takes it first,
before the agent and before what serves.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from wherry.errors import Unsuitable

OPEN_FILES = 256
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
SERVING_OOM_SCORE = 300  # Of 1000, added to the share of memory that it has.
LOADING_OOM_SCORE = 1000
THREAD_BYTES = 72 << 20  # What a thread reserves and hardly touches: its stack and malloc's arena.
SHARED_BYTES = 1 << 30  # Tensors that are mapped from shared memory, and files.

_TASKS = Path("/proc/self/task")
_SMAPS = Path("/proc/self/smaps")
_OOM_SCORE = Path("/proc/self/oom_score_adj")
_UNLIMITED = resource.RLIM_INFINITY


class MissingCores(Unsuitable):
    """A profile that pins its models to cores, none of which this process may run on."""

    def __init__(self, wanted: tuple[int, ...], here: tuple[int, ...]) -> None:
        super().__init__(wanted, here)
        self.wanted, self.here = wanted, here

    def __str__(self) -> str:
        return (
            f"the profile pins models to the cores {_listed(self.wanted)} and the agent may run on "
            f"{_listed(self.here)}: correct affinity in the profile, or the agent's own cores."
        )


@dataclass(frozen=True, slots=True)
class LoadBounds:
    """What loading may take: memory beside what the process has, processor time, its courtesy."""

    memory_bytes: int
    cpu_s: float
    threads: int
    niceness: int


def enclose() -> None:
    """Bind this process for good: its end, no core dump, no new privilege, few files."""
    import ctypes  # Here, since the supervisor only asks this module how a worker ended.

    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # Also while a model computes for ever.
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_NOFILE, OPEN_FILES)
    _give_up_first(SERVING_OOM_SCORE)


@contextmanager
def loading(bounds: LoadBounds) -> Iterator[None]:
    """Bind this process while it loads: the memory for good, the rest until it has loaded.

    The calling thread loads, and threads that it starts have its priority. Where a priority that
    was lowered cannot be raised again, only a thread that starts no others lowers it.
    """
    limit_memory(bounds.memory_bytes, threads=bounds.threads)
    _limit_cpu(bounds.cpu_s)
    _give_up_first(LOADING_OOM_SCORE)
    before = os.getpriority(os.PRIO_PROCESS, 0)
    nice, returns = max(bounds.niceness, before), can_return()
    if bounds.threads == 1 or returns:
        _set_niceness(nice, [threading.get_native_id()])
    try:
        yield
    finally:
        _give_up_first(SERVING_OOM_SCORE)
        _raise_soft(resource.RLIMIT_CPU)
        if returns:
            _set_niceness(before, _tasks())


def be_nice(niceness: int) -> None:
    """Lower the priority of the calling thread, for as long as it lives."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, max(niceness, os.getpriority(os.PRIO_PROCESS, thread)))


def limit_memory(memory_bytes: int, *, threads: int) -> None:
    """Let this process take so much more than it has now, and no more."""
    reserved_bytes = SHARED_BYTES + (threads + 2) * THREAD_BYTES
    _lower(resource.RLIMIT_DATA, _status_bytes("VmData") + memory_bytes)
    _lower(resource.RLIMIT_AS, _status_bytes("VmSize") + memory_bytes + reserved_bytes)


def pin(cores: Iterable[int]) -> None:
    """Run on these cores only, with every thread; raise `MissingCores` where none is there."""
    wanted, here = set(cores), os.sched_getaffinity(0)
    if not wanted:
        return
    if not wanted & here:
        raise MissingCores(tuple(sorted(wanted)), tuple(sorted(here)))
    for task in _tasks():
        with suppress(ProcessLookupError):  # A thread that ended since it was listed.
            os.sched_setaffinity(task, wanted & here)


def give_back() -> None:
    """Return to the system what malloc keeps of memory that was freed, where malloc can."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def let_go_of_code() -> None:
    """Unmap the pages of code that were needed once: what runs on is mapped again from the cache.

    Loading touches much code that running does not. Only pages as they stand in their files go.
    """
    import ctypes

    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for begin, end in untouched_code(_SMAPS.read_text(errors="replace")):
        libc.madvise(begin, end - begin, mmap.MADV_DONTNEED)


def untouched_code(smaps: str) -> Iterator[tuple[int, int]]:
    """Return where code of files is mapped, of which this process changed nothing."""
    mapping: tuple[int, int] | None = None
    for line in smaps.splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            begin, _, end = words[0].partition("-")
            is_code = words[1] == "r-xp" and len(words) > 5 and words[5].startswith("/")
            mapping = (int(begin, 16), int(end, 16)) if is_code else None
        elif mapping and line.startswith("Anonymous:") and words[1] == "0":
            yield mapping


def can_return() -> bool:
    """Say whether a thread of this process may raise its priority again after it lowered it."""
    outcome: list[bool] = []
    trying = threading.Thread(target=lambda: outcome.append(_try_to_return()))
    trying.start()  # A thread of its own: where it cannot, it ends with the lower priority.
    trying.join()
    return outcome == [True]


def describe_end(status: int | None) -> str:
    """Say how a process ended, by the status that it was reaped with; None: it lives yet."""
    if status is None:
        return "it closed its socket"
    if is_over_cpu(status):
        return "it took all the processor time that loading may take"
    if status < 0:
        return f"it was ended by {signal.Signals(-status).name}"
    return f"it ended with exit status {status}"


def is_over_cpu(status: int | None) -> bool:
    """Say whether a process ended for the processor time that it took."""
    return status == -signal.SIGXCPU


def _try_to_return() -> bool:
    own = threading.get_native_id()
    before = os.getpriority(os.PRIO_PROCESS, own)
    try:
        os.setpriority(os.PRIO_PROCESS, own, before + 1)
        os.setpriority(os.PRIO_PROCESS, own, before)
    except PermissionError:
        return False
    return os.getpriority(os.PRIO_PROCESS, own) == before


def _limit_cpu(cpu_s: float) -> None:
    """End this process by SIGXCPU once it took so much more; the hard limit stays as it is."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used.ru_utime + used.ru_stime + cpu_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (_least(soft, hard), hard))


def _raise_soft(kind: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (hard, hard))


def _lower(kind: int, wanted: int) -> None:
    _, hard = resource.getrlimit(kind)
    bound = _least(wanted, hard)
    resource.setrlimit(kind, (bound, bound))


def _least(wanted: int, hard: int) -> int:
    return wanted if hard == _UNLIMITED else min(wanted, hard)


def _give_up_first(score: int) -> None:
    """Say how readily the kernel may end this process; never less readily than it may now."""
    with suppress(OSError):  # Its parent stands higher already, or /proc is not to be written.
        _OOM_SCORE.write_text(str(score))


def _set_niceness(niceness: int, tasks: Iterable[int]) -> None:
    for task in tasks:
        with suppress(ProcessLookupError):  # A thread that ended since it was listed.
            os.setpriority(os.PRIO_PROCESS, task, niceness)


def _tasks() -> list[int]:
    return [int(task.name) for task in _TASKS.iterdir()]


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def _listed(cores: tuple[int, ...]) -> str:
    return ", ".join(str(core) for core in cores)
