"""Whose the other end of a local connection is, as the kernel tells."""

from __future__ import annotations

import pwd
import socket
import struct
import sys
from pathlib import Path

from wherry.errors import Malformed

PROC_NET = Path("/proc/net")
_ESTABLISHED = "01"  # A socket in any other state may be nobody's any more, and is told as root's.
_CREDENTIALS = struct.Struct("=iII")  # pid, uid, gid: socket(7), SO_PEERCRED.


class UnknownUser(Malformed):
    """A user that the settings name and the system does not know."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"there is no user {self.name!r} here; correct `users`, or give a number."


def user_id_of(name: str) -> int:
    """Return the id of a user by name or number; raise `UnknownUser`."""
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError as error:
        raise UnknownUser(name) from error


def peer_of(connection: socket.socket, proc_net: Path = PROC_NET) -> int | None:
    """Return the user whose process connected; None where the kernel does not tell."""
    if connection.family == socket.AF_UNIX:
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        uid: int = _CREDENTIALS.unpack(told)[1]
        return uid
    try:
        here, there = connection.getsockname(), connection.getpeername()
    except OSError:
        return None
    return _owner(proc_net / "tcp", [_hex(there), _hex(here), _ESTABLISHED])


def _owner(table: Path, wanted: list[str]) -> int | None:
    """Return the uid in the row of the client's own socket."""
    try:
        rows = table.read_text("ascii").splitlines()[1:]
    except (OSError, UnicodeDecodeError):
        return None
    for row in rows:
        columns = row.split()
        if columns[1:4] == wanted:
            return int(columns[7])
    return None


def _hex(address: tuple[str, int]) -> str:
    """Return an IPv4 address as /proc/net/tcp writes it: a word in the machine's own order."""
    word = int.from_bytes(socket.inet_aton(address[0]), sys.byteorder)
    return f"{word:08X}:{address[1]:04X}"
