"""The archive that Linux unpacks before it has a disk: cpio in its `newc` form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_FOLDER, _PROGRAM = 0o040755, 0o100755


def archive(folders: Iterable[str], files: Mapping[str, bytes]) -> bytes:
    """Return an archive of folders and of files, each of which may be run."""
    entries = [_entry(name, _FOLDER, b"") for name in folders]
    entries += [_entry(name, _PROGRAM, data) for name, data in files.items()]
    return b"".join([*entries, _entry("TRAILER!!!", 0, b"")])


def _entry(name: str, mode: int, data: bytes) -> bytes:
    path = name.encode() + b"\0"
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % each for each in fields)
    return _padded(head + path) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
