"""A podman of our own for the time of a block: images, containers, networks below one folder.

It needs no systemd: control groups are podman's, and who checks health runs the check.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.machines.images_base import podman_tried
from tests.machines.nspawn import say

FOLDER = Path("build/machines/images").absolute()
_CONTAINERS = """\
[containers]
default_ulimits = []
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_config_dir = "{folder}/networks"
"""
_STORAGE = """\
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""
_LEFT = (
    # Twice: one that others depend on, as for its processes, goes only after them.
    ("rm", "--all", "--force", "--time=0", "--ignore"),
    ("rm", "--all", "--force", "--time=0"),
    ("pod", "rm", "--all", "--force"),
    ("volume", "rm", "--all", "--force"),
    ("network", "prune", "--force"),
)


@contextmanager
def a_store() -> Iterator[Path]:
    """Have podman keep everything in a folder; end and delete all of it after the block."""
    with kept_store() as folder:
        try:
            yield folder
        finally:
            podman_tried("rmi", "--all", "--force")
            podman_tried("umount", "--all")
    shutil.rmtree(FOLDER, ignore_errors=True)


@contextmanager
def kept_store() -> Iterator[Path]:
    """Have podman keep everything in a folder; its images stay for the next time."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for variable, name, text in (
        ("CONTAINERS_CONF", "containers.conf", _CONTAINERS),
        ("CONTAINERS_STORAGE_CONF", "storage.conf", _STORAGE),
    ):
        (FOLDER / name).write_text(text.format(folder=FOLDER))
        os.environ[variable] = str(FOLDER / name)
    (FOLDER / "networks").mkdir(exist_ok=True)
    try:
        yield FOLDER
    finally:
        for words in _LEFT:
            done = podman_tried(*words)
            if done.returncode and "--ignore" not in words:
                say(f"podman {' '.join(words)}: {done.stderr.strip()[-200:]}")
