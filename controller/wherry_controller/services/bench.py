"""The folders that builds work in: one for each build, and what outlives it.

    builds/BUILD/    source, output, the request: gone when the build ends
    cache/LINEAGE/   steps of a version by content, for its next build; the oldest go first
    previous/BUNDLE/ what a new variant is compared with (`services/previous.py`)
    runtimes/        an environment for each runtime version that was needed so far
    logs/BUILD/      what each variant's process printed, the last megabyte of it

The user's code writes in the first two, so nothing there is followed out of them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wherry.files import make_folder, write_whole
from wherry.names import Digest, ProfileName
from wherry_controller.core.build import LOGS, log_file
from wherry_controller.services.child import STDERR_FILE, end_leftovers

SOURCE = "source"
OUTPUT = "output"
LARGEST_LOG_BYTES = 1_000_000
KEPT_LOGS = 500  # Builds.


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where builds stand on the disk; `cache_bytes` bounds the cache between builds."""

    builds: Path
    cache: Path
    runtimes: Path
    previous: Path
    logs: Path
    cache_bytes: int

    def clear(self) -> None:
        """End and remove what an earlier process left half done."""
        end_leftovers(self.builds)
        for folder in (self.builds, self.previous):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.builds, self.cache, self.previous, self.runtimes, self.logs):
            make_folder(folder)

    @contextmanager
    def place_for(self, build: str, profiles: Sequence[ProfileName]) -> Iterator[Path]:
        """Make a build's folder; at the end keep its logs and remove it."""
        folder = self.builds / build
        shutil.rmtree(self.logs / build, ignore_errors=True)  # Of a run that a stop cut short.
        for name in (SOURCE, OUTPUT):
            make_folder(folder / name)
        try:
            yield folder
        finally:
            self._keep_logs(build, profiles)
            shutil.rmtree(folder, ignore_errors=True)

    def cache_of(self, lineage: Digest) -> Path:
        """Return the folder of a version's steps, now the newest."""
        folder = make_folder(self.cache / lineage)
        os.utime(folder)
        return folder

    def bound_cache(self, in_use: Set[Digest]) -> None:
        """Remove the steps of versions, the longest unused first, down to `cache_bytes`."""
        folders = _oldest_first(self.cache)
        sizes = {folder: _size_of(folder) for folder in folders}
        for folder in folders:
            if sum(sizes.values()) <= self.cache_bytes:
                return
            if folder.name not in in_use:
                shutil.rmtree(folder, ignore_errors=True)
                del sizes[folder]

    def log(self, build: str, profile: ProfileName | None) -> bytes | None:
        """Return the end of a log, of a build that runs or of one that ended; None without one.

        `profile` None means what all profiles share, the builder's own words among it.
        """
        name = log_file(profile)
        kept = self.logs / build / name
        if kept.is_file():
            return kept.read_bytes()
        return _live_log(self.builds / build, name)

    def _keep_logs(self, build: str, profiles: Sequence[ProfileName]) -> None:
        folder = make_folder(self.logs / build)
        for profile in (None, *profiles):
            log = _live_log(self.builds / build, log_file(profile))
            if log is not None:
                write_whole(folder / log_file(profile), log)
        for old in _oldest_first(self.logs)[:-KEPT_LOGS]:
            shutil.rmtree(old, ignore_errors=True)


def _live_log(place: Path, name: str) -> bytes | None:
    files = [place / OUTPUT / LOGS / name]
    if name == log_file(None):
        files.append(place / STDERR_FILE)
    found = [_end_of(file) for file in files if _is_plain(file)]
    return b"".join(found)[-LARGEST_LOG_BYTES:] if found else None


def _is_plain(file: Path) -> bool:
    """Say whether a file is no link: the user's code wrote there, and may not lend our eyes."""
    return file.is_file() and not file.is_symlink() and not file.parent.is_symlink()


def _end_of(file: Path) -> bytes:
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - LARGEST_LOG_BYTES))
        return log.read(LARGEST_LOG_BYTES)


def _oldest_first(folder: Path) -> Sequence[Path]:
    """Return the entries of a folder by age; other builds make and remove some meanwhile."""
    return sorted(folder.iterdir(), key=_changed_at)


def _changed_at(file: Path) -> float:
    try:
        return file.lstat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size_of(folder: Path) -> int:
    """Return the bytes of the files below a folder, without those that go meanwhile."""
    places = os.walk(folder)  # It passes over folders that are gone.
    return sum(_bytes_of(Path(place, name)) for place, _, names in places for name in names)


def _bytes_of(file: Path) -> int:
    try:
        return file.lstat().st_size
    except FileNotFoundError:
        return 0
