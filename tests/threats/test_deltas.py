"""Threats by deltas, which nobody signs: each is refused by the child, and the device keeps all.

The blob is then fetched whole; that is tested where fetching is.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deltas import (
    BASE,
    BLOB,
    a_delta,
    a_difference,
    a_frame,
    a_header,
    a_stream,
    as_blob,
)
from wherry.blobs import describe, digest_of
from wherry.delta import HEAD, Kind, Storing, Window, pack_header, pack_window
from wherry.reasons import Reason
from wherry_agent.rebuild import rebuild

LARGE = 200 << 20


def refused(folder: Path, delta: bytes, base: bytes = BASE) -> Reason:
    """Return why a device with `base` refuses; all that it has is as before."""
    device = folder / "device"
    device.mkdir()
    path = as_blob(device, base)
    told = folder / "delta"
    told.write_bytes(delta)
    fault = rebuild(describe(BLOB), path, told, device / digest_of(BLOB))
    assert fault is not None
    assert {file.name: file.read_bytes() for file in device.iterdir()} == {path.name: base}
    return fault.reason


def test_a_delta_with_a_wrong_base_is_refused(tmp_path: Path) -> None:
    other = b"another base" * 100
    delta = a_delta(a_header(), a_difference())
    assert refused(tmp_path, delta, base=other) is Reason.DELTA_WRONG_BASE


def test_a_delta_with_a_base_that_rotted_on_the_disk_is_refused(tmp_path: Path) -> None:
    path = as_blob(tmp_path, BASE)
    path.write_bytes(b"?" + BASE[1:])
    (tmp_path / "delta").write_bytes(a_delta(a_header(), a_difference()))
    fault = rebuild(describe(BLOB), path, tmp_path / "delta", tmp_path / "blob")
    assert fault is not None
    assert fault.reason is Reason.DELTA_WRONG_BASE
    assert not (tmp_path / "blob").exists()


@pytest.mark.parametrize("at", [0, HEAD.size, HEAD.size + 100, -1])
def test_a_delta_with_a_corrupt_window_is_refused(tmp_path: Path, at: int) -> None:
    window = bytearray(a_difference())
    window[at] ^= 0x7F
    delta = a_delta(a_header(), bytes(window))
    assert refused(tmp_path, delta) is Reason.DELTA_CORRUPT


def test_a_delta_whose_windows_make_other_weights_is_refused(tmp_path: Path) -> None:
    delta = a_delta(a_header(), a_difference(blob=bytes(len(BLOB))))
    assert refused(tmp_path, delta) is Reason.DELTA_CORRUPT


def test_a_delta_with_a_bomb_in_a_stream_is_refused(tmp_path: Path) -> None:
    bomb = b"\x08" + a_stream(a_frame(0, 1 << 20, declares=LARGE), Storing.ZSTD)
    window = pack_window(Window(Kind.FULL, len(BLOB)), bomb)
    assert refused(tmp_path, a_delta(a_header(), window)) is Reason.DELTA_OVERSIZED


def test_a_delta_that_copies_the_base_without_end_is_refused(tmp_path: Path) -> None:
    copies = pack_window(Window(Kind.COPY, len(BASE))) * 1000
    assert refused(tmp_path, a_delta(a_header(), copies)) is Reason.DELTA_OVERSIZED


def test_a_delta_that_declares_more_than_the_manifest_is_refused(tmp_path: Path) -> None:
    endless = bytes(LARGE)
    header = pack_header(a_header(blob=endless))
    assert refused(tmp_path, header + a_difference()) is Reason.DELTA_OVERSIZED
