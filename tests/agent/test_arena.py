"""An arena keeps what was not released, uses the lowest free place, and gives pages back."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wherry_agent.arena import SIZE_BYTES, UNASKED_BYTES, Arena, Window, create_arena
from wherry_agent.frames import BadFrame

PAGE = os.sysconf("SC_PAGESIZE")


def resident_bytes(descriptor: int) -> int:
    return os.fstat(descriptor).st_blocks * 512


def test_what_one_side_writes_the_other_reads() -> None:
    descriptor = create_arena()
    arena, window = Arena(descriptor), Window(descriptor)
    at = arena.reserve(1, 164)
    assert at is not None
    arena.write(at, [b"x" * 100, b"y" * 36])
    assert bytes(window.read(at, 100)) == b"x" * 100
    assert bytes(window.read(at + 128, 36)) == b"y" * 36


def test_the_reader_cannot_write() -> None:
    window = Window(create_arena())
    with pytest.raises(TypeError):
        window.read(0, 4)[0:1] = b"x"


def test_neither_side_can_take_pages_from_under_the_other() -> None:
    descriptor = create_arena()
    for size_bytes in (0, 2 * SIZE_BYTES):
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, size_bytes)


@pytest.mark.parametrize(
    ("at", "size_bytes"), [(-1, 1), (0, -1), (SIZE_BYTES, 1), (0, SIZE_BYTES + 1), (1 << 70, 1)]
)
def test_a_place_outside_of_the_arena_is_refused(at: int, size_bytes: int) -> None:
    with pytest.raises(BadFrame):
        Window(create_arena()).read(at, size_bytes)


ORDERS = st.lists(st.one_of(st.none(), st.integers(0, SIZE_BYTES // 3)), max_size=40)


@given(ORDERS)
def test_places_in_use_never_overlap(orders: list[int | None]) -> None:
    arena, held = Arena(create_arena()), dict[int, tuple[int, int]]()
    for number, size_bytes in enumerate(orders):
        if size_bytes is None:
            oldest = min(held, default=0)
            arena.release(oldest)
            held.pop(oldest, None)
            continue
        at = arena.reserve(number, size_bytes)
        if at is None:
            assert sum(size for _, size in held.values()) + size_bytes > SIZE_BYTES / 3
            continue
        end = at + size_bytes
        assert at % 64 == 0 and end <= SIZE_BYTES
        assert all(end <= begin or begin + size <= at for begin, size in held.values())
        held[number] = (at, size_bytes)
    arena.close()


def test_what_is_asked_again_and_again_uses_few_pages() -> None:
    descriptor = create_arena()
    arena = Arena(descriptor)
    for number in range(100):
        at = arena.reserve(number, 100 * PAGE)
        assert at is not None
        arena.write(at, [b"x" * (100 * PAGE)])
        arena.release(number - 2)
    assert resident_bytes(descriptor) == 300 * PAGE


def test_pages_that_nothing_needed_since_the_last_trim_are_given_back() -> None:
    descriptor = create_arena()
    arena, window = Arena(descriptor), Window(descriptor)
    for number, size_bytes in enumerate((4 * PAGE, 100 * PAGE)):
        at = arena.reserve(number, size_bytes)
        assert at is not None
        arena.write(at, [b"x" * size_bytes])
    assert resident_bytes(descriptor) == 104 * PAGE
    arena.trim()
    assert resident_bytes(descriptor) == 104 * PAGE
    arena.release(1)
    arena.trim()
    assert arena.reserve(2, 4 * PAGE) == 0
    assert bytes(window.read(0, 1)) == b"x"
    arena.trim()
    assert resident_bytes(descriptor) == 4 * PAGE
    arena.release(2)
    arena.trim()
    arena.trim()
    assert resident_bytes(descriptor) == 0


def test_an_arena_that_is_full_says_so() -> None:
    arena = Arena(create_arena())
    assert arena.reserve(1, SIZE_BYTES) == 0
    assert arena.reserve(2, 1) is None
    arena.release(1)
    assert arena.reserve(3, 1) == 0
    assert arena.reserve(4, SIZE_BYTES) is None


def test_a_body_keeps_its_place_until_its_question_is_released() -> None:
    arena = Arena(create_arena())
    at = arena.reserve_unasked(100)
    assert at == 0
    arena.release(1 << 40)
    assert arena.reserve(1, 100) != at
    arena.ask(at, 2)
    arena.forget(at)  # A question has it.
    assert arena.reserve(3, 100) != at
    arena.release(2)
    assert arena.reserve(4, 100) == at


def test_a_body_that_is_not_asked_leaves_its_place() -> None:
    arena = Arena(create_arena())
    at = arena.reserve_unasked(100)
    assert at is not None
    arena.forget(at)
    assert arena.reserve_unasked(100) == at


def test_bodies_leave_half_of_the_arena_to_questions() -> None:
    arena = Arena(create_arena())
    assert arena.reserve_unasked(UNASKED_BYTES + 1) is None
    assert arena.reserve_unasked(UNASKED_BYTES) == 0
    assert arena.reserve_unasked(1) is None
    assert arena.reserve(1, SIZE_BYTES - UNASKED_BYTES) == UNASKED_BYTES


def test_a_body_outlives_the_arena_that_it_arrives_in() -> None:
    arena = Arena(create_arena())
    place = arena.place(64, 8)
    arena.close()
    place[:] = b"too late"
    assert bytes(place) == b"too late"
