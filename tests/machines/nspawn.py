"""Debian in a folder of its own, booted with systemd by systemd-nspawn.

A root is unpacked from a tar that mmdebstrap made once, and is deleted after its block. A booted
one has a network of its own with loopback alone; commands are run in it by nsenter.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("build/machines").absolute()
PATIENCE_S = 60.0
PACKAGES = ("adduser", "ca-certificates", "dbus", "mosquitto", "python3", "sudo", "systemd-sysv")
PATH = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
}
# Nothing of it asks the host's systemd, which need not be running.
_NSPAWN = (
    *("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network"),
    # Its own filter is older than Landlock, which any machine with this kernel has.
    "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self",
    *("--console=pipe", "--boot", "--directory"),
)
_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")


class Wrong(Exception):
    """What was seen on a machine is not what shall be."""


class Unjudged(Exception):
    """What was seen on a machine says nothing, as this host is."""


@dataclass(frozen=True, slots=True)
class Tally:
    """How many checks saw what shall not be, and how many could not be judged."""

    wrong: int = 0
    unjudged: int = 0

    def plus(self, other: Tally) -> Tally:
        return Tally(self.wrong + other.wrong, self.unjudged + other.unjudged)


@dataclass(frozen=True, slots=True)
class Machine:
    """A root whose systemd runs, as process `init` of this host."""

    root: Path
    init: int

    def run(self, *words: str, text: str = "") -> str:
        """Return what a command of root's says; raise `Wrong` where it fails."""
        done = self.tried(*words, text=text)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise Wrong(f"`{' '.join(words)}` ended with {done.returncode}: {said}")
        return done.stdout.strip()

    def tried(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command of root's, whatever comes of it."""
        entering = ["nsenter", "--target", str(self.init), *_NAMESPACES, "--"]
        return subprocess.run(
            [*entering, *words],
            check=False,
            capture_output=True,
            text=True,
            input=text,
            env=PATH,
            timeout=2 * PATIENCE_S,
        )

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", "--property", name, unit)

    def place(self, path: str) -> Path:
        """Return where this host sees a file of the machine, one below /run too."""
        return Path(f"/proc/{self.init}/root") / path.lstrip("/")


@contextmanager
def a_root(name: str, release: str = "bookworm") -> Iterator[Path]:
    """Unpack Debian into a folder for the time of a block."""
    root = FOLDER / name
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    try:
        command = ["tar", "--extract", "--directory", str(root), "--file", str(_tar_of(release))]
        subprocess.run(command, check=True)
        # Empty, it is filled at each boot.
        (root / "etc/machine-id").write_text("")
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        yield root
    finally:
        shutil.rmtree(root)


@contextmanager
def booted(root: Path) -> Iterator[Machine]:
    """Boot a root; shut it down after the block."""
    with ExitStack() as stack:
        log = stack.enter_context((root.parent / f"{root.name}.log").open("wb"))
        quiet = subprocess.DEVNULL
        process = subprocess.Popen([*_NSPAWN, str(root)], stdin=quiet, stdout=log, stderr=log)
        stack.callback(_end, process)
        init = until(lambda: _child_of(process), "no systemd was started; see its log")
        machine = Machine(root, init)
        until(lambda: _is_up(machine), "it does not come up; see its log")
        yield machine


def until(look: Callable[[], int | bool], problem: str, patience_s: float = PATIENCE_S) -> int:
    """Return what `look` finds once it finds something; raise `Wrong` after a while."""
    deadline_s = time.monotonic() + patience_s
    while not (found := look()):
        if time.monotonic() > deadline_s:
            raise Wrong(f"{problem} (waited {patience_s:g} s)")
        time.sleep(0.02)
    return found


def say(text: str) -> None:
    """Tell the operator, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def check_all(checks: Sequence[Callable[[Machine], str]], machine: Machine) -> Tally:
    """Say what each check sees; return how many see what shall not be, or nothing of use."""
    wrong = unjudged = 0
    for check in checks:
        try:
            say(f"ok     {check(machine)}")
        except Unjudged as error:
            unjudged += 1
            say(f"?      {error}")
        except (Wrong, OSError, subprocess.SubprocessError) as error:
            wrong += 1
            say(f"WRONG  {check.__name__}: {error}")
    return Tally(wrong, unjudged)


def _is_up(machine: Machine) -> bool:
    said = machine.tried("systemctl", "is-system-running").stdout.strip()
    return said in ("running", "degraded")


def _tar_of(release: str) -> Path:
    """Return Debian as a tar, made the first time."""
    tar = FOLDER / f"{release}.tar"
    if not tar.exists():
        say(f"Making a root of Debian {release} (once)")
        part = tar.with_suffix(".part.tar")
        wanted = f"--include={','.join(PACKAGES)}"
        command = ["mmdebstrap", "--quiet", "--variant=minbase", wanted, release, str(part)]
        subprocess.run(command, check=True)
        part.rename(tar)
    return tar


def _child_of(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is not None:
        raise Wrong(f"systemd-nspawn ended with {process.returncode}; see its log")
    said = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = [int(each) for each in said if _is_init(int(each))]
    return found[0] if found else 0


def _is_init(pid: int) -> bool:
    """Say whether a child has become the machine's first process: its program is systemd."""
    return Path(f"/proc/{pid}/comm").read_text().strip() == "systemd"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()  # It then has its systemd shut down.
    try:
        process.wait(PATIENCE_S / 2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
