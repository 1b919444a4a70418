"""A log that cannot be changed unseen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry import codec
from wherry.blobs import digest_of
from wherry_controller.core.audit import ORIGIN, BrokenChain, Entry, Kind, entry_after, verify


def a_log(length: int = 4) -> list[str]:
    bodies: list[str] = []
    previous = ORIGIN
    for seq in range(length):
        entry = entry_after(seq, previous, Kind.REFUSED, {"number": str(seq)}, 100.0 + seq)
        bodies.append(codec.encode(entry).decode())
        previous = digest_of(bodies[-1].encode())
    return bodies


def test_a_whole_log_gives_its_length_and_head() -> None:
    log = a_log()
    assert verify(log) == (4, digest_of(log[-1].encode()))
    assert verify([]) == (0, ORIGIN)


def test_every_head_that_there_was_is_found_again() -> None:
    log = a_log()
    for body in log:
        assert verify(log, head=digest_of(body.encode()))[0] == 4
    assert verify(log, head=ORIGIN)[0] == 4


@given(st.integers(0, 3), st.integers(0, 200), st.integers(1, 255))
def test_no_byte_of_an_entry_changes_unseen(index: int, place: int, by: int) -> None:
    log = a_log()
    head = digest_of(log[-1].encode())
    data = bytearray(log[index].encode())
    data[place % len(data)] ^= by
    log[index] = data.decode(errors="replace")
    with pytest.raises(BrokenChain):
        verify(log, head=head)


@pytest.mark.parametrize("index", range(3))
def test_an_entry_that_is_left_out_is_missed(index: int) -> None:
    log = a_log()
    del log[index]
    with pytest.raises(BrokenChain) as broken:
        verify(log)
    assert broken.value.seq == index + 1


def test_entries_that_change_places_are_noticed() -> None:
    first, second, *others = a_log()
    with pytest.raises(BrokenChain):
        verify([second, first, *others])


def test_an_end_that_is_cut_off_is_missed_by_who_noted_the_head() -> None:
    log = a_log()
    head = digest_of(log[-1].encode())
    assert verify(log[:-1])[0] == 3
    with pytest.raises(BrokenChain, match="the end is missing"):
        verify(log[:-1], head=head)


def test_a_log_that_was_rewritten_from_some_entry_on_has_another_head() -> None:
    log = a_log()
    head = digest_of(log[-1].encode())
    forged = entry_after(2, digest_of(log[1].encode()), Kind.APPROVED, {}, 0.0)
    with pytest.raises(BrokenChain):
        verify([*log[:2], codec.encode(forged).decode()], head=head)


def test_an_entry_says_what_it_is() -> None:
    with pytest.raises(BrokenChain):
        verify([a_log(1)[0].replace("audit_entry/1", "audit_entry/2")])
    assert codec.decode(Entry, a_log(1)[0].encode()).facts == {"number": "0"}
