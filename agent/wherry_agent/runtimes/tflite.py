"""TensorFlow Lite behind the Protocol: the interpreter of tflite-runtime, for ARMv7."""

from __future__ import annotations

from importlib.metadata import version as version_of
from pathlib import Path

from tflite_runtime.interpreter import Interpreter

from wherry.manifest import Manifest
from wherry_agent.runtimes.lite import LiteModel, load_with


def version() -> str:
    return version_of("tflite-runtime")


def load(path: Path, manifest: Manifest, kept_in: Path | None = None) -> LiteModel:
    """Load the model at `path`; raise `BadModel` where TensorFlow Lite refuses it."""
    return load_with(Interpreter, path, manifest)
