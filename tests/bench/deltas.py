"""The deltas' bars: how short they are after real fine-tunes, and what making them takes.

    nets (`tests.bench.tuned`) --> for each state and precision: our delta, and what zstd, xdelta3
    and zstd --patch-from make of the same two files --> shares of the full file
                               --> bsdiff, which is timed only

Ours is the controller's own process; the blob is rebuilt by the agent's own child, and compared. A
time is the processor's, of the whole process. Run alone as `python -m tests.bench.deltas`.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.deltas import as_blob
from wherry.blobs import describe
from wherry_agent.rebuild import rebuild
from wherry_controller.services.delta_maker import ChildMaker

# The keys of the report, by what stands in the names of the files.
PAIRS = {
    "int8": ("sgd", "int8"),
    "fp16": ("sgd", "fp16"),
    "fp32": ("sgd", "fp32"),
    "head": ("head", "fp16"),
    "adamw_int8": ("adamw", "int8"),
    "adamw_fp16": ("adamw", "fp16"),
    "adamw_fp32": ("adamw", "fp32"),
}
TIMED = ("int8", "fp16", "fp32")
LEVEL = "-19"
LONG = "--long=27"  # The whole of each file is in the window.


@dataclass(frozen=True, slots=True)
class Figure:
    """Lengths in bytes, and how long ours took to make."""

    whole_bytes: int
    our_bytes: int
    made_s: float
    others: dict[str, int]

    @property
    def share(self) -> float:
        return self.our_bytes / self.whole_bytes

    @property
    def over_best_other(self) -> float:
        return self.our_bytes / min(self.others.values())


def measure() -> dict[str, float]:
    """Return the figures by their keys in the report; needs xdelta3, zstd and bsdiff."""
    with TemporaryDirectory(prefix="wherry-deltas-") as name:
        folder = Path(name)
        _tune(folder)
        figures = {key: _figure(folder, *pair) for key, pair in PAIRS.items()}
        for key, figure in figures.items():
            sys.stdout.write(_line(key, figure) + "\n")
        slower = [_bsdiff_s(folder, *PAIRS[key]) / figures[key].made_s for key in TIMED]
    shares = {key: figure.share for key, figure in figures.items()}
    worst = max(figure.over_best_other for figure in figures.values())
    return {**shares, "over_best_other": worst, "bsdiff_encode_over_ours": min(slower)}


def _tune(folder: Path) -> None:
    """Train the nets in a process of their own; what torch's export says is shown if it fails."""
    command = (sys.executable, "-m", "tests.bench.tuned", str(folder))
    tuned = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if tuned.returncode:
        sys.stderr.write(tuned.stderr)
        tuned.check_returncode()


def _figure(folder: Path, state: str, precision: str) -> Figure:
    base, blob = folder / f"base.{precision}.onnx", folder / f"{state}.{precision}.onnx"
    our_bytes, made_s = _ours(folder, base, blob)
    return Figure(blob.stat().st_size, our_bytes, made_s, _others(folder, base, blob))


def _ours(folder: Path, base: Path, blob: Path) -> tuple[int, float]:
    """Return the length of our delta and the time that it took; it must rebuild to the byte."""
    blobs = folder / "blobs"
    blobs.mkdir(exist_ok=True)
    old, new = as_blob(blobs, base.read_bytes()), as_blob(blobs, blob.read_bytes())
    delta, out = folder / "delta", folder / "out"
    began_s = _children_s()
    ChildMaker().make(old, new, delta)
    made_s = _children_s() - began_s
    fault = rebuild(describe(new.read_bytes()), old, delta, out)
    assert fault is None, fault
    assert out.read_bytes() == new.read_bytes()
    return delta.stat().st_size, made_s


def _others(folder: Path, base: Path, blob: Path) -> dict[str, int]:
    out = {name: folder / f"other.{name}" for name in ("zstd", "patch-from", "xdelta3")}
    size = str(max(base.stat().st_size, 1 << 20))
    patch = (LEVEL, LONG, f"--patch-from={base}")
    commands: dict[str, Sequence[str]] = {
        "zstd": ("zstd", "-qf", LEVEL, LONG, str(blob), "-o", str(out["zstd"])),
        "patch-from": ("zstd", "-qf", *patch, str(blob), "-o", str(out["patch-from"])),
        "xdelta3": (
            *("xdelta3", "-e", "-f", "-9", "-S", "lzma", "-B", size),
            *("-s", str(base), str(blob), str(out["xdelta3"])),
        ),
    }
    with ThreadPoolExecutor(2) as executor:
        list(executor.map(_run, commands.values()))
    return {name: path.stat().st_size for name, path in out.items()}


def _bsdiff_s(folder: Path, state: str, precision: str) -> float:
    base, blob = folder / f"base.{precision}.onnx", folder / f"{state}.{precision}.onnx"
    began_s = _children_s()
    _run(("bsdiff", str(base), str(blob), str(folder / "other.bsdiff")))
    return _children_s() - began_s


def _children_s() -> float:
    """Return the processor's time that children took which have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(command: Sequence[str]) -> None:
    assert shutil.which(command[0]), f"{command[0]} is missing: install Debian's {command[0]}"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _line(key: str, figure: Figure) -> str:
    others = ", ".join(
        f"{name} {size / figure.whole_bytes:.1%}" for name, size in figure.others.items()
    )
    return f"{key}: {figure.share:.2%} of the file in {figure.made_s:.1f} s ({others})"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(), indent=2) + "\n")
