"""Log records as entries of systemd's journal, each with its fields, by the journal's own protocol.

    journalctl --unit wherry-agent WHERRY_EVENT=bundle.flipped --output json

An entry has MESSAGE (the event and its fields as text, and a traceback), PRIORITY (syslog's),
SYSLOG_IDENTIFIER, WHERRY_EVENT, WHERRY_LOGGER, and WHERRY_NAME for each field `name`. Native
protocol: https://systemd.io/JOURNAL_NATIVE_PROTOCOL; names: systemd.journal-fields(7).
"""

from __future__ import annotations

import array
import errno
import fcntl
import logging
import os
import re
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from wherry.logs import fields_of, text_of

ADDRESS = Path("/run/systemd/journal/socket")
LONGEST_NAME = 64
PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
DEBUG = 7
STANDARD_ERROR = 2
PREFIX = "WHERRY_"
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_TOO_LONG = (errno.EMSGSIZE, errno.ENOBUFS)
_FORBIDDEN = re.compile("[^A-Z0-9_]")


def is_listening(environment: Mapping[str, str] = os.environ) -> bool:
    """Say whether standard error goes to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    seen = os.fstat(STANDARD_ERROR)
    return environment.get("JOURNAL_STREAM") == f"{seen.st_dev}:{seen.st_ino}"


class JournalHandler(logging.Handler):
    """Sends each record to the journal; what the journal does not take goes to standard error."""

    def __init__(self, identifier: str, address: Path = ADDRESS) -> None:
        super().__init__()
        self._identifier, self._address = identifier, address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _send(self._socket, entry_of(record, self._identifier), self._address)
        except OSError:
            sys.stderr.write(text_of(record) + "\n")

    def close(self) -> None:
        self._socket.close()
        super().close()


def entry_of(record: logging.LogRecord, identifier: str) -> bytes:
    """Return an entry as the journal reads it."""
    return b"".join(_line(name, value) for name, value in _entry(record, identifier))


def _entry(record: logging.LogRecord, identifier: str) -> Iterable[tuple[str, str]]:
    text = text_of(record)
    if record.exc_info:
        text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
    yield "MESSAGE", text
    yield "PRIORITY", str(_priority_of(record.levelno))
    yield "SYSLOG_IDENTIFIER", identifier
    yield PREFIX + "EVENT", record.getMessage()
    yield PREFIX + "LOGGER", record.name
    yield from _given(record)


def _given(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    return ((_name_of(name), str(value)) for name, value in fields_of(record))


def _name_of(field: str) -> str:
    return (PREFIX + _FORBIDDEN.sub("_", field.upper()))[:LONGEST_NAME]


def _priority_of(level: int) -> int:
    """Return syslog's number for a level: the lower, the worse."""
    return next((number for least, number in PRIORITIES if level >= least), DEBUG)


def _line(name: str, value: str) -> bytes:
    """Return a field; with its length before it, since a value may hold line breaks."""
    data = value.encode(errors="backslashreplace")
    return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"


def _send(one: socket.socket, entry: bytes, address: Path) -> None:
    try:
        one.sendto(entry, str(address))
    except OSError as error:
        if error.errno not in _TOO_LONG:
            raise
        _send_by_file(one, entry, address)


def _send_by_file(one: socket.socket, entry: bytes, address: Path) -> None:
    """Pass an entry that no datagram holds in a sealed file of memory."""
    file = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(file, "wb", closefd=False) as stream:
            stream.write(entry)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
        rights = array.array("i", [file])
        one.sendmsg([b""], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], 0, str(address))
    finally:
        os.close(file)
