"""The embedded broker: iotcore as a child process on loopback, for demos and first steps.

It keeps nothing over a restart and checks no certificate, so it listens on 127.0.0.1 only. What
it prints goes into a log file. The child ends with this process, since it reads a pipe from it.
"""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
from pathlib import Path

from wherry.errors import Unavailable, Unsuitable
from wherry.files import make_folder, write_whole

HOST = "127.0.0.1"
LARGEST_PAYLOAD_BYTES = 2 << 20
START_S = 15.0
POLL_S = 0.02

_CONFIG = """\
id = 0
[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "wherry"
listen = "{host}:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = {payload}
max_inflight_count = 100
dynamic_filters = true
"""
_CHILD = """\
import os, sys, threading
from iotcore import IotCoreBroker
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
IotCoreBroker(config_path=sys.argv[1]).run_forever()
"""


class NoEmbeddedBroker(Unsuitable):
    """The package that holds the embedded broker is not installed."""

    def __str__(self) -> str:
        return (
            "the embedded broker is not installed: install wherry-controller[embedded], "
            "or name a broker under [broker] in wherry.toml."
        )


class BrokerDidNotStart(Unavailable):
    """The embedded broker does not take connections."""

    def __init__(self, port: int, log: Path) -> None:
        super().__init__(port, log)
        self.port, self.log = port, log

    def __str__(self) -> str:
        return f"the embedded broker does not listen on port {self.port}: see {self.log}."


class PortTaken(Unavailable):
    """Something else listens where the embedded broker should."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.port = port

    def __str__(self) -> str:
        return f"port {self.port} is in use: set broker.embedded_port in wherry.toml to a free one."


class EmbeddedBroker:
    """A running broker; `stop` ends it and loses what it retains."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self.port = port

    def stop(self) -> None:
        """End the broker and wait until its port is free."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


def start_broker(folder: Path, port: int) -> EmbeddedBroker:
    """Start the broker on a port of loopback and return it once it takes connections.

    Its configuration and its log stand in `folder`. Raises `NoEmbeddedBroker`, `PortTaken` and
    `BrokerDidNotStart`.
    """
    if importlib.util.find_spec("iotcore") is None:
        raise NoEmbeddedBroker
    if _takes_connections(port):
        raise PortTaken(port)
    config, log = make_folder(folder) / "broker.toml", folder / "broker.log"
    text = _CONFIG.format(host=HOST, port=port, payload=LARGEST_PAYLOAD_BYTES)
    write_whole(config, text.encode())
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(config)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    broker = EmbeddedBroker(process, port)
    deadline = time.monotonic() + START_S
    while not _takes_connections(port):
        if process.poll() is not None or time.monotonic() > deadline:
            broker.stop()
            raise BrokerDidNotStart(port, log)
        time.sleep(POLL_S)
    return broker


def _takes_connections(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1.0).close()
    except OSError:
        return False
    return True
