"""The desk of a worker: it answers what the engine asks, one question after the other.

    recv -> compute -> answer -> look at a sample of it -> recv

Nothing happens before the answer that may happen after it. What was seen is told every
`TELL_S`, and when that time passes without a question. Comparisons compute in a thread of low
priority: nobody waits for them, and what serves beside them shall not feel them.
"""

from __future__ import annotations

import mmap
import socket
import struct
import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from wherry.messages import detail
from wherry_agent import answering, frames, limits
from wherry_agent.arena import INLINE_BYTES, Arena, Window
from wherry_agent.bringup import Loaded
from wherry_agent.observing import Observer
from wherry_agent.runtimes.base import Array
from wherry_agent.runtimes.variant import Computed

if TYPE_CHECKING:
    from concurrent.futures import Executor

READ_BYTES = 1 << 16
TELL_S = 2.0


class Desk:
    """Answers with `loaded` over `link`; questions and answers may stand in arenas."""

    def __init__(
        self,
        link: socket.socket,
        loaded: Loaded,
        observer: Observer,
        *,
        arenas: tuple[Window, Arena],
        niceness: int,
        tell_s: float = TELL_S,
    ) -> None:
        self._link, self._loaded, self._observer = link, loaded, observer
        self._questions, self._answers = arenas
        self._tell_s, self._told_at_s = tell_s, time.monotonic()
        # Small questions stand in one place, aligned, so that the runtime keeps them bound.
        self._small = memoryview(mmap.mmap(-1, INLINE_BYTES))
        # The arrays of the last question, where it stood: the next one often stands there too.
        self._known: tuple[int | None, int, Sequence[frames.TensorHead]] | None = None
        self._arrays_there: list[Array] = []
        self._niceness = niceness

    @cached_property
    def _aside(self) -> Executor:
        from concurrent.futures import ThreadPoolExecutor  # With logging: for a candidate only.

        return ThreadPoolExecutor(
            1, "aside", initializer=limits.be_nice, initargs=(self._niceness,)
        )

    def answer_all(self) -> None:
        """Answer until the engine closes its end."""
        reader, received = frames.Reader(), memoryview(bytearray(READ_BYTES))
        self._link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeout(self._tell_s))
        while True:
            try:
                count = self._link.recv_into(received)
            except BlockingIOError:
                self._tell()
                continue
            if not count:
                return
            for head, body in reader.feed(received[:count]):
                self.hear(head, body)

    def hear(self, head: frames.Head, body: bytes) -> None:
        match head:
            case frames.Infer():
                self._answers.release(head.heard)
                self._infer(head, body)
            case frames.Compare():
                self._answers.release(head.heard)
                self._send(self._aside.submit(self._compare, head, body).result())
            case frames.Trim(heard):
                self._answers.release(heard)
                self._answers.trim()
            case _:
                raise frames.BadFrame(f"the engine sent {type(head).__name__}")

    def _infer(self, asked: frames.Infer, body: bytes) -> None:
        inputs = self._arrays(asked.tensors, asked.at, body)
        try:
            computed = self._loaded.variant.borrow(inputs)
        except answering.FAILURES as error:
            self._send(_refusal(asked.number, error))
            return
        self._answer(asked.number, computed)
        self._observer.note(inputs, computed.outputs, computed.compute_ns)
        if time.monotonic() - self._told_at_s >= self._tell_s:
            self._tell()

    def _compare(self, asked: frames.Compare, body: bytes) -> frames.Told:
        arrays = self._arrays((*asked.tensors, *asked.reference), asked.at, body)
        inputs, reference = arrays[: len(asked.tensors)], arrays[len(asked.tensors) :]
        try:
            computed = self._loaded.variant.borrow(inputs)
        except answering.FAILURES as error:
            return _refusal(asked.number, error)
        agreement = answering.compare(self._loaded.manifest, computed.outputs, reference)
        return frames.Compared(
            asked.number,
            rows=agreement.rows,
            agreed=agreement.agreed,
            distance=agreement.distance,
            largest_distance=agreement.largest_distance,
            compute_ns=computed.compute_ns,
        )

    def _arrays(
        self, heads: Sequence[frames.TensorHead], at: int | None, body: bytes
    ) -> list[Array]:
        if at is None and len(body) > INLINE_BYTES:
            return answering.arrays_of(frames.tensors_of(heads, body))
        self._small[: len(body)] = body
        known = (at, len(body), heads)
        if known != self._known:
            size_bytes = frames.body_bytes(heads)
            held = self._small[: len(body)] if at is None else self._questions.read(at, size_bytes)
            self._arrays_there = answering.arrays_of(frames.tensors_of(heads, held))
            self._known = known
        return self._arrays_there

    def _answer(self, number: int, computed: Computed) -> None:
        tensors = answering.tensors_of(self._loaded.manifest, computed.outputs)
        heads = frames.heads_of(tensors)
        size_bytes = frames.body_bytes(heads)
        at = self._answers.reserve(number, size_bytes) if size_bytes > INLINE_BYTES else None
        looks = self._observer.will_look(computed.compute_ns)
        head = frames.Answered(number, computed.compute_ns, at, heads, looks)
        if at is None and size_bytes > frames.LARGEST_BODY_BYTES:
            self._send(frames.Refused(number, frames.Fault.RUNTIME_FAILED, frames.TOO_LARGE))
            return
        if at is None:
            self._link.sendall(frames.encode(head, tensors))
            return
        self._answers.write(at, [tensor.data for tensor in tensors])
        self._send(head)

    def _tell(self) -> None:
        self._told_at_s = time.monotonic()
        seen = self._observer.take()
        if seen is not None:
            self._send(frames.Saw(*seen))

    def _send(self, head: frames.Told) -> None:
        self._link.sendall(frames.encode(head))


def _refusal(number: int, error: Exception) -> frames.Refused:
    return frames.Refused(number, answering.fault_of(error), detail(str(error)))


def _timeout(seconds: float) -> bytes:
    """Return a time for the kernel: waiting in `recv` saves a call of `poll` before each."""
    return struct.pack("ll", int(seconds), round(seconds % 1 * 1e6))
