"""LiteRT behind the Protocol: the interpreter of ai-edge-litert."""

from __future__ import annotations

from importlib.metadata import version as version_of
from pathlib import Path

from ai_edge_litert.interpreter import Interpreter

from wherry.manifest import Manifest
from wherry_agent.runtimes.lite import LiteModel, load_with


def version() -> str:
    return version_of("ai-edge-litert")


def load(path: Path, manifest: Manifest, kept_in: Path | None = None) -> LiteModel:
    """Load the model at `path`; raise `BadModel` where LiteRT refuses it."""
    return load_with(Interpreter, path, manifest)
