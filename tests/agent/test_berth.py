"""A tensor is asked from where its body arrived, and from nowhere else."""

from __future__ import annotations

from wherry.signature import Datatype
from wherry_agent.arena import Arena, create_arena
from wherry_agent.berth import ArenaBerth
from wherry_agent.frames import Tensor

HEAD_BYTES, BODY_BYTES = 24, 88


def a_berth(arena: Arena, left: list[ArenaBerth] | None = None) -> ArenaBerth:
    at = arena.reserve_unasked(BODY_BYTES + 40)
    assert at is not None
    told = [] if left is None else left
    berth = ArenaBerth(arena, (at, at + 40, BODY_BYTES), lambda: told.append(berth))
    return berth


def a_tensor(data: bytes | memoryview) -> Tensor:
    return Tensor("x", Datatype.UINT8, (1, len(data)), data)


def test_the_tensor_at_the_end_of_a_body_is_found() -> None:
    arena = Arena(create_arena())
    berth = a_berth(arena)
    at = berth.find(arena, (a_tensor(berth.memory[HEAD_BYTES:]),))
    assert at == 40 + HEAD_BYTES
    berth.memory[HEAD_BYTES:] = b"x" * 64
    assert arena.place(at, 64) == b"x" * 64


def test_what_did_not_arrive_there_alone_is_not_found() -> None:
    arena, other = Arena(create_arena()), Arena(create_arena())
    berth = a_berth(arena)
    here = a_tensor(berth.memory[HEAD_BYTES:])
    assert berth.find(other, (here,)) is None
    assert berth.find(arena, (here, here)) is None
    assert berth.find(arena, (a_tensor(bytes(64)),)) is None
    assert berth.find(arena, (a_tensor(memoryview(bytes(64))),)) is None


def test_a_place_is_left_once_and_asked_from_no_more() -> None:
    arena, left = Arena(create_arena()), list[ArenaBerth]()
    berth = a_berth(arena, left)
    berth.leave()
    next_one = a_berth(arena)
    berth.leave()
    assert left == [berth]
    assert berth.find(arena, (a_tensor(berth.memory[HEAD_BYTES:]),)) is None
    assert arena.reserve(1, 1) != 0
    next_one.leave()
    assert arena.reserve(2, 1) == 0


def test_a_place_that_was_asked_from_is_the_questions() -> None:
    arena, left = Arena(create_arena()), list[ArenaBerth]()
    berth = a_berth(arena, left)
    berth.ask(7)
    berth.leave()
    assert not left
    assert berth.find(arena, (a_tensor(berth.memory[HEAD_BYTES:]),)) is None
    assert arena.reserve(8, 1) != 0
    arena.release(7)
    assert arena.reserve(9, 1) == 0
