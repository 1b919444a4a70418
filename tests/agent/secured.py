"""A mosquitto with TLS for the agent's tests, which run without the controller."""

from __future__ import annotations

import getpass
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.brokers import free_port, wait_for_port
from tests.certificates import Certificate, TestAuthority, an_authority
from wherry.files import make_folder
from wherry_agent.settings import CA_FILE, CERTIFICATE_FILE, IDENTITY, KEY_FILE

_CONFIG = """\
user {user}
listener {port} 127.0.0.1
allow_anonymous true
persistence false
cafile {ca}
certfile {certificate}
keyfile {key}
require_certificate true
use_identity_as_username true
use_username_as_clientid true
"""


@dataclass(frozen=True)
class Secured:
    """A broker that shows a certificate of `authority` and asks for one."""

    authority: TestAuthority
    port: int

    def home_of(self, folder: Path, name: str = "one") -> Path:
        """Make a device's home, as far as TLS needs it."""
        return a_home(folder, self.authority, self.authority.issue_client(name))


def a_home(folder: Path, authority: TestAuthority, shown: Certificate) -> Path:
    make_folder(folder / IDENTITY)
    (folder / CA_FILE).write_bytes(authority.certificate)
    (folder / CERTIFICATE_FILE).write_bytes(shown.certificate)
    (folder / KEY_FILE).write_bytes(shown.key)
    return folder


@contextmanager
def a_secured_mosquitto(
    folder: Path, authority: TestAuthority | None = None, server: Certificate | None = None
) -> Iterator[Secured]:
    """Run mosquitto with TLS for the length of the block."""
    issuer = authority or an_authority()
    certificate, key = (server or issuer.issue_server()).write(folder, "server")
    ca, port = folder / "ca.pem", free_port()
    ca.write_bytes(issuer.certificate)
    config = folder / "mosquitto.conf"
    config.write_text(
        _CONFIG.format(user=getpass.getuser(), port=port, ca=ca, certificate=certificate, key=key)
    )
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/bin")
    assert program, "the tests need mosquitto: apt-get install mosquitto"
    process = subprocess.Popen(
        [program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for_port(port)
        yield Secured(issuer, port)
    finally:
        process.kill()
        process.wait()
