"""A region of system shared memory that an application and the agent both see.

    with client.region(1 << 20) as region:
        region.write(pixels)
        answer = client.infer("default", {"image": Placed("FP32", (1, 784), region.name)})

Made, registered with the agent, and taken back at the end of the block.
"""

from __future__ import annotations

import mmap
import os
import secrets
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


class Region:
    """`key` is the name of the file in shared memory, `name` what requests call it."""

    def __init__(self, size_bytes: int, name: str | None = None) -> None:
        self.size_bytes = size_bytes
        self.name = name or f"wherry-{secrets.token_hex(8)}"
        self.key = f"/{self.name}"
        self._path = SHARED_MEMORY / self.name
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o660)
        try:
            os.ftruncate(descriptor, size_bytes)
            self._map = mmap.mmap(descriptor, size_bytes)
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)

    def write(self, data: bytes | bytearray | memoryview, offset: int = 0) -> None:
        """Put bytes into the region; ValueError where they do not fit."""
        view = memoryview(data).cast("B")
        if offset + len(view) > self.size_bytes:
            raise ValueError(f"{len(view)} bytes at {offset} do not fit {self.size_bytes}")
        self._map[offset : offset + len(view)] = view

    def read(self, size_bytes: int, offset: int = 0) -> bytes:
        """Return a copy of bytes of the region."""
        return self._map[offset : offset + size_bytes]

    def remove(self) -> None:
        """Give the memory back; whoever has mapped it keeps it until then."""
        self._path.unlink(missing_ok=True)
        self._map.close()
