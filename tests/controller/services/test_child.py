"""A build as a child process: its messages, its crashes and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.builders import a_digest
from tests.controller.scripted import a_card
from wherry import codec
from wherry_controller.core.build import (
    LARGEST_MESSAGE_BYTES,
    BuildRequest,
    BuildStep,
    Limits,
    Progress,
)
from wherry_controller.core.card import parse_card
from wherry_controller.core.fault import BuildReason, BuildRefused
from wherry_controller.services.child import (
    BuildCanceled,
    BuildCrashed,
    BuildStopped,
    ChildBuilder,
    end_leftovers,
    pid_line,
)
from wherry_controller.services.processes import boot, memory_of

PROGRESS = Progress(BuildStep.LOADING, 0, 4)
SAYS = f"print({codec.encode(PROGRESS).decode()!r}, flush=True)"


@pytest.fixture
def request_for_build(tmp_path: Path) -> BuildRequest:
    (tmp_path / "output").mkdir()
    return BuildRequest(
        card=parse_card(a_card()),
        folder=str(tmp_path),
        output=str(tmp_path / "output"),
        cache=str(tmp_path),
        runtimes=str(tmp_path),
        lineage=a_digest("lineage"),
        profiles=(),
    )


def a_child(code: str) -> ChildBuilder:
    return ChildBuilder((sys.executable, "-c", code))


def test_each_line_of_the_child_is_a_message(request_for_build: BuildRequest) -> None:
    assert list(a_child(f"{SAYS}; {SAYS}").run("b1", request_for_build)) == [PROGRESS, PROGRESS]


def test_the_child_is_given_the_request(request_for_build: BuildRequest) -> None:
    reads = "import json, sys; assert json.load(open(sys.argv[1]))['card']['model'] == 'digits'"
    assert not list(a_child(reads).run("b1", request_for_build))


def test_a_crash_is_told_by_its_last_line(request_for_build: BuildRequest) -> None:
    child = a_child(f"{SAYS}; raise MemoryError('no more')")
    with pytest.raises(BuildCrashed, match="MemoryError: no more"):
        list(child.run("b1", request_for_build))


def test_a_silent_crash_is_told_by_its_exit_status(request_for_build: BuildRequest) -> None:
    with pytest.raises(BuildCrashed, match="exit status -9"):
        list(a_child("import os; os.kill(os.getpid(), 9)").run("b1", request_for_build))


def test_a_line_that_is_no_message_is_refused(request_for_build: BuildRequest) -> None:
    with pytest.raises(codec.BadDocument, match="build message"):
        list(a_child("print('torch says hello')").run("b1", request_for_build))


def test_a_message_without_an_end_is_refused_before_it_fills_the_memory(
    request_for_build: BuildRequest,
) -> None:
    code = f"import sys; sys.stdout.write(' ' * {LARGEST_MESSAGE_BYTES} + 'x'); sys.stdout.flush()"
    with pytest.raises(codec.BadDocument, match="more than"):
        list(a_child(f"{code}; import time; time.sleep(600)").run("b1", request_for_build))


def test_a_stop_ends_the_child_that_runs(request_for_build: BuildRequest) -> None:
    child = a_child(f"{SAYS}; import time; time.sleep(600)")
    messages = child.run("b1", request_for_build)
    assert next(messages) == PROGRESS
    child.stop()
    with pytest.raises(BuildStopped, match="queued again at the next start"):
        next(messages)


def test_nothing_begins_after_a_stop(request_for_build: BuildRequest) -> None:
    child = a_child(SAYS)
    child.stop()
    with pytest.raises(BuildStopped):
        list(child.run("b1", request_for_build))


FORKS = "import os, time; pid = os.fork(); open('forked', 'w').write(str(pid or os.getpid()))"


def forked(folder: Path) -> int:
    return int(wait_for(lambda: (folder / "forked").read_text()))


def wait_for(look: Callable[[], str]) -> str:
    """Return what `look` sees once it sees something."""
    deadline = time.monotonic() + 10
    while True:
        try:
            seen = look()
        except FileNotFoundError:
            seen = ""
        if seen or time.monotonic() > deadline:
            return seen
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Say whether a process ends within seconds; a zombie that nobody waited for has ended."""
    look = lambda: "gone" if state_of(pid) in ("", "Z") else ""
    return bool(wait_for(look))


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_a_canceled_build_ends_with_all_that_it_started(
    request_for_build: BuildRequest, tmp_path: Path
) -> None:
    child = a_child(f"{FORKS}; pid and {SAYS}; time.sleep(600)")
    messages = child.run("b1", request_for_build)
    assert next(messages) == PROGRESS
    child.cancel("another")
    child.cancel("b1")
    with pytest.raises(BuildCanceled):
        next(messages)
    assert is_gone(forked(tmp_path))


def test_a_build_that_was_canceled_before_it_began_does_not_begin(
    request_for_build: BuildRequest,
) -> None:
    child = a_child(SAYS)
    child.cancel("b1")
    with pytest.raises(BuildCanceled):
        list(child.run("b1", request_for_build))
    assert list(child.run("b1", request_for_build)) == [PROGRESS]


def test_what_a_dead_build_left_running_keeps_nobody_waiting(
    request_for_build: BuildRequest, tmp_path: Path
) -> None:
    child = a_child(f"{FORKS}; pid or time.sleep(600); {SAYS}")
    assert list(child.run("b1", request_for_build)) == [PROGRESS]
    assert is_gone(forked(tmp_path))


def test_a_build_that_takes_too_long_is_refused(request_for_build: BuildRequest) -> None:
    limited = replace(request_for_build, limits=Limits(deadline_s=0.3))
    with pytest.raises(BuildRefused, match=r"0\.3 s.*build\.deadline_s") as refused:
        list(a_child("import time; time.sleep(600)").run("b1", limited))
    assert refused.value.fault.reason is BuildReason.OUT_OF_TIME


def test_the_memory_of_all_that_a_build_started_counts(request_for_build: BuildRequest) -> None:
    # Neither of the two reaches the limit alone.
    code = "import os, time; os.fork(); taken = b'x' * 60_000_000; time.sleep(600)"
    limited = replace(request_for_build, limits=Limits(memory_bytes=100_000_000))
    with pytest.raises(BuildRefused, match=r"100 MB.*build\.memory_bytes") as refused:
        list(a_child(code).run("b1", limited))
    assert refused.value.fault.reason is BuildReason.OUT_OF_MEMORY


def test_memory_that_processes_share_counts_once() -> None:
    code = "import os, time; taken = b'x' * 60_000_000; os.fork(); print(flush=True); time.sleep(9)"
    command = (sys.executable, "-c", code)
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        parent.stdout.readline()
        assert 60_000_000 < memory_of(parent.pid, at_least=100_000_000) < 100_000_000
        os.killpg(parent.pid, signal.SIGKILL)


def test_the_child_learns_nothing_that_the_environment_tells_the_controller(
    request_for_build: BuildRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHERRY_DATABASE", "postgresql://wherry:secret@db/wherry")
    code = "import os; assert os.environ['PATH'] and 'secret' not in str(os.environ)"
    assert not list(a_child(code).run("b1", request_for_build))


def test_the_build_of_a_controller_that_was_killed_ends_at_its_next_start(tmp_path: Path) -> None:
    (tmp_path / "b1").mkdir()
    with subprocess.Popen(("sleep", "600"), start_new_session=True) as left:
        (tmp_path / "b1" / "pid").write_text(pid_line(left.pid))
        end_leftovers(tmp_path)
        assert left.wait(10) == -signal.SIGKILL


def test_a_process_that_took_over_the_number_of_a_build_is_let_alone(tmp_path: Path) -> None:
    (tmp_path / "b1").mkdir()
    with subprocess.Popen(("sleep", "600"), start_new_session=True) as other:
        (tmp_path / "b1" / "pid").write_text(f"{other.pid} 1 {boot()}")
        end_leftovers(tmp_path)
        assert other.poll() is None
        other.kill()


def test_a_session_of_the_number_of_a_build_before_the_last_boot_is_let_alone(
    tmp_path: Path,
) -> None:
    (tmp_path / "b1").mkdir()
    code = "import os; pid = os.fork(); pid or os.execlp('sleep', 'sleep', '600'); print(pid)"
    command = (sys.executable, "-c", code)
    leader = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert leader.stdout is not None
    member = int(leader.stdout.readline())
    leader.wait()
    (tmp_path / "b1" / "pid").write_text(f"{leader.pid} 1 another")
    end_leftovers(tmp_path)
    assert state_of(member) not in ("", "Z")
    (tmp_path / "b1" / "pid").write_text(f"{leader.pid} 1 {boot()}")
    end_leftovers(tmp_path)
    assert is_gone(member)
    leader.stdout.close()
