r"""A disk with a volatile cache: what was written and not flushed may be lost, in part, at a cut.

A server of the NBD protocol on a Unix socket, which qemu takes for a virtual machine's disk:

    write -> cache --flush, or a write with FUA--> durable
               \----- cut: each sector keeps any of what it held since the last flush

Sectors of 512 bytes are lost or kept one by one, so that writes are torn and out of order, as the
cache of a card or of a disk leaves them. Nothing of it is in a file: a cut costs no time.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
# Of the sectors that were not flushed, so many survive a cut; which share is drawn at each.
SURVIVORS = (0.0, 0.0, 0.5, 0.9)

_MAGIC, _OPTION, _REPLY = 0x4E42444D41474943, 0x49484156454F5054, 0x0003E889045565A9
_REQUEST, _ANSWER = 0x25609513, 0x67446698
_FIXED, _NO_ZEROES = 1, 2
_FLAGS = 1 | 4 | 8  # It has flags, takes flushes, and takes FUA.
_EXPORT_NAME, _ABORT, _INFO, _GO = 1, 2, 6, 7
_ACK, _INFO_REPLY, _UNSUPPORTED = 1, 3, 0x80000001
_READ, _WRITE, _DISCONNECT, _FLUSH = 0, 1, 2, 3
_FUA = 1
_INVALID = 22


class PowerGone(Exception):
    """A request that comes after the power went."""


@dataclass(slots=True)
class Lost:
    """What a cut did to the sectors that were not flushed."""

    unflushed: int
    kept: int


@dataclass(slots=True)
class Disk:
    """The bytes that outlive a cut, and by sector what was written since they were flushed."""

    durable: bytearray
    cache: dict[int, list[bytes]] = field(default_factory=dict)
    remaining: int | None = None
    counted: frozenset[int] = frozenset()
    dead: threading.Event = field(default_factory=threading.Event)

    def fail_after(self, requests: int) -> None:
        """Take so many more writes and flushes, and none after them."""
        self.remaining, self.counted = requests, frozenset((_WRITE, _FLUSH))

    def fail_at_flush(self, flushes: int) -> None:
        """Take so many more flushes, and what is written until the next one."""
        self.remaining, self.counted = flushes, frozenset((_FLUSH,))

    def count(self, kind: int) -> None:
        """Count a request; raise `PowerGone` where it comes too late."""
        if self.remaining is None or kind not in self.counted:
            return
        self.remaining -= 1
        if self.remaining < 0:
            self.dead.set()
            raise PowerGone

    def read(self, offset: int, length: int) -> bytes:
        data = bytearray(self.durable[offset : offset + length])
        for place in range(0, length, SECTOR):
            if written := self.cache.get((offset + place) // SECTOR):
                data[place : place + SECTOR] = written[-1]
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        for place in range(0, len(data), SECTOR):
            sector = (offset + place) // SECTOR
            self.cache.setdefault(sector, []).append(data[place : place + SECTOR])

    def write_through(self, offset: int, data: bytes) -> None:
        """Write with FUA: durable at once, and no earlier write of these sectors comes back."""
        self.durable[offset : offset + len(data)] = data
        for sector in range(offset // SECTOR, (offset + len(data)) // SECTOR):
            self.cache.pop(sector, None)

    def flush(self) -> None:
        for sector, written in self.cache.items():
            self._settle(sector, written[-1])
        self.cache.clear()

    def cut(self, chance: random.Random) -> Lost:
        """Lose what was not flushed, but for the sectors that chance keeps."""
        share, kept = chance.choice(SURVIVORS), 0
        for sector in sorted(self.cache):
            if chance.random() < share:
                self._settle(sector, chance.choice(self.cache[sector]))
                kept += 1
        lost = Lost(len(self.cache), kept)
        self.cache.clear()
        self.remaining = None
        self.dead.clear()
        return lost

    def _settle(self, sector: int, data: bytes) -> None:
        self.durable[sector * SECTOR : (sector + 1) * SECTOR] = data


def a_disk(image: Path) -> Disk:
    """Return a disk that has what the file has, which stays as it is."""
    return Disk(bytearray(image.read_bytes()))


@contextmanager
def serving(disk: Disk, place: Path) -> Iterator[threading.Thread]:
    """Serve the disk to one client on a Unix socket; the thread ends when the client is gone."""
    place.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen(1)
        thread = threading.Thread(target=_serve, args=(listener, disk), daemon=True)
        thread.start()
        yield thread
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _serve(listener: socket.socket, disk: Disk) -> None:
    try:
        client, _ = listener.accept()
    except OSError:
        return  # Nobody came.
    with client:
        try:
            if _agree(client, len(disk.durable)):
                while _answer(client, disk):
                    pass
        except PowerGone:
            _swallow(client)
        except (ConnectionError, EOFError):
            return  # The machine was killed.


def _swallow(client: socket.socket) -> None:
    """Answer nothing more until the machine is gone too."""
    with suppress(ConnectionError):
        while client.recv(1 << 16):
            pass


def _agree(client: socket.socket, size: int) -> bool:
    """Say hello as a server of NBD; return whether the client wants the disk."""
    client.sendall(struct.pack(">QQH", _MAGIC, _OPTION, _FIXED | _NO_ZEROES))
    (wishes,) = struct.unpack(">I", _take(client, 4))
    while True:
        _, option, length = struct.unpack(">QII", _take(client, 16))
        _take(client, length)
        if option == _EXPORT_NAME:
            padding = b"" if wishes & _NO_ZEROES else bytes(124)
            client.sendall(struct.pack(">QH", size, _FLAGS) + padding)
            return True
        if option in (_GO, _INFO):
            _reply(client, option, _INFO_REPLY, struct.pack(">HQH", 0, size, _FLAGS))
            _reply(client, option, _ACK, b"")
            if option == _GO:
                return True
        elif option == _ABORT:
            return False
        else:
            _reply(client, option, _UNSUPPORTED, b"")


def _reply(client: socket.socket, option: int, kind: int, body: bytes) -> None:
    client.sendall(struct.pack(">QIII", _REPLY, option, kind, len(body)) + body)


def _answer(client: socket.socket, disk: Disk) -> bool:
    """Do what one request asks; return whether more may come."""
    _, flags, kind, tag, offset, length = struct.unpack(">IHHQQI", _take(client, 28))
    error, body = 0, b""
    if kind == _READ:
        body = disk.read(offset, length)
    elif kind == _WRITE:
        data = _take(client, length)
        disk.count(kind)
        (disk.write_through if flags & _FUA else disk.write)(offset, data)
    elif kind == _FLUSH:
        disk.count(kind)
        disk.flush()
    elif kind == _DISCONNECT:
        return False
    else:
        error = _INVALID
    client.sendall(struct.pack(">IIQ", _ANSWER, error, tag) + body)
    return True


def _take(client: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        if not (piece := client.recv(length - len(data))):
            raise EOFError
        data += piece
    return bytes(data)
