"""Debian roots to install packages in, without a network, and what is run in them.

A program in a root has namespaces of its own, so that its mounts, its processes and its network
end with it.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SUITES = {"bookworm": "Debian 12", "trixie": "Debian 13"}
MIRROR = "http://deb.debian.org/debian"
# What the packages depend on, so that they install without a network.
NEEDED = "python3,adduser,init-system-helpers,libgcc-s1,libstdc++6"
LONGEST_S = 300
# deb-systemd-helper leaves a file like the last where it is cut off.
OWN = (
    *("var/lib/dpkg/", "var/log/", "var/cache/", "tmp/", "run/", "dev/", "proc/"),
    "var/lib/systemd/deb-systemd-helper-enabled/.state",
)
ALONE = ("--mount", "--pid", "--net")
_ENTER = (
    "mount -t tmpfs tmpfs $0/dev/shm && mount -t tmpfs tmpfs $0/run && ip link set lo up && "
    'exec chroot "$@"'
)


@dataclass(frozen=True, slots=True)
class Root:
    """A Debian that nothing has booted.

    A program in it has `namespaces` of its own and is entered by a line of shell, with `variables`
    beside the usual ones.
    """

    folder: Path
    namespaces: tuple[str, ...] = ALONE
    entering: str = _ENTER
    variables: Mapping[str, str] = field(default_factory=dict)
    longest_s: float = LONGEST_S

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND": "noninteractive",
            "LC_ALL": "C.UTF-8",
            "HOME": "/root",
            **self.variables,
        }

    def command(self, *words: str) -> list[str]:
        """Return how words are run in it, apart from everything else on this machine."""
        apart = ["unshare", *self.namespaces, "--fork", "--kill-child"]
        proc = f"--mount-proc={self.folder}/proc"
        where = str(self.folder)
        return [*apart, proc, "sh", "-c", self.entering, where, where, *words]

    def said(self, *words: str) -> str:
        """Return what a program printed; raise `Failed` where it did."""
        done = self.tried(*words)
        if done.returncode != 0:
            raise Failed(words, done.stdout)
        return done.stdout

    def tried(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=self.longest_s,
            check=False,
            env=self.environment,
        )

    def files(self) -> set[str]:
        """Return every path in it, without what dpkg and the accounts keep for themselves."""
        places = (str(place.relative_to(self.folder)) for place in self.folder.rglob("*"))
        return {place for place in places if not place.startswith(OWN)}


class Failed(Exception):
    """A program that ended badly in a root."""

    def __init__(self, words: Sequence[str], said: str) -> None:
        super().__init__(words, said)
        self.words, self.said = words, said

    def __str__(self) -> str:
        return f"`{' '.join(self.words)[:120]}` failed:\n{self.said[-2000:]}"


@contextmanager
def a_root(suite: str, scratch: Path) -> Iterator[Root]:
    """Make a Debian with what the packages depend on, and delete it at the end of the block."""
    folder = scratch / f"root-{suite}"
    shutil.rmtree(folder, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={NEEDED}"]
        subprocess.run([*command, suite, str(folder), MIRROR], check=True, timeout=LONGEST_S)
        yield Root(folder.resolve())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
