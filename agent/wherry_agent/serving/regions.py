"""Regions of system shared memory that applications put tensors into and take them from.

    key "/frames" -> /dev/shm/frames, opened once when it is registered

A region belongs to the user who registered it, and nobody else sees or uses it. The agent opens
files with rights of its own, so it takes only what that user could read and write anyway. It reads
and writes through the descriptor and never maps a region: one that shrinks gives a short read, not
a signal that ends the agent. A region whose file is gone and that nobody used for a while is
let go.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wherry.errors import Malformed, Unavailable

SHARED_MEMORY = Path("/dev/shm")  # shm_overview(7)
LARGEST_REGIONS = 64
LARGEST_NAME = 255
UNUSED_S = 60.0
_KEY = re.compile(r"/?[A-Za-z0-9_-][A-Za-z0-9._-]{0,253}")
_OTHERS = stat.S_IROTH | stat.S_IWOTH
_AS_IT_IS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class BadRegion(Malformed):
    """A region that cannot be registered or used as it was asked."""

    def __init__(self, name: str, problem: str, remedy: str) -> None:
        super().__init__(name, problem, remedy)
        self.name, self.problem, self.remedy = name, problem, remedy

    def __str__(self) -> str:
        return f"shared memory region {self.name[:80]!r}: {self.problem}; {self.remedy}."


class UnknownRegion(Unavailable):
    """A region that the user has not registered."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"no shared memory region {self.name[:80]!r} is registered; register it first."


class TooManyRegions(Unavailable):
    """One region more than are kept."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.limit} shared memory regions are registered already; unregister some."


class Registration(msgspec.Struct):
    """What a client sends to register a region."""

    key: str
    byte_size: int
    offset: int = 0


class Told(msgspec.Struct):
    """What a client is told of a region."""

    name: str
    key: str
    offset: int
    byte_size: int


@dataclass(slots=True)
class _Region:
    told: Told
    descriptor: int
    used_at_s: float


class Regions:
    """The registered regions of all users; `folder` is where their files stand."""

    def __init__(self, folder: Path = SHARED_MEMORY) -> None:
        self._folder = folder
        self._regions: dict[tuple[int, str], _Region] = {}

    def register(self, user: int | None, name: str, sent: Registration, *, now_s: float) -> None:
        """Open a region; raises `BadRegion` or `TooManyRegions`."""
        if user is None:
            problem = "nobody knows whose this connection is"
            raise BadRegion(name, problem, "register it over the Unix socket")
        if len(name) > LARGEST_NAME:
            raise BadRegion(name, f"its name has {len(name)} characters", "choose a shorter one")
        if (user, name) in self._regions:
            raise BadRegion(name, "it is registered already", "unregister it first")
        if len(self._regions) >= LARGEST_REGIONS:
            raise TooManyRegions(LARGEST_REGIONS)
        if sent.byte_size < 1 or sent.offset < 0:
            raise BadRegion(name, "its offset or size is no part of a file", "give one from 0 on")
        descriptor = _open(self._folder, name, sent.key)
        try:
            _check(descriptor, user, name, sent)
        except BadRegion:
            os.close(descriptor)
            raise
        told = Told(name, sent.key, sent.offset, sent.byte_size)
        self._regions[user, name] = _Region(told, descriptor, now_s)

    def unregister(self, user: int | None, name: str) -> None:
        """Let a region go, if there is one."""
        region = self._regions.pop((user, name), None) if user is not None else None
        if region is not None:
            os.close(region.descriptor)

    def unregister_all(self, user: int | None) -> None:
        for told in self.list(user):
            self.unregister(user, told.name)

    def list(self, user: int | None) -> list[Told]:
        return [region.told for (owner, _), region in self._regions.items() if owner == user]

    def find(self, user: int | None, name: str) -> Told:
        """Return what a user has registered under a name; raise `UnknownRegion`."""
        return self._of(user, name).told

    def read(
        self, user: int | None, name: str, *, offset: int, size_bytes: int, now_s: float
    ) -> bytes:
        """Return bytes of a region; raises `UnknownRegion` or `BadRegion`."""
        region = self._part(user, name, offset, size_bytes)
        region.used_at_s = now_s
        data = os.pread(region.descriptor, size_bytes, region.told.offset + offset)
        if len(data) != size_bytes:
            raise BadRegion(name, "it has become smaller", "register it again")
        return data

    def check_part(self, user: int | None, name: str, *, offset: int, size_bytes: int) -> None:
        """Check a part to be written later; raises `UnknownRegion` or `BadRegion`."""
        self._part(user, name, offset, size_bytes)

    def write(
        self,
        user: int | None,
        name: str,
        data: bytes | bytearray | memoryview,
        *,
        offset: int,
        now_s: float,
    ) -> None:
        """Put bytes into a region; raises `UnknownRegion` or `BadRegion`."""
        region = self._part(user, name, offset, len(data))
        region.used_at_s = now_s
        start = region.told.offset + offset
        if os.fstat(region.descriptor).st_size < start + len(data):
            raise BadRegion(name, "it has become smaller", "register it again")
        try:
            written = os.pwrite(region.descriptor, data, start)
        except OSError as error:
            raise BadRegion(name, f"it takes no output: {error}", "free memory") from error
        if written != len(data):
            raise BadRegion(name, "it takes only a part of the output", "free memory")

    def forget_unused(self, now_s: float) -> None:
        """Let regions go whose file is gone and that were not used for a while."""
        for key, region in list(self._regions.items()):
            gone = os.fstat(region.descriptor).st_nlink == 0
            if gone and now_s - region.used_at_s > UNUSED_S:
                self.unregister(*key)

    def close(self) -> None:
        for key in list(self._regions):
            self.unregister(*key)

    def _of(self, user: int | None, name: str) -> _Region:
        region = self._regions.get((user, name)) if user is not None else None
        if region is None:
            raise UnknownRegion(name)
        return region

    def _part(self, user: int | None, name: str, offset: int, size_bytes: int) -> _Region:
        region = self._of(user, name)
        if offset < 0 or size_bytes < 0 or offset + size_bytes > region.told.byte_size:
            problem = f"bytes {offset} to {offset + size_bytes} are not all in it"
            raise BadRegion(name, problem, f"it has {region.told.byte_size} bytes")
        return region


def _open(folder: Path, name: str, key: str) -> int:
    if not _KEY.fullmatch(key):
        problem = f"its key {key[:80]!r} is no name of shared memory"
        raise BadRegion(name, problem, "give one like '/frames', without further slashes")
    try:
        return os.open(folder / key.removeprefix("/"), _AS_IT_IS)
    except OSError as error:
        problem = f"its key {key!r} cannot be opened: {error.strerror}"
        remedy = "create it first, for the agent's user too"
        raise BadRegion(name, problem, remedy) from error


def _check(descriptor: int, user: int, name: str, sent: Registration) -> None:
    """Check that a file is one, is large enough, and could be read and written by its user."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise BadRegion(
            name, f"its key {sent.key!r} is no shared memory", "create it with shm_open"
        )
    if user not in (0, found.st_uid) and found.st_mode & _OTHERS != _OTHERS:
        raise BadRegion(name, f"its key {sent.key!r} is another user's", "create one of your own")
    if sent.offset + sent.byte_size > found.st_size:
        problem = f"{sent.byte_size} bytes from {sent.offset} on are more than its {found.st_size}"
        raise BadRegion(name, problem, "register a part that exists")
