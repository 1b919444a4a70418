"""The folder that mosquitto runs from: what the controller writes there, and how it is read again.

    FOLDER/mosquitto.conf, wherry-broker.service                       written here
    FOLDER/ca.pem, crl.pem, server.pem, server.key                     written here
    FOLDER/state/                                                      the broker's own

A running mosquitto reads certificates and revocations again on SIGHUP (measured with 2.0.11; live
connections go on), and its plugin keeps the rights in memory: its file is written only where the
broker does not run, else `services.rights` tells it what to change.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from wherry.errors import Unavailable
from wherry.files import make_folder, write_whole
from wherry.names import DeviceId
from wherry_controller.authority import (
    Authority,
    Crl,
    certificate_pem,
    issue_client,
    issue_server,
    private_pem,
)
from wherry_controller.core.mosquitto import (
    CA,
    CERTIFICATE,
    CONFIGURATION,
    KEY,
    PID,
    REVOKED,
    RIGHTS,
    STATE,
    UNIT,
    Layout,
    configuration,
    unit,
)
from wherry_controller.core.rights import CONTROLLER, document, rights_of

log = logging.getLogger(__name__)

PLUGIN = "mosquitto_dynamic_security.so"
PLUGIN_FOLDERS = ("/usr/lib", "/usr/local/lib", "/lib")
# In the folder of the controller's keys: what it shows to the broker.
OWN_CERTIFICATE, OWN_KEY = "controller.pem", "controller.key.pem"
SECRET = (KEY, OWN_KEY, RIGHTS)
RELOAD_S = 30.0


class NoPlugin(Unavailable):
    """Mosquitto's plugin for rights is not installed."""

    def __str__(self) -> str:
        return f"{PLUGIN} was not found: install mosquitto 2, or name it with --plugin."


class NotReloaded(Unavailable):
    """A broker that could not be told to read its files again."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(what, why)
        self.what, self.why = what, why

    def __str__(self) -> str:
        return f"{self.what} did not reload ({self.why}): send its mosquitto a SIGHUP."


@dataclass(frozen=True, slots=True)
class Written:
    """The files that changed, and whether the broker was running meanwhile."""

    changed: tuple[str, ...]
    was_running: bool


def write(
    layout: Layout,
    authority: Authority,
    revoked: bytes,
    *,
    names: Sequence[str],
    devices: Collection[DeviceId],
    now: float,
) -> Written:
    """Write what the broker is to run from; write nothing that stands there already.

    `revoked` is the list of revoked certificates. The server's certificate is kept while it names
    the same hosts and has a third of its time.
    """
    folder = Path(layout.folder)
    make_folder(folder)
    make_folder(folder / STATE, mode=0o700)
    was_running = is_running(folder)
    wanted = {
        CONFIGURATION: configuration(layout).encode(),
        UNIT: unit(layout).encode(),
        CA: certificate_pem(authority),
        REVOKED: revoked,
        **server_files(folder, authority, names, now),
    }
    if not was_running:
        wanted[RIGHTS] = document(rights_of(devices))
    changed = tuple(put(folder, wanted))
    give_to(layout.user, folder)
    return Written(changed, was_running)


def server_files(
    folder: Path, authority: Authority, names: Sequence[str], now: float
) -> dict[str, bytes]:
    """Return a new certificate for the broker with its key; nothing where it has a good one."""
    path = folder / CERTIFICATE
    if _is_good(path, authority, now) and _names_of(path) == set(names):
        return {}
    key = ec.generate_private_key(ec.SECP256R1())
    issued = issue_server(authority, names, key.public_key(), now=now)
    return {KEY: private_pem(key), CERTIFICATE: issued.pem.encode()}


def names_of(folder: Path) -> tuple[str, ...]:
    """Return the names that the broker's certificate has; none where there is no certificate."""
    path = folder / CERTIFICATE
    return tuple(sorted(_names_of(path))) if path.exists() else ()


def controllers_files(folder: Path, authority: Authority, now: float) -> dict[str, bytes]:
    """Return a new certificate for the controller with its key; nothing where it has a good one."""
    if _is_good(folder / OWN_CERTIFICATE, authority, now):
        return {}
    key = ec.generate_private_key(ec.SECP256R1())
    issued = issue_client(authority, CONTROLLER, key.public_key(), now=now)
    return {OWN_KEY: private_pem(key), OWN_CERTIFICATE: issued.pem.encode()}


def reload(how: str) -> None:
    """Have the broker read its files again: `how` is its pid file, or its systemd service.

    Raises `NotReloaded`.
    """
    try:
        if os.sep in how:
            os.kill(int(Path(how).read_text()), signal.SIGHUP)
        else:
            command = ["systemctl", "reload", how]
            subprocess.run(command, check=True, capture_output=True, timeout=RELOAD_S)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise NotReloaded(how, str(error)) from error


def is_running(folder: Path) -> bool:
    """Say whether a mosquitto runs from `folder`, by the pid file that it keeps."""
    try:
        pid = int((folder / PID).read_text())
        return Path(f"/proc/{pid}/comm").read_text().strip() == "mosquitto"
    except (OSError, ValueError):
        return False


def find_plugin() -> Path:
    """Return where mosquitto's plugin for rights is installed; raise `NoPlugin`."""
    for folder in map(Path, PLUGIN_FOLDERS):
        for found in sorted([*folder.glob(PLUGIN), *folder.glob(f"*/{PLUGIN}")]):
            return found
    raise NoPlugin


def put(folder: Path, files: Mapping[str, bytes]) -> Iterator[str]:
    """Write the files that differ; yield their names."""
    for name, data in files.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != data:
            write_whole(path, data, mode=0o600 if name in SECRET else 0o644)
            yield name


def _is_good(path: Path, authority: Authority, now: float) -> bool:
    """Say whether a certificate is this authority's and has a third of its time left."""
    try:
        known = x509.load_pem_x509_certificate(path.read_bytes())
        known.verify_directly_issued_by(authority.certificate)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return False
    begins, ends = known.not_valid_before_utc, known.not_valid_after_utc
    return ends - datetime.fromtimestamp(now, UTC) > (ends - begins) / 3


def _names_of(path: Path) -> set[str]:
    known = x509.load_pem_x509_certificate(path.read_bytes())
    extension = known.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    hosts = extension.value.get_values_for_type(x509.DNSName)
    addresses = extension.value.get_values_for_type(x509.IPAddress)
    return {*hosts, *map(str, addresses)}


def give_to(user: str, folder: Path) -> None:
    """Let the broker's user have what it writes, and its key, where this process may decide so."""
    if os.geteuid() == 0:
        for path in _own_files(folder):
            shutil.chown(path, user)


def _own_files(folder: Path) -> Iterable[Path]:
    return (folder / KEY, folder / STATE, *(folder / STATE).iterdir())


class Upkeep:
    """Keeps fresh what a running broker reads: revocations, and both ends' certificates."""

    def __init__(self, folder: Path, keys: Path, authority: Authority, *, how: str | None) -> None:
        """`how` is what `reload` takes; None: the pid file that the broker keeps in `folder`."""
        self._folder = folder
        self._keys = keys
        self._authority = authority
        self._how = how or str(folder / PID)

    def hear(self, revoked: Crl) -> None:
        """Have the broker refuse what a new list names."""
        if self._put({REVOKED: revoked.pem}):
            self._reload()

    def tick(self, now: float) -> None:
        """Renew certificates of which less than a third of their time is left."""
        list(put(self._keys, controllers_files(self._keys, self._authority, now)))
        if names := names_of(self._folder):
            files = server_files(self._folder, self._authority, names, now)
            if files and self._put(files):
                self._reload()

    def _put(self, files: Mapping[str, bytes]) -> bool:
        """Write files of the broker; say whether it is one of ours, which may be told."""
        if not (self._folder / CONFIGURATION).exists():
            return False
        owner = (self._folder / STATE).stat()
        list(put(self._folder, files))
        if os.geteuid() == 0:
            os.chown(self._folder / KEY, owner.st_uid, owner.st_gid)
        return True

    def _reload(self) -> None:
        try:
            reload(self._how)
        except NotReloaded as error:
            log.error("broker.not_reloaded", extra={"problem": str(error)})
