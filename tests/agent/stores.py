"""What a device's disk holds, and a disk that is full, for tests."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from wherry.blobs import cut, digest_of
from wherry.bundle import Bundle
from wherry.manifest import blobs_of
from wherry.names import Digest


def chunks_of(bundle: Bundle) -> dict[Digest, bytes]:
    return {
        digest_of(part): part
        for blob in blobs_of(bundle.manifest)
        for part in cut(bundle.blobs[blob.digest], blob.chunk_bytes)
    }


@contextmanager
def a_full_disk() -> Iterator[None]:
    """Let no file of this process grow beyond 512 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
