"""What a kernel says of its processor in `/proc/cpuinfo`: text in, facts out."""

from __future__ import annotations

from collections.abc import Iterator

FEATURE_KEYS = ("flags", "Features")  # As x86 and ARM kernels spell it.


def features_in(cpuinfo: str) -> tuple[str, ...]:
    """Return the features that every core has, in alphabetical order: a thread may run on any."""
    found = [set(words.split()) for key, words in lines_of(cpuinfo) if key in FEATURE_KEYS]
    return tuple(sorted(set.intersection(*found))) if found else ()


def lines_of(cpuinfo: str) -> Iterator[tuple[str, str]]:
    """Return each line's key and what it says."""
    for line in cpuinfo.splitlines():
        key, _, words = line.partition(":")
        yield key.strip(), words.strip()
