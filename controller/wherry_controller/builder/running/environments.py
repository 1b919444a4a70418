"""The interpreter that has a place's runtime in its version: this one, or one made for it."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

from wherry.profile import Runtime, is_release_of
from wherry_controller.builder.faults import refuse
from wherry_controller.builder.running.place import Place
from wherry_controller.core.fault import BuildReason

DISTRIBUTIONS = {
    Runtime.ONNXRUNTIME: "onnxruntime",
    Runtime.LITERT: "ai-edge-litert",
    Runtime.TFLITE: "tflite-runtime",
}


def installed_version(runtime: Runtime) -> str | None:
    """Return the version of the runtime that this interpreter has, or None."""
    try:
        return importlib.metadata.version(DISTRIBUTIONS[runtime])
    except importlib.metadata.PackageNotFoundError:
        return None


def command_of(place: Place, runtimes: Path) -> tuple[str, ...]:
    """Return what starts Python at the place."""
    installed = installed_version(place.runtime)
    if installed is None or place.cpu or not is_release_of(installed, place.version):
        refuse(BuildReason.RUNTIME_MISSING, f"{place} is not there in {runtimes}")
    return (sys.executable,)
