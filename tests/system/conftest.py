"""What the system tests share: a site of their own, and the files of a version just trained."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.sites import REPOSITORY, Site, a_site
from tests.system.trained import Trained, operate


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with a_site(tmp_path) as site:
        yield site


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files of a version that was trained just now."""
    folder = tmp_path_factory.mktemp("version")
    command = [sys.executable, "-m", "tests.controller.builder.digits", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    return folder


@pytest.fixture(scope="session")
def trained(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """Return a site whose one device serves a version that was trained just now."""
    with a_site(tmp_path_factory.mktemp("main")) as site:
        yield operate(site, files)
