"""A version's stage laid out by hand, so that what comes after it is tested without a build.

The net is one product of four numbers with four rows of weights; its answer is the largest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from onnx import helper

from tests.builders import a_digest, a_profile
from tests.controller.builder.judging.cards import a_card
from tests.controller.builder.running.nets import save
from wherry import codec
from wherry.files import make_folder, write_whole
from wherry.names import ProfileName
from wherry.profile import Profile, Runtime
from wherry.signature import BATCH, Datatype, Signature, Tensor
from wherry_controller.builder.data.rows import Array, write_rows
from wherry_controller.builder.running.environments import installed_version
from wherry_controller.builder.running.place import this_arch
from wherry_controller.builder.stages import Task
from wherry_controller.builder.version import FACTS, GOLDEN, ONNX, REFERENCE, VersionFacts
from wherry_controller.core.build import BLOBS, BuildRequest

WIDTH = 4
SIGNATURE = Signature(
    (Tensor("image", Datatype.FP32, (BATCH, WIDTH)),),
    (Tensor("scores", Datatype.FP32, (BATCH, WIDTH)),),
)
WEIGHTS = np.eye(WIDTH, dtype=np.float32) + np.float32(0.25)
ROWS = 40


def here(*, emulated_cpus: tuple[str, ...] = ()) -> Profile:
    """Return a profile of this machine on this interpreter's onnxruntime."""
    version = installed_version(Runtime.ONNXRUNTIME) or ""
    return replace(a_profile(arch=this_arch(), runtime_floor=version), emulated_cpus=emulated_cpus)


def a_net(file: Path, weights: Array = WEIGHTS) -> Path:
    node = helper.make_node("MatMul", ["image", "w"], ["scores"], name="product")
    sides: dict[str, list[int | str]] = {"image": [BATCH, WIDTH], "scores": [BATCH, WIDTH]}
    return save(
        file, [node], {"image": sides["image"]}, {"scores": sides["scores"]}, {"w": weights}
    )


def a_task(
    folder: Path,
    profile: Profile,
    *,
    golden: Array | None = None,
    previous: Mapping[ProfileName, str] | None = None,
) -> Task:
    """Lay out the version's folder below `folder`; return the profile's part of its build."""
    version, output = folder / "version", folder / "output"
    make_folder(output / BLOBS)
    images = np.random.default_rng(5).random((ROWS, WIDTH), np.float32)
    scores = images @ WEIGHTS
    for part, rows in (("search", ROWS - 10), ("final", ROWS)):
        labels = {"labels": np.argmax(scores[:rows], axis=1)}
        write_rows(version / "data" / part, {"image": images[:rows]}, labels)
        write_rows(version / REFERENCE / part, {"scores": scores[:rows]}, {})
    write_rows(version / GOLDEN, {"image": images[:8] if golden is None else golden}, {})
    write_whole(version / FACTS, codec.encode(VersionFacts(value=1.0)))
    a_net(version / ONNX)
    request = BuildRequest(
        card=a_card(signature=SIGNATURE),
        folder=str(folder),
        output=str(output),
        cache=str(folder / "cache"),
        runtimes=str(folder / "runtimes"),
        lineage=a_digest(),
        profiles=(profile,),
        previous=dict(previous or {}),
    )
    return Task(request, profile, version)
