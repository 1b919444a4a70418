"""Rebuilding in a child: the blob whole, or nothing and the reason."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deltas import BASE, BLOB, a_delta, a_difference, a_header, as_blob
from wherry.blobs import describe
from wherry.delta import COPY_BYTES, WINDOW_BYTES, Kind, Window, pack_header, pack_window
from wherry.reasons import Reason
from wherry_agent.rebuild import Fault, rebuild

GROWTH_BYTES = 4_000_000


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return as_blob(tmp_path, BASE)


def a_file(folder: Path, data: bytes) -> Path:
    path = folder / "delta"
    path.write_bytes(data)
    return path


def test_a_blob_is_rebuilt_whole(tmp_path: Path, base: Path) -> None:
    delta = a_file(tmp_path, a_delta(a_header(), a_difference()))
    assert rebuild(describe(BLOB), base, delta, tmp_path / "blob") is None
    assert (tmp_path / "blob").read_bytes() == BLOB


def test_what_is_refused_leaves_nothing_and_says_why(tmp_path: Path, base: Path) -> None:
    delta = a_file(tmp_path, a_delta(a_header(), a_difference())[:-1])
    fault = rebuild(describe(BLOB), base, delta, tmp_path / "blob")
    assert fault is not None
    assert fault.reason is Reason.DELTA_CORRUPT
    assert fault.detail.endswith("fetch the blob whole.")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([base.name, "delta"])


def test_a_child_that_dies_is_a_fault(tmp_path: Path, base: Path) -> None:
    delta = a_file(tmp_path, b"")
    command = (sys.executable, "-c", "raise SystemExit('out of order')")
    fault = rebuild(describe(BLOB), base, delta, tmp_path / "blob", command=command)
    assert fault == Fault(Reason.DELTA_CORRUPT, "the rebuilding process died (out of order)")


def test_a_child_that_never_ends_is_killed_at_its_deadline(tmp_path: Path, base: Path) -> None:
    delta = a_file(tmp_path, b"")
    command = (sys.executable, "-c", "import signal; signal.pause()")
    blob = describe(BLOB)
    fault = rebuild(blob, base, delta, tmp_path / "blob", command=command, deadline_s=0.5)
    assert fault is not None
    assert "within 0.5 s" in fault.detail


def test_a_child_cannot_take_more_memory_than_its_room(tmp_path: Path, base: Path) -> None:
    greedy = "from wherry_agent import rebuilder as r; r._settle_down(); bytearray(1 << 27)"
    ended = subprocess.run((sys.executable, "-c", greedy), capture_output=True, check=False)
    assert b"MemoryError" in ended.stderr


def test_the_supervisors_part_loads_no_numpy() -> None:
    asks = "import sys, wherry_agent.rebuild; sys.exit('numpy' in sys.modules)"
    assert subprocess.run((sys.executable, "-c", asks), check=False).returncode == 0


MEASURED = """
import sys
from pathlib import Path
from wherry.delta import Expected, read_header
from wherry_agent.measuring import memory_bytes
from wherry_agent.rebuilder import write
base, delta, blob = map(Path, sys.argv[1:])
with delta.open("rb") as file:
    header = read_header(file.read)
Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew; see proc(5).
before = memory_bytes("VmRSS")
expected = Expected(header.base, header.base_bytes, header.blob, header.blob_bytes)
fault = write(base, delta, blob, expected)
print(memory_bytes("VmHWM") - before, fault)
"""


def test_rebuilding_a_large_blob_takes_little_memory(tmp_path: Path) -> None:
    part = hashlib.sha512(b"weights").digest() * (WINDOW_BYTES // 64)
    large = part * 60  # 15 MiB.
    path, delta = as_blob(tmp_path, large), tmp_path / "delta"
    window = Window(Kind.XOR, WINDOW_BYTES, item=4)
    planes = b"".join(
        b"\x08\x01" + (WINDOW_BYTES // 4).to_bytes(4, "little") + bytes(WINDOW_BYTES // 4)
        for _ in range(4)
    )
    copy = Window(Kind.COPY, 30 * WINDOW_BYTES)
    whole = (
        pack_header(a_header(large, large)) + pack_window(copy) + pack_window(window, planes) * 30
    )
    delta.write_bytes(whole)
    command = (sys.executable, "-c", MEASURED, str(path), str(delta), str(tmp_path / "blob"))
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    assert said[1] == "None"
    assert COPY_BYTES < int(said[0]) < GROWTH_BYTES
