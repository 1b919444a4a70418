"""The audit log as a hash chain: each entry names the digest of the one before it.

    (64 zeros) <-- entry 1 <-- entry 2 <-- … <-- head

Whoever holds the head's digest can tell any change before it; whoever does not can still tell one
that does not rewrite everything after it. What is hashed is the entry's bytes as they were kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

import msgspec

from wherry import codec
from wherry.blobs import digest_of
from wherry.errors import Untrusted
from wherry.measures import Count
from wherry.names import Digest

ORIGIN = Digest("0" * 64)


class Kind(StrEnum):
    """What an entry tells of."""

    SIGNED = "signed"
    PUBLISHED = "published"
    IMPORTED = "imported"
    TOKEN_CREATED = "token_created"
    TOKEN_REVOKED = "token_revoked"
    ENROLLED = "enrolled"
    RENEWED = "renewed"
    APPROVED = "approved"
    REJECTED = "rejected"
    REVOKED = "revoked"
    REFUSED = "refused"
    FLAGGED = "flagged"


class Entry(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.audit_entry/1"
):
    """One thing that was done or refused, and the digest of the entry before."""

    seq: Count
    at: float
    kind: str
    facts: dict[str, str]
    previous: Digest


class BrokenChain(Untrusted):
    """A log that is not the one that was written."""

    def __init__(self, seq: int, problem: str) -> None:
        super().__init__(seq, problem)
        self.seq, self.problem = seq, problem

    def __str__(self) -> str:
        return (
            f"the audit log is broken at entry {self.seq}: {self.problem}; "
            "compare it with a copy of the database, and find out who could write to it."
        )


def entry_after(
    seq: int, previous: Digest, kind: Kind, facts: Mapping[str, str], now: float
) -> Entry:
    return Entry(seq=seq + 1, at=now, kind=kind.value, facts=dict(facts), previous=previous)


def digest_of_entry(entry: Entry) -> Digest:
    """Return what the next entry names, and the head is known by."""
    return digest_of(codec.encode(entry))


def verify(bodies: Iterable[str], *, head: Digest | None = None) -> tuple[int, Digest]:
    """Return the number of entries and the head's digest of a whole log, given from entry 1 on.

    Raises `BrokenChain` where an entry was changed, left out, moved or added, and where `head`, as
    it was noted once, is the digest of none of them: then the end was cut off.
    """
    seq, last = 0, ORIGIN
    is_head_there = head is None or head == ORIGIN
    for body in bodies:
        entry = _read(seq + 1, body)
        if entry.seq != seq + 1:
            raise BrokenChain(seq + 1, f"entry {entry.seq} stands in its place")
        if entry.previous != last:
            raise BrokenChain(entry.seq, "it does not follow from the one before")
        seq, last = entry.seq, digest_of(body.encode())
        is_head_there = is_head_there or last == head
    if not is_head_there:
        raise BrokenChain(seq, "no entry has the digest that was given: the end is missing")
    return seq, last


def _read(seq: int, body: str) -> Entry:
    try:
        return codec.decode(Entry, body.encode())
    except codec.BadDocument as error:
        raise BrokenChain(seq, error.problem) from error
