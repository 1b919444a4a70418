"""Packs a Debian package's files so that like stands beside like, in sight of one dictionary.

A package holds nearly the same library for several Pythons. nfpm writes files by their paths, and
its compressor looks back 8 MiB; so its archive of files is sorted anew, and compressed with xz.
"""

from __future__ import annotations

import io
import lzma
import re
import tarfile
from pathlib import Path

MAGIC = b"!<arch>\n"
HEADER_BYTES = 60
# What a device needs of memory while it unpacks.
DICTIONARY_BYTES = 64 << 20
_PYTHON = re.compile(r"/(cp3\d+)/")


def repack(deb: Path, packed: Path, mtime_s: int) -> None:
    """Replace the uncompressed files of `deb` by the same, sorted and compressed.

    `packed` is where the next one is written before it takes the place of this one. Files bear
    the time `mtime_s`, whenever they were written here.
    """
    members = list(_members(deb.read_bytes()))
    parts = [MAGIC]
    for header, name, data in members:
        if name == "data.tar":
            parts += _member(header, "data.tar.xz", compressed(sorted_tar(data, mtime_s)))
        else:
            parts += _member(header, name, data)
    packed.write_bytes(b"".join(parts))
    packed.replace(deb)


def sorted_tar(data: bytes, mtime_s: int) -> bytes:
    """Return an archive of folders first, then files by their name within a Python's folder."""
    target = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as source,
        tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as sorted_,
    ):
        for member in sorted(source.getmembers(), key=_place):
            member.mtime = mtime_s
            sorted_.addfile(member, source.extractfile(member) if member.isreg() else None)
    return target.getvalue()


def compressed(data: bytes) -> bytes:
    filters = [
        {
            "id": lzma.FILTER_LZMA2,
            "preset": 6,
            "dict_size": DICTIONARY_BYTES,
        }
    ]
    return lzma.compress(data, check=lzma.CHECK_CRC32, filters=filters)


def _place(member: tarfile.TarInfo) -> tuple[bool, str, str]:
    if member.isdir():
        return False, member.name, ""
    found = _PYTHON.search(member.name)
    if found is None:
        return True, member.name, ""
    # A compiled module names its Python too: `_core.cpython-311-….so`.
    name = re.sub(r"cpython-3\d+", "cpython", member.name[found.end() :])
    return True, name, found.group(1)


def _members(archive: bytes) -> list[tuple[bytes, str, bytes]]:
    """Return header, name and bytes of each member of an `ar` archive."""
    members = []
    at = len(MAGIC)
    while at + HEADER_BYTES <= len(archive):
        header = archive[at : at + HEADER_BYTES]
        size = int(header[48:58])
        at += HEADER_BYTES
        members.append((header, header[:16].decode().rstrip(" /"), archive[at : at + size]))
        at += size + size % 2
    return members


def _member(header: bytes, name: str, data: bytes) -> tuple[bytes, bytes, bytes]:
    told = name.ljust(16).encode() + header[16:48] + str(len(data)).ljust(10).encode()
    return told + header[58:], data, b"\n" * (len(data) % 2)
