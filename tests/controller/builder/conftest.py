"""One trained version and one build of it, shared by the builder's tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.controller.builder.versions import (
    REPOSITORY,
    Build,
    a_card,
    a_profile_named,
    run_build,
)

PROFILES = ("x86-onnx-fp32", "x86-onnx-int8", "x86-litert-int8")


@pytest.fixture(scope="session")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files of a version that was trained just now."""
    folder = tmp_path_factory.mktemp("version")
    command = [sys.executable, "-m", "tests.controller.builder.digits", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    return folder


@pytest.fixture(scope="session")
def build(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return the good version's build for three profiles."""
    output = tmp_path_factory.mktemp("build") / "output"
    return run_build(a_card(), version, output, [a_profile_named(name) for name in PROFILES])
