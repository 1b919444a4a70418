"""What every stage needs of one profile: its version, its passes, its runners, its model files."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from msgspec.structs import replace

from wherry.profile import Profile, Runtime
from wherry_controller.builder.cache import Cache, digest_of_file, struct_facts
from wherry_controller.builder.data.rows import Tensors
from wherry_controller.builder.faults import refuse
from wherry_controller.builder.running.place import Place, places_of
from wherry_controller.builder.running.runner import inward
from wherry_controller.builder.running.runners import Runners
from wherry_controller.builder.running.server import RunFailed
from wherry_controller.builder.stages import Task
from wherry_controller.builder.variant import Variant
from wherry_controller.builder.version import Loaded, open_version
from wherry_controller.core.choice import (
    Goals,
    goals_of,
)
from wherry_controller.core.fault import BuildReason, Fault
from wherry_controller.core.recipe import Recipe, baseline


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every trial of one profile needs."""

    task: Task
    loaded: Loaded
    cache: Cache
    runners: Runners
    passes: ModuleType
    export: Path
    export_digest: str
    goals: Goals

    @property
    def profile(self) -> Profile:
        return self.task.profile

    @property
    def place(self) -> Place:
        """Where the profile's variants are evaluated."""
        return places_of(self.profile).evaluated


def open_workshop(task: Task, runners: Runners) -> Workshop:
    request, profile = task.request, task.profile
    loaded = open_version(task.version, request.card)
    passes = passes_for(profile.runtime)
    export = loaded.export(profile.runtime)
    return Workshop(
        task=task,
        loaded=loaded,
        cache=Cache(Path(request.cache)),
        runners=runners,
        passes=passes,
        export=export,
        export_digest=digest_of_file(export),
        goals=goals_of(request.card, profile),
    )


def passes_for(runtime: Runtime) -> ModuleType:
    """Return the passes for a runtime; each kind loads libraries that the other has no use for."""
    name = "onnx" if runtime is Runtime.ONNXRUNTIME else "litert"
    return importlib.import_module(f"wherry_controller.builder.passes.{name}")


def variant_of(shop: Workshop, file: Path) -> Variant:
    """Return a model file as a variant of the version."""
    signature = shop.task.request.card.signature
    inputs, outputs, static_batch = shop.passes.bindings_of(file, signature)
    return Variant(file, signature, inputs, outputs, static_batch)


def file_of(shop: Workshop, recipe: Recipe) -> Path:
    """Return the model file that the recipe makes, made now if it is not known."""

    def make(folder: Path) -> None:
        to = folder / shop.export.name
        if recipe == baseline(shop.profile):
            shop.passes.finish_float(shop.export, recipe, to)
        else:
            ranges = ranges_of(shop, recipe) if recipe.is_calibrated else None
            shop.passes.make(shop.export, recipe, ranges, to)

    facts = (shop.export_digest, struct_facts(recipe))
    return shop.cache.made("model", facts, make) / shop.export.name


def fault_of(error: RunFailed) -> Fault:
    """Return the fault of a variant that its runtime does not run."""
    return Fault(BuildReason.RUN_FAILED, f"the runtime fails with it ({error.problem})")


def ranges_of(shop: Workshop, recipe: Recipe) -> Path:
    """Return the file with the ranges of the export's tensors, measured on calibration rows."""
    if shop.loaded.calibration is None:
        refuse(BuildReason.CALIBRATION_MISSING, "static int8 needs calibration data")
    # One look at the rows serves every way to take ranges from them.
    facts = (shop.export_digest, recipe.max_opset)

    def make(folder: Path) -> None:
        whole = replace(recipe, kept_float=())
        shop.passes.calibrate(shop.export, whole, calibration_rows(shop), folder / "ranges.json")

    return shop.cache.made("ranges", facts, make) / "ranges.json"


def calibration_rows(shop: Workshop) -> Iterator[Tensors]:
    """Yield calibration rows one by one, by the export's own input names."""
    rows = shop.loaded.calibration
    assert rows is not None
    variant = variant_of(shop, shop.export)
    for index in range(len(rows)):
        row = rows.part(slice(index, index + 1))
        yield {
            binding.runtime_name: inward(binding, row[binding.name]) for binding in variant.inputs
        }


@contextmanager
def scratch(shop: Workshop) -> Iterator[Path]:
    """Give a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=shop.task.request.output, prefix=".scratch-") as folder:
        yield Path(folder)
