"""A mosquitto that asks for certificates, on what `wherry broker config` writes, for tests."""

from __future__ import annotations

import getpass
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.brokers import free_port, wait_for_port
from tests.certificates import LOCALHOST, NOW, Certificate, TestAuthority
from tests.controller.visitors import a_visitor
from wherry.files import write_whole
from wherry.names import DeviceId
from wherry_controller.authority import make_authority
from wherry_controller.core.mosquitto import CONFIGURATION, PID, REVOKED, Layout
from wherry_controller.core.rights import CONTROLLER
from wherry_controller.mqtt import context_of
from wherry_controller.services import mosquitto


class Process:
    """A mosquitto on the folder that was written for it; its log is beside."""

    def __init__(self, folder: Path, ports: Sequence[int]) -> None:
        self.folder = folder
        self._ports = ports
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, patience_s: float = 10.0) -> None:
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/bin")
        assert program, "the tests need mosquitto: apt-get install mosquitto"
        with (self.folder / "mosquitto.log").open("ab") as log:
            command = [program, "-c", str(self.folder / CONFIGURATION)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        for port in self._ports:
            wait_for_port(port, patience_s)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
            self._process = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Guarded:
    """A broker with two listeners for devices that it knows; `folder` is the one it runs from."""

    def __init__(self, folder: Path, devices: Sequence[DeviceId]) -> None:
        self.folder = folder
        self.issuer = make_authority(NOW.timestamp() - 86_400)
        self.authority = TestAuthority(self.issuer.certificate, self.issuer.key)
        self.control_port, self.fetch_port = free_port(), free_port()
        self._devices = tuple(devices)
        self._revoked = self.authority.revoked()
        self._process = Process(folder, (self.control_port, self.fetch_port))

    @property
    def layout(self) -> Layout:
        return Layout(
            folder=str(self.folder),
            home=str(self.folder.parent),
            user=getpass.getuser(),
            plugin=str(mosquitto.find_plugin()),
            address="127.0.0.1",
            control_port=self.control_port,
            fetch_port=self.fetch_port,
            devices=100,
            budget_bytes=64 << 20,
        )

    def write(self, now: float = NOW.timestamp()) -> mosquitto.Written:
        return mosquitto.write(
            self.layout,
            self.issuer,
            self._revoked,
            names=LOCALHOST,
            devices=self._devices,
            now=now,
        )

    def add(self, device: DeviceId) -> None:
        """Let the next writing know one more device."""
        self._devices += (device,)

    def start(self, *, patience_s: float = 10.0) -> None:
        self._process.start(patience_s=patience_s)

    def reload(self) -> None:
        """Have it read its files again; return once it has."""
        with self.reloading():
            mosquitto.reload(str(self.folder / PID))

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Wait at the end of the block until it has read its files again."""
        said = len(self.log())
        yield
        deadline = time.monotonic() + 10.0
        while b"Reloading config." not in self.log()[said:]:
            assert time.monotonic() < deadline, "it did not reload"
            time.sleep(0.01)
        with a_visitor(self.control_port, self.controllers()):
            pass  # It is through with it once it lets somebody in.

    def stop(self) -> None:
        self._process.stop()

    def kill(self) -> None:
        self._process.kill()

    def revoke(self, *serials: int, number: int = 2) -> None:
        """Have the broker refuse certificates from now on."""
        revoked = self.authority.revoked(*serials, number=number)
        write_whole(self.folder / REVOKED, revoked)
        self.reload()

    def dialler(self, shown: Certificate, *, name: str = "dialler") -> ssl.SSLContext:
        """Return what shows a certificate to this broker."""
        authority = self.folder / "ca.pem"
        return context_of(authority, *shown.write(self.folder, name))

    def controllers(self) -> ssl.SSLContext:
        return self.dialler(self.authority.issue_client(CONTROLLER), name="controller")

    def log(self) -> bytes:
        return (self.folder / "mosquitto.log").read_bytes()


@contextmanager
def a_guarded_broker(folder: Path, *devices: DeviceId) -> Iterator[Guarded]:
    """Run mosquitto on a folder written for these devices, for the length of the block."""
    broker = Guarded(folder / "broker", devices)
    broker.write()
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()
