"""Regions of shared memory: what may be registered, by whom, and which bytes of it are used."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wherry_agent.serving.regions import (
    LARGEST_REGIONS,
    UNUSED_S,
    BadRegion,
    Regions,
    Registration,
    TooManyRegions,
    UnknownRegion,
)

ME = os.geteuid()
STRANGER = 4_000_001  # Nobody's id; root may use whatever it likes.
NOW_S = 100.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "frames").write_bytes(bytes(range(100)))
    (tmp_path / "frames").chmod(0o600)
    return tmp_path


def registered(folder: Path, *, offset: int = 0, size: int = 100, user: int = ME) -> Regions:
    regions = Regions(folder)
    regions.register(user, "r", Registration("/frames", size, offset), now_s=NOW_S)
    return regions


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def read(regions: Regions, offset: int, size_bytes: int, user: int = ME) -> bytes:
    return regions.read(user, "r", offset=offset, size_bytes=size_bytes, now_s=NOW_S)


def test_bytes_are_read_and_written_from_the_offset_on(folder: Path) -> None:
    regions = registered(folder, offset=10, size=50)
    assert read(regions, 5, 3) == bytes([15, 16, 17])
    regions.write(ME, "r", b"ab", offset=48, now_s=NOW_S)
    assert (folder / "frames").read_bytes()[57:61] == b"\x39ab\x3c"
    regions.close()


@pytest.mark.parametrize(
    "key",
    ["", "/", ".", "..", "/..", "../frames", "/a/b", "//frames", "fra\0mes", "x" * 300, "/.hidden"],
)
def test_a_key_leads_nowhere_else(folder: Path, key: str) -> None:
    with pytest.raises(BadRegion, match="no name of shared memory"):
        Regions(folder).register(ME, "r", Registration(key, 1), now_s=NOW_S)


def test_what_is_no_plain_file_is_refused(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "frames")
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe")
    before = open_files()
    for key in ("link", "sub", "pipe", "missing"):
        with pytest.raises(BadRegion, match=r"cannot be opened|is no shared memory"):
            Regions(folder).register(ME, "r", Registration(key, 1), now_s=NOW_S)
    assert open_files() == before


@pytest.mark.parametrize(
    ("size", "offset"), [(0, 0), (-1, 0), (1, -1), (101, 0), (1, 100), (1 << 62, 1 << 62)]
)
def test_a_part_that_is_not_there_is_not_registered(folder: Path, size: int, offset: int) -> None:
    before = open_files()
    with pytest.raises(BadRegion):
        registered(folder, offset=offset, size=size)
    assert open_files() == before


@pytest.mark.parametrize(("mode", "may"), [(0o600, False), (0o644, False), (0o666, True)])
def test_the_agents_rights_are_not_lent_to_others(folder: Path, mode: int, may: bool) -> None:
    (folder / "frames").chmod(mode)
    if may:
        registered(folder, user=STRANGER).close()
    else:
        with pytest.raises(BadRegion, match="is another user's"):
            registered(folder, user=STRANGER)
    registered(folder, user=0).close()


def test_nobody_uses_the_region_of_another_user(folder: Path) -> None:
    regions = registered(folder)
    for use in (
        lambda: read(regions, 0, 1, STRANGER),
        lambda: regions.write(STRANGER, "r", b"x", offset=0, now_s=NOW_S),
        lambda: regions.find(STRANGER, "r"),
        lambda: regions.check_part(STRANGER, "r", offset=0, size_bytes=1),
    ):
        with pytest.raises(UnknownRegion):
            use()
    regions.unregister(STRANGER, "r")
    assert (regions.list(STRANGER), len(regions.list(ME))) == ([], 1)
    regions.close()


def test_whom_nobody_knows_registers_nothing(folder: Path) -> None:
    with pytest.raises(BadRegion, match="nobody knows whose"):
        Regions(folder).register(None, "r", Registration("/frames", 1), now_s=NOW_S)


@settings(max_examples=60, deadline=None)
@given(st.integers(-200, 200), st.integers(-200, 200))
def test_no_byte_outside_of_the_region_is_read_or_written(
    tmp_path_factory: pytest.TempPathFactory, offset: int, size: int
) -> None:
    folder = tmp_path_factory.mktemp("shm")
    (folder / "frames").write_bytes(bytes(100))
    regions = registered(folder, offset=20, size=50)
    inside = offset >= 0 and size >= 0 and offset + size <= 50
    try:
        assert len(read(regions, offset, size)) == size
        assert inside
    except BadRegion:
        assert not inside
    try:
        regions.write(ME, "r", b"x" * max(size, 0), offset=offset, now_s=NOW_S)
    except BadRegion:
        assert not inside or size < 0
    told = (folder / "frames").read_bytes()
    assert (told[:20], told[70:]) == (bytes(20), bytes(30))
    regions.close()


def test_a_file_that_shrank_gives_an_error_and_is_not_made_longer(folder: Path) -> None:
    regions = registered(folder)
    os.truncate(folder / "frames", 10)
    with pytest.raises(BadRegion, match="has become smaller"):
        read(regions, 0, 100)
    with pytest.raises(BadRegion, match="has become smaller"):
        regions.write(ME, "r", b"x" * 20, offset=0, now_s=NOW_S)
    assert (folder / "frames").stat().st_size == 10
    regions.close()


def test_an_output_that_is_taken_in_part_is_an_error(folder: Path) -> None:
    regions = registered(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
    try:
        with pytest.raises(BadRegion, match="takes only a part"):
            regions.write(ME, "r", b"x" * 60, offset=0, now_s=NOW_S)
        with pytest.raises(BadRegion, match="takes no output"):
            regions.write(ME, "r", b"x", offset=60, now_s=NOW_S)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    regions.close()


def test_regions_are_bounded_and_their_files_are_closed(folder: Path) -> None:
    before = open_files()
    regions = Regions(folder)
    for number in range(LARGEST_REGIONS):
        regions.register(ME, str(number), Registration("frames", 1), now_s=NOW_S)
    with pytest.raises(BadRegion, match="registered already"):
        regions.register(ME, "0", Registration("frames", 1), now_s=NOW_S)
    with pytest.raises(BadRegion, match="256 characters"):
        regions.register(ME, "x" * 256, Registration("frames", 1), now_s=NOW_S)
    with pytest.raises(TooManyRegions):
        regions.register(ME, "more", Registration("frames", 1), now_s=NOW_S)
    regions.unregister_all(ME)
    assert open_files() == before


def test_a_region_without_a_file_is_let_go_once_nobody_uses_it(folder: Path) -> None:
    regions = registered(folder)
    regions.forget_unused(NOW_S + 10 * UNUSED_S)
    assert regions.list(ME)
    (folder / "frames").unlink()
    regions.forget_unused(NOW_S + UNUSED_S - 1)
    assert regions.list(ME)
    regions.read(ME, "r", offset=0, size_bytes=1, now_s=NOW_S + UNUSED_S)
    regions.forget_unused(NOW_S + UNUSED_S + 1)
    assert regions.list(ME)
    regions.forget_unused(NOW_S + 2 * UNUSED_S + 1)
    assert not regions.list(ME)
