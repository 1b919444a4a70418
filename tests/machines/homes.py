"""The home of an agent that has confirmed a bundle, put into a root as enrolment by root leaves it.

The agent serves its bundle from there without any broker.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec.structs import replace

from tests.bench.agent.lives import a_life
from tests.bench.agent.nets import a_bundle_of
from wherry_agent.settings import ApiSettings, read_settings, write_settings

HOME = "/var/lib/wherry-agent"
SOCKET = "/run/wherry-agent/api.sock"
NET = "tiny"


def give_home(root: Path) -> None:
    """Put a home with one confirmed bundle into a root; it belongs to root."""
    with TemporaryDirectory() as scratch:
        with a_life(Path(scratch) / "life", a_bundle_of(NET)) as life:
            pass
        target = root / HOME.lstrip("/")
        shutil.copytree(life.home, target, ignore=shutil.ignore_patterns("*.sock", "*.lock"))
    settings = read_settings(target)
    write_settings(target, replace(settings, api=ApiSettings(socket=SOCKET)))
