"""Whole-file writes: whatever stops one, the old bytes or the new ones stand there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from wherry.files import TEMPORARY, adopt, make_folder, sweep, write_parts, write_whole

OLD, NEW = b"old" * 10_000, b"new" * 20_000


class PowerCut(BaseException):
    """Neither the code under test nor pytest takes it for an ordinary error."""


@contextmanager
def watched(see: Callable[[str], None]) -> Iterator[None]:
    """Tell `see` the name of each C function before it runs; what `see` raises stops it."""

    def profile(_frame: FrameType, what: str, function: object) -> None:
        if what == "c_call":
            see(str(getattr(function, "__name__", "")))

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(before)


def calls_of_a_write(path: Path) -> list[str]:
    calls: list[str] = []
    with watched(calls.append):
        write_whole(path, NEW)
    return calls


def test_a_file_holds_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_whole(path, OLD)
    assert path.read_bytes() == OLD
    write_whole(path, b"")
    assert path.read_bytes() == b""
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_parts_stand_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    write_parts(path, (OLD, NEW))
    assert path.read_bytes() == OLD + NEW

    def broken_off() -> Iterator[bytes]:
        yield OLD
        raise PowerCut

    with pytest.raises(PowerCut):
        write_parts(path, broken_off())
    assert path.read_bytes() == OLD + NEW
    assert [entry.name for entry in tmp_path.iterdir()] == ["blob"]


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path,
) -> None:
    calls = calls_of_a_write(tmp_path / "state")
    steps = [name for name in calls if name in ("flush", "fsync", "replace", "rename")]
    assert steps == ["flush", "fsync", "replace", "fsync"]


@pytest.mark.parametrize(
    ("step", "time", "stands"),
    [
        ("write", 1, OLD),
        ("flush", 1, OLD),
        ("fchmod", 1, OLD),
        ("fsync", 1, OLD),
        ("replace", 1, OLD),
        ("fsync", 2, NEW),
    ],
)
def test_an_error_at_any_step_leaves_the_old_bytes_or_the_new_and_nothing_beside(
    tmp_path: Path, step: str, time: int, stands: bytes
) -> None:
    path = tmp_path / "state"
    path.write_bytes(OLD)
    times = iter(range(time - 1))

    def cut(name: str) -> None:
        if name == step and next(times, None) is None:
            raise PowerCut

    with pytest.raises(PowerCut), watched(cut):
        write_whole(path, NEW)
    assert path.read_bytes() == stands
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


KILLED_WRITE = """
import os, signal, sys
from pathlib import Path
from wherry.files import write_whole

path, at = Path(sys.argv[1]), sys.argv[2]
def kill(event, arguments):
    if event == at:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
write_whole(path, b"new")
"""


def test_a_process_killed_before_the_rename_leaves_the_old_bytes_and_a_file_to_sweep(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state"
    path.write_bytes(OLD)
    command = [sys.executable, "-c", KILLED_WRITE, str(path), "os.rename"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert path.read_bytes() == OLD
    assert len(list(tmp_path.glob(f"{TEMPORARY}*"))) == 1
    assert sweep(tmp_path) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]
    assert sweep(tmp_path) == 0


def test_a_rename_that_fails_leaves_what_stood_there(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "state")
    with pytest.raises(IsADirectoryError):
        write_whole(folder, NEW)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]


def test_a_missing_folder_is_an_error_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "missing" / "state", NEW)
    assert not (tmp_path / "missing").exists()


def test_a_private_file_is_never_open_to_others(tmp_path: Path) -> None:
    write_whole(tmp_path / "key", NEW, mode=0o600)
    write_whole(tmp_path / "state", NEW)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o644


def test_a_public_file_made_private_is_private(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_whole(path, OLD)
    write_whole(path, NEW, mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_umask_does_not_decide_the_permissions(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_whole(tmp_path / "state", NEW)
    finally:
        os.umask(before)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o644


def test_a_link_is_replaced_and_what_it_names_is_left(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(OLD)
    link = tmp_path / "state"
    link.symlink_to(other)
    write_whole(link, NEW)
    assert (other.read_bytes(), link.read_bytes()) == (OLD, NEW)
    assert not link.is_symlink()


def test_folders_are_made_with_their_parents_and_each_is_synced(tmp_path: Path) -> None:
    calls: list[str] = []
    wanted = tmp_path / "a" / "b" / "c"
    with watched(calls.append):
        assert make_folder(wanted) == wanted
    assert wanted.is_dir()
    assert calls.count("fsync") == calls.count("mkdir") == 3
    assert make_folder(wanted) == wanted


def test_a_private_folder_is_private(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "keys", mode=0o700)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_sweeping_takes_nothing_but_torn_files(tmp_path: Path) -> None:
    torn = [tmp_path / f"{TEMPORARY}{number}" for number in range(3)]
    kept = tmp_path / "part-1"
    for path in (*torn, kept):
        path.write_bytes(OLD)
    assert sweep(tmp_path) == 3
    assert list(tmp_path.iterdir()) == [kept]


def test_a_file_that_something_else_wrote_is_adopted_whole(tmp_path: Path) -> None:
    finished, path = tmp_path / ".part-1", tmp_path / "file"
    finished.write_bytes(b"new")
    path.write_bytes(b"old")
    adopt(finished, path, mode=0o640)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]
