"""The agent in an ARM root as systemd runs it there: its unit's program, user and directories."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.machines.deb_roots import Root
from tests.machines.nspawn import Wrong, say, until
from wherry.names import Digest
from wherry_agent.client import Client, NotReachable, NotServing, RequestRefused

UNIT = "usr/lib/systemd/system/wherry-agent.service"
LOG = "tmp/agent.log"
NOTIFY, SOCKET = "run/notify", "run/wherry-agent/api.sock"
PATIENCE_S = 240.0
KIB = 1 << 10
LAST_WORDS = 4000
# Each line as systemd does it for the unit's words of the same meaning.
_AS_THE_UNIT = """\
user=$1 group=$2 place=$3 umask=$4
install -d -m 0755 -o "$user" -g "$group" "/run/$place"
umask "$umask"
export STATE_DIRECTORY="/var/lib/$place" RUNTIME_DIRECTORY="/run/$place" NOTIFY_SOCKET=/run/notify
shift 4
exec setpriv --reuid "$user" --regid "$group" --clear-groups --no-new-privs -- "$@" \
    >>/tmp/agent.log 2>&1
"""


@dataclass(slots=True)
class EmulatedAgent:
    """A running agent, when it was started, and how long it took until it said READY=1."""

    root: Root
    process: subprocess.Popen[bytes]
    begun_s: float
    ready_s: float = 0.0

    @property
    def pid(self) -> int:
        """Return this host's number of the agent's own process: unshare's shell's child."""
        (shell,) = children_of(self.process.pid)
        (agent,) = children_of(shell)
        return agent

    def wait_for_answer(self, bundle: Digest) -> float:
        """Wait until it serves a bundle; return how many seconds after its start."""
        until(lambda: self._serves(bundle), f"it does not serve {bundle[:12]}", PATIENCE_S)
        return time.monotonic() - self.begun_s

    def _serves(self, bundle: Digest) -> bool:
        with _opened(self.root.folder / SOCKET) as place, Client(place) as client:
            try:
                return client.metadata("default").get("versions") == [bundle]
            except (NotReachable, NotServing, RequestRefused):
                return False

    def memory_mib(self) -> list[float]:
        """Return what each process has in memory, QEMU and its translations included."""
        return [_resident_mib(pid) for pid in _family_of(self.pid)]

    def log(self) -> str:
        return (self.root.folder / LOG).read_text(errors="replace")


@contextmanager
def a_running_agent(root: Root) -> Iterator[EmulatedAgent]:
    """Run the agent until the end of the block; raise `Wrong` where it does not get ready.

    What it has logged is said where the block fails.
    """
    with _a_notify_socket(root) as told:
        begun_s = time.monotonic()
        process = subprocess.Popen(_command(root), env=root.environment)
        agent = EmulatedAgent(root, process, begun_s)
        try:
            until(lambda: _is_ready(agent, told), "the agent does not say READY=1", PATIENCE_S)
            agent.ready_s = time.monotonic() - begun_s
            yield agent
        except Exception:
            say(f"The agent's last words:\n{agent.log()[-LAST_WORDS:]}")
            raise
        finally:
            _end(agent)


def _command(root: Root) -> list[str]:
    unit = read_unit(root)
    words = [unit[name] for name in ("User", "Group", "RuntimeDirectory", "UMask")]
    return root.command("sh", "-ec", _AS_THE_UNIT, "-", *words, *unit["ExecStart"].split())


def read_unit(root: Root) -> dict[str, str]:
    """Return the settings of the package's unit."""
    lines = (root.folder / UNIT).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


@contextmanager
def _a_notify_socket(root: Root) -> Iterator[socket.socket]:
    """Bind what NOTIFY_SOCKET names."""
    place = root.folder / NOTIFY
    place.unlink(missing_ok=True)
    with _opened(place) as short, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(short))
        place.chmod(0o777)
        told.setblocking(False)
        try:
            yield told
        finally:
            place.unlink(missing_ok=True)


@contextmanager
def _opened(place: Path) -> Iterator[Path]:
    """Return a short name of a socket by its folder's number: unix(7) allows 107 bytes."""
    folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{folder}/{place.name}")
    finally:
        os.close(folder)


def _is_ready(agent: EmulatedAgent, told: socket.socket) -> bool:
    if agent.process.poll() is not None:
        raise Wrong(f"the agent ended with {agent.process.returncode}")
    try:
        return b"READY=1" in told.recv(4096)
    except BlockingIOError:
        return False


def _end(agent: EmulatedAgent) -> None:
    """End it in order, or by force; with the first process of its namespace all others end."""
    try:
        if agent.process.poll() is None:
            os.kill(agent.pid, signal.SIGTERM)
            agent.process.wait(PATIENCE_S / 4)
    except (subprocess.TimeoutExpired, ValueError):
        pass
    finally:
        agent.process.kill()
        agent.process.wait()


def _family_of(pid: int) -> list[int]:
    return [pid, *(each for child in children_of(pid) for each in _family_of(child))]


def children_of(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(each) for thread in threads for each in (thread / "children").read_text().split()]


def _resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS:")]
    return int(line.split()[1]) / KIB
