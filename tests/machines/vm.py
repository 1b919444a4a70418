"""A virtual machine that is emulated, never accelerated, and killed as a power cut kills a device.

Its disks are `power_disk`'s, its console is a file that is read while it grows, and a port of
loopback leads to the local API of the agent in it, another to what upgrades the agent's package.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Thread

from tests.brokers import free_port
from tests.machines.power_disk import Disk, serving
from tests.machines.vm_image import ADDRESS, INITRD, KERNEL, PORT, ROOT_IMAGE, UPGRADE_PORT

MEMORY_MIB = 512
CPU = "Nehalem,+rdrand"  # Wider vectors are slow to emulate.
LOOK_S, ASK_S = 0.05, 0.5
# Without random addresses what was translated for one process serves the next one too.
_APPEND = "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on norandmaps nokaslr"
_OPTIONS = (
    *("-accel", "tcg", "-cpu", CPU, "-m", str(MEMORY_MIB), "-smp", "1", "-no-reboot"),
    *("-nodefaults", "-no-user-config", "-display", "none"),
    *("-kernel", str(KERNEL), "-initrd", str(INITRD)),
)
_FIXED_ROOT = (
    *("-drive", f"if=none,id=root,format=raw,readonly=on,file={ROOT_IMAGE}"),
    *("-device", "virtio-blk-pci,drive=root"),
)


class Died(Exception):
    """A machine that ended by itself, or never came to what was waited for."""


@dataclass(slots=True)
class Machine:
    """A machine that runs, what its console has said, and since when."""

    process: subprocess.Popen[bytes]
    console: Path
    port: int
    upgrade_port: int
    servers: Sequence[Thread]
    began_s: float

    def lines(self) -> list[str]:
        return self.console.read_text(errors="replace").splitlines()

    def count(self, event: str) -> int:
        """Return how often the agent has logged an event since the machine began."""
        mark = f'"event": "{event}"'
        return sum(mark in line for line in self.lines())

    def until_logged(self, event: str, patience_s: float, *, times: int = 1) -> None:
        """Wait until the agent has logged an event so many times since the machine began."""
        self.until(lambda: self.count(event) >= times, event, patience_s)

    def until(self, look: Callable[[], bool], what: str, patience_s: float) -> float:
        """Wait until there is what is looked for; return the seconds since the machine began."""
        deadline = time.monotonic() + patience_s
        while not look():
            if self.process.poll() is not None:
                raise Died(f"the machine ended while {what} was waited for")
            if time.monotonic() > deadline:
                raise Died(f"no {what} within {patience_s:g} s")
            time.sleep(LOOK_S)
        return time.monotonic() - self.began_s

    def held_up_s(self) -> float:
        """Return how long it has waited for a core: its busiest thread, and who serves its disks.

        That is for others on this host, not by itself.
        """
        threads = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        busiest = max(threads, key=lambda one: _ran_and_waited(one)[0])
        served = (Path(f"/proc/self/task/{each.native_id}/schedstat") for each in self.servers)
        return sum(_ran_and_waited(each)[1] for each in (busiest, *served)) / 1e9

    def until_answered(self, patience_s: float) -> tuple[float, list[float]]:
        """Return the seconds until the first answer, and what it is.

        The time that the machine had no core does not count. Nobody asks before the agent woke:
        asking takes time from a machine that boots.
        """
        self.until_logged("agent.woke", patience_s)
        deadline = time.monotonic() + patience_s
        while (logits := self.infer()) is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Died(f"no answer within {patience_s:g} s")
            time.sleep(ASK_S)
        return time.monotonic() - self.began_s - self.held_up_s(), logits

    def infer(self, value: float = 0.0) -> list[float] | None:
        """Return what the model makes of an image of that value; None where nobody answers."""
        tensor = {"name": "image", "datatype": "FP32", "shape": [1, 2, 2], "data": [value] * 4}
        body = json.dumps({"inputs": [tensor]})
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(
                "POST",
                "/v2/models/default/infer",
                body,
                {"content-type": "application/json"},
            )
            response = connection.getresponse()
            said = response.read()
            return json.loads(said)["outputs"][0]["data"] if response.status == 200 else None
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()

    def begin_upgrade(self) -> None:
        """Have the package upgraded, where the root has one."""
        socket.create_connection(("127.0.0.1", self.upgrade_port)).close()

    def cut(self) -> None:
        """Take the power away."""
        self.process.kill()
        self.process.wait()


def end_in_order() -> None:
    """Have SIGTERM end this program as Ctrl-C does: what it started is ended with it."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))


@contextmanager
def a_machine(
    folder: Path, disk: Disk, *words: str, root: Disk | None = None, later_s: float = 0.0
) -> Iterator[Machine]:
    """Boot a machine on a disk; cut it at the end.

    `words` go to the kernel's command line; its clock is `later_s` ahead. With a `root` the agent
    runs in that, which is written to, otherwise in one that nothing can be written to.
    """
    program = shutil.which("qemu-system-x86_64")
    assert program, "power cuts need a machine: apt-get install qemu-system-x86"
    console, port, upgrade_port = folder / "console.log", free_port(), free_port()
    console.write_bytes(b"")
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(disk, folder / "disk.sock"))]
        drives = [*_FIXED_ROOT, *_lossy("data", folder / "disk.sock")]
        if root is not None:
            servers.append(stack.enter_context(serving(root, folder / "root.sock")))
            drives += _lossy("package", folder / "root.sock")
            words = (*words, "package")
        clock = time.strftime("base=%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + later_s))
        command = [program, *_OPTIONS, "-serial", f"file:{console}", *drives, "-rtc", clock]
        command += ["-netdev", _network({port: PORT, upgrade_port: UPGRADE_PORT})]
        command += ["-device", "virtio-net-pci,netdev=net", "-append", " ".join([_APPEND, *words])]
        errors = stack.enter_context((folder / "qemu.log").open("ab"))
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors)
        machine = Machine(process, console, port, upgrade_port, servers, time.monotonic())
        stack.callback(machine.cut)
        yield machine


def _ran_and_waited(schedstat: Path) -> tuple[int, int]:
    """Return for how many nanoseconds a thread ran, and waited for a core."""
    ran, waited, _ = map(int, schedstat.read_text().split())
    return ran, waited


def _lossy(name: str, place: Path) -> list[str]:
    served = f"driver=nbd,node-name={name},server.type=unix,server.path={place}"
    return ["-blockdev", served, "-device", f"virtio-blk-pci,drive={name},write-cache=on"]


def _network(ports: Mapping[int, int]) -> str:
    forwards = (f"hostfwd=tcp:127.0.0.1:{ours}-{ADDRESS}:{its}" for ours, its in ports.items())
    return ",".join(["user,id=net,restrict=off", *forwards])
