"""What calibration needs at most: `python -m tests.bench.calibrate VERSION DATA CACHE RUNTIME TO`.

It does what a build's processes do, with the builder's own code: the rows of DATA are read, checked
and kept, and the ranges of the float export in CACHE are measured over them, one row at a time. The
peak is that of this process, in which nothing else is done.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import msgspec

from tests.bench import nets
from wherry.blobs import digest_of
from wherry.names import parse_profile_name
from wherry.profile import Arch, Precision, Profile, Runtime
from wherry_controller.builder.data.read import read_datasets
from wherry_controller.builder.running.runner import memory_kib
from wherry_controller.builder.running.runners import Runners
from wherry_controller.builder.stages import Task
from wherry_controller.builder.workshop import calibration_rows, open_workshop
from wherry_controller.core.build import BuildRequest
from wherry_controller.core.card import Card
from wherry_controller.core.recipe import candidates


class Peak(msgspec.Struct, frozen=True):
    peak_bytes: int


def main(folder: Path, data: str, cache: Path, runtime: Runtime, to: Path) -> None:
    card = nets.a_card(nets.LARGE, calibration=data)
    version = _version(cache, to)
    read_datasets(card, folder, version / "data")
    profile = _profile(runtime)
    with Runners(to / "runtimes") as runners:
        shop = open_workshop(Task(_request(card, profile, to), profile, version), runners)
        recipe = candidates(profile, shop.passes.graph_of(shop.export))[1]
        assert recipe.is_calibrated
        shop.passes.calibrate(shop.export, recipe, calibration_rows(shop), to / "ranges.json")
    # Not getrusage's: that one begins with what the parent had.
    peak = Peak(memory_kib("VmHWM") * 1024)
    sys.stdout.write(msgspec.json.encode(peak).decode() + "\n")


def _version(cache: Path, to: Path) -> Path:
    """Return a copy of what a build kept of its version, without its rows."""
    (made,) = (one for one in (cache / "version").iterdir() if one.is_dir())
    copy = to / "version"
    shutil.copytree(made, copy, ignore=shutil.ignore_patterns("data"))
    return copy


def _profile(runtime: Runtime) -> Profile:
    return Profile(
        name=parse_profile_name("calibrating"),
        arch=Arch.X86_64,
        runtime=runtime,
        runtime_floor="1",
        runtime_below="3",
        precisions=(Precision.FP32, Precision.INT8),
    )


def _request(card: Card, profile: Profile, to: Path) -> BuildRequest:
    return BuildRequest(
        card=card,
        folder=str(to),
        output=str(to),
        cache=str(to / "cache"),
        runtimes=str(to / "runtimes"),
        lineage=digest_of(b""),
        profiles=(profile,),
    )


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        sys.argv[2],
        Path(sys.argv[3]),
        Runtime(sys.argv[4]),
        Path(sys.argv[5]),
    )
