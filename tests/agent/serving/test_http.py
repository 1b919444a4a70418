"""HTTP on one connection, byte by byte: order, bounds, half-closed and slow clients."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from http import HTTPStatus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.agent.benches import a_get, a_post
from tests.agent.serving.pipes import LIMITS, Peer, on_a_loop
from wherry_agent.serving.arriving import HttpLimits
from wherry_agent.serving.http import SCRATCH_BYTES
from wherry_agent.serving.message import Response
from wherry_agent.serving.room import Room


def test_requests_are_read_however_their_bytes_arrive() -> None:
    def story() -> None:
        peer = Peer()
        for byte in a_post("/a", b"body") + a_get("/b"):
            peer.send(bytes([byte]))
        assert [(r.method, r.path, r.body) for r, _ in peer.asked] == [
            ("POST", "/a", b"body"),
            ("GET", "/b", b""),
        ]
        assert peer.statuses == [200, 200]

    on_a_loop(story)


def test_responses_go_out_in_the_order_of_the_requests() -> None:
    def story() -> None:
        peer = Peer(answers=False)
        peer.send(a_post("/", b"first") + a_post("/", b"second"))
        peer.answer(1)
        assert peer.pipe.written == b""
        peer.answer(0)
        assert peer.pipe.written.index(b"first") < peer.pipe.written.index(b"second")

    on_a_loop(story)


def test_a_client_that_asks_too_far_ahead_is_read_no_further() -> None:
    def story() -> None:
        peer = Peer(answers=False)
        peer.send(a_get("/") * LIMITS.pipelined)
        assert not peer.pipe.reads
        peer.answer(0)
        assert peer.pipe.reads

    on_a_loop(story)


def test_a_half_closed_client_gets_what_it_is_owed() -> None:
    def story() -> None:
        peer = Peer(answers=False)
        peer.send(a_get("/"))
        assert peer.connection.eof_received()
        peer.answer(0)
        assert (peer.statuses, peer.pipe.open) == ([200], False)

    on_a_loop(story)


def test_a_client_that_has_gone_costs_nothing_more() -> None:
    def story() -> None:
        peer = Peer(answers=False)
        peer.send(a_get("/"))
        peer.connection.connection_lost(None)
        peer.answer(0)
        assert peer.gone
        assert peer.pipe.written == b""

    on_a_loop(story)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 600, 431),
        (b"GET /" + b"y" * 600 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 300 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\ncontent-length: 1001\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3e9\r\n" + b"x" * 1001,
            413,
        ),
    ],
)
def test_what_breaks_the_protocol_gets_one_answer_and_no_further_reading(
    sent: bytes, status: int
) -> None:
    def story() -> None:
        peer = Peer()
        peer.send(sent)
        assert (peer.statuses, peer.pipe.half_closed) == ([status], True)
        peer.send(a_get("/"))
        assert peer.statuses == [status]
        assert not peer.connection.eof_received()

    on_a_loop(story)


def test_a_client_that_sends_no_more_is_not_waited_for_after_its_nonsense() -> None:
    def story() -> None:
        peer = Peer(answers=False)
        peer.send(a_get("/") + b"nonsense\r\n\r\n")
        assert peer.connection.eof_received()
        peer.answer(0)
        assert (peer.statuses, peer.pipe.open) == ([200, 400], False)

    on_a_loop(story)


def test_what_came_before_nonsense_is_answered_first() -> None:
    def story() -> None:
        peer = Peer(answers=False)
        peer.send(a_get("/") + b"nonsense\r\n\r\n")
        assert peer.statuses == []
        peer.answer(0)
        assert peer.statuses == [200, 400]

    on_a_loop(story)


@pytest.mark.parametrize(
    ("sent", "stays_open"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n", True),
    ],
)
def test_the_client_says_whether_the_connection_stays(sent: bytes, *, stays_open: bool) -> None:
    def story() -> None:
        peer = Peer()
        peer.send(sent)
        assert (peer.statuses, peer.pipe.open) == ([200], stays_open)

    on_a_loop(story)


def test_a_client_that_waits_for_leave_to_send_its_body_gets_it() -> None:
    def story() -> None:
        peer = Peer()
        peer.send(b"POST / HTTP/1.1\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
        assert peer.statuses == [100]
        peer.send(b"ok")
        assert peer.statuses == [100, 200]

    on_a_loop(story)


def test_the_answer_to_head_has_no_body() -> None:
    def story() -> None:
        peer = Peer(answers=False)
        peer.send(b"HEAD / HTTP/1.1\r\n\r\n")
        peer.asked[0][1](Response(b"unseen", HTTPStatus.OK))
        assert b"content-length: 6\r\n" in peer.pipe.written
        assert peer.pipe.written.endswith(b"\r\n\r\n")

    on_a_loop(story)


def test_a_request_that_comes_too_slowly_is_told_so_and_then_left() -> None:
    def story() -> None:
        peer = Peer()
        peer.send(b"POST / HTTP/1.1\r\ncontent-length: 20\r\n\r\nslow")
        now_s = asyncio.get_running_loop().time()
        peer.connection.close_if_late(now_s + LIMITS.request_s - 1)
        assert peer.statuses == []
        peer.connection.close_if_late(now_s + LIMITS.request_s + 1)
        assert (peer.statuses, peer.pipe.half_closed) == ([408], True)
        peer.connection.close_if_late(now_s + 2 * LIMITS.request_s + 2)
        assert not peer.pipe.open

    on_a_loop(story)


@pytest.mark.parametrize(
    ("sent", "patience_s"),
    [(b"", LIMITS.idle_s), (a_get("/"), LIMITS.idle_s)],
    ids=["silent", "idle"],
)
def test_a_client_that_lets_the_server_wait_is_left(sent: bytes, patience_s: float) -> None:
    def story() -> None:
        peer = Peer()
        if sent:
            peer.send(sent)
        now_s = asyncio.get_running_loop().time()
        peer.connection.close_if_late(now_s + patience_s - 1)
        assert peer.pipe.open
        peer.connection.close_if_late(now_s + patience_s + 1)
        assert not peer.pipe.open

    on_a_loop(story)


def test_a_client_that_does_not_read_is_read_no_further_and_then_left() -> None:
    def story() -> None:
        peer = Peer()
        reads = []
        for turn in (peer.connection.pause_writing, peer.connection.resume_writing) * 2:
            turn()
            reads.append(peer.pipe.reads)
        assert reads == [False, True] * 2
        peer.connection.pause_writing()
        now_s = asyncio.get_running_loop().time()
        peer.connection.close_if_late(now_s + LIMITS.request_s + 1)
        assert not peer.pipe.open

    on_a_loop(story)


def test_a_request_that_is_computed_for_long_is_waited_for() -> None:
    def story() -> None:
        peer = Peer(answers=False)
        peer.send(a_get("/"))
        peer.connection.close_if_late(asyncio.get_running_loop().time() + 1000)
        assert peer.pipe.open

    on_a_loop(story)


LARGE = HttpLimits(body_bytes=200_000, head_bytes=500, pipelined=4, request_s=30, idle_s=60)


@pytest.mark.parametrize("size", [SCRATCH_BYTES - 1, SCRATCH_BYTES, SCRATCH_BYTES + 1, 200_000])
@pytest.mark.parametrize("step", [7_001, 1 << 20])
def test_a_large_body_is_whole_and_what_follows_it_is_read(size: int, step: int) -> None:
    def story() -> None:
        peer, body = Peer(limits=LARGE), bytes(range(251)) * (size // 251 + 1)
        body = body[:size]
        sent = (a_post("/a", body) + a_get("/b")) * 2
        for at in range(0, len(sent), step):
            peer.send(sent[at : at + step])
        got = [(request.path, bytes(request.body)) for request, _ in peer.asked]
        assert got == [("/a", body), ("/b", b"")] * 2
        assert peer.statuses == [200] * 4

    on_a_loop(story)


def test_a_client_that_wants_to_be_left_after_a_large_body_is() -> None:
    def story() -> None:
        peer = Peer(limits=LARGE)
        peer.send(a_post("/", bytes(50_000)).replace(b"host:", b"connection: close\r\nhost:"))
        assert (peer.statuses, peer.pipe.open) == ([200], False)

    on_a_loop(story)


def test_a_large_body_that_stays_away_is_told_so() -> None:
    def story() -> None:
        peer = Peer(limits=LARGE)
        peer.send(a_post("/", bytes(50_000))[:-1])
        peer.connection.close_if_late(asyncio.get_running_loop().time() + LARGE.request_s + 1)
        assert peer.statuses == [408]
        peer.send(b"x" * 100_000)
        assert peer.statuses == [408]

    on_a_loop(story)


@pytest.mark.parametrize("size", [900, 50_000], ids=["in pieces", "whole"])
def test_all_bodies_together_are_bounded(size: int) -> None:
    def story() -> None:
        room = Room(2 * size)
        first, second, third = (Peer(answers=False, limits=LARGE, room=room) for _ in range(3))
        first.send(a_post("/", bytes(size)))
        second.send(a_post("/", bytes(size))[:-1])
        third.send(a_post("/", bytes(size)))
        assert (third.statuses, b"retry-after: 1\r\n" in third.pipe.written) == ([503], True)
        second.connection.connection_lost(None)
        first.answer(0)
        for _ in range(2):  # What was given back is there, and no more.
            peer = Peer(answers=False, limits=LARGE, room=room)
            peer.send(a_post("/", bytes(size)))
            assert peer.statuses == []
        over = Peer(limits=LARGE, room=room)
        over.send(a_post("/", b"x"))
        assert over.statuses == [503]

    on_a_loop(story)


def test_a_body_in_the_smallest_chunks_takes_no_more_memory_than_its_bytes() -> None:
    chunks = 10_000

    def story() -> None:
        peer = Peer(limits=HttpLimits(body_bytes=4 * chunks))
        tracemalloc.start()
        peer.send(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(chunks):
            peer.send(b"2\r\nab\r\n")
        held_bytes, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held_bytes < 8 * chunks
        peer.send(b"0\r\n\r\n")
        assert [request.body for request, _ in peer.asked] == [b"ab" * chunks]

    on_a_loop(story)


def test_a_body_that_grows_when_it_is_decoded_takes_room_too() -> None:
    def story() -> None:
        room, coded = Room(3000), gzip.compress(bytes(2500))
        head = b"content-encoding: gzip\r\nhost:"
        request = a_post("/", coded).replace(b"host:", head)
        first, second = (Peer(answers=False, limits=LARGE, room=room) for _ in range(2))
        first.send(request)
        second.send(request)
        assert (first.statuses, second.statuses) == ([], [503])
        first.answer(0)
        second.send(request)
        assert [len(request.body) for request, _ in second.asked] == [2500]

    on_a_loop(story)


def test_a_connection_that_finishes_answers_what_it_owes() -> None:
    def story() -> None:
        idle, owing = Peer(), Peer(answers=False)
        owing.send(a_get("/") + b"GET /half")
        for peer in (idle, owing):
            peer.connection.finish()
        assert (idle.pipe.open, owing.pipe.open) == (False, True)
        owing.send(b"way HTTP/1.1\r\n\r\n")
        owing.answer(0)
        assert (owing.statuses, len(owing.asked), owing.pipe.open) == ([200], 1, False)

    on_a_loop(story)


def test_who_has_asked_nothing_yet_may_ask_once_when_the_server_ends() -> None:
    def story() -> None:
        peer = Peer(answers=False)
        assert not peer.connection.has_asked
        peer.connection.finish_after_one()
        peer.send(a_get("/"))
        assert (peer.connection.has_asked, peer.pipe.open) == (True, True)
        peer.send(a_get("/"))
        peer.answer(0)
        assert (peer.statuses, len(peer.asked), peer.pipe.open) == ([200], 1, False)

    on_a_loop(story)


def test_tensors_follow_the_json_whose_length_is_told() -> None:
    def story() -> None:
        for tensor in (b"raw", bytes(100_000)):
            peer = Peer(answers=False)
            peer.send(a_get("/"))
            peer.asked[0][1](Response(b"{}", tensors=(memoryview(tensor), b"more")))
            head, _, body = peer.pipe.written.partition(b"\r\n\r\n")
            assert b"inference-header-content-length: 2\r\n" in head
            assert f"content-length: {len(tensor) + 6}".encode() in head
            assert body == b"{}" + tensor + b"more"

    on_a_loop(story)


def test_the_headers_that_are_read_are_found_in_any_case() -> None:
    def story() -> None:
        peer = Peer()
        peer.send(
            b"GET / HTTP/1.1\r\nWherry-Key: k\r\nINFERENCE-Header-Content-Length: 5\r\nx: y\r\n\r\n"
        )
        ((request, _),) = peer.asked
        assert request.headers == {"wherry-key": "k", "inference-header-content-length": "5"}

    on_a_loop(story)


PIECES = st.sampled_from(
    [
        a_get("/v2"),
        a_post("/v2/models/default/infer", b"{}"),
        b"GET / HTTP/1.1\r\n",
        b"transfer-encoding: chunked\r\n",
        b"content-length: 5\r\n",
        b"connection: close\r\n",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"\r\n",
        b"\x00\xff",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES | st.binary(max_size=20), max_size=8), st.integers(1, 50))
@example([b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n" + a_get("/")], 500)
def test_any_bytes_are_answered_or_waited_for(pieces: list[bytes], step: int) -> None:
    def story() -> None:
        peer = Peer()
        sent = b"".join(pieces)
        for at in range(0, len(sent), step):
            if peer.pipe.open:
                peer.send(sent[at : at + step])
        refused = [status for status in peer.statuses if status >= 400]
        assert len(refused) <= 1
        assert len(peer.statuses) <= len(peer.asked) + 1
        if refused:
            assert peer.statuses[-1] == refused[0]
            assert peer.pipe.half_closed

    on_a_loop(story)


LARGE = HttpLimits(body_bytes=1 << 20)


def test_a_large_body_arrives_in_its_berth_and_leaves_it_when_it_is_answered() -> None:
    def story() -> None:
        peer, body = Peer(answers=False, limits=LARGE), bytes(range(256)) * 100
        peer.send(a_post("/", body))
        (berth,) = peer.berths
        assert peer.asked[0][0].berth is berth
        assert berth.memory == body
        assert not berth.left
        peer.answer(0)
        assert peer.berths[0].left == 1

    on_a_loop(story)


def test_a_body_that_does_not_come_leaves_its_berth() -> None:
    def story() -> None:
        peer = Peer(limits=LARGE)
        peer.send(a_post("/", bytes(20_000))[:-1])
        (berth,) = peer.berths
        assert not berth.left
        peer.connection.connection_lost(None)
        assert berth.left

    on_a_loop(story)
