"""A runner in a worker process: started, asked, drained, ended.

    STARTING --Ready--> READY --drain--> DRAINING --nothing left to answer--> ENDED

Every state ends with the worker's stream and at its own deadline, STARTING with Failed too.
Everything here runs on the engine's loop. A worker ends when its socket closes; one that does
not within a grace is killed. What a worker leaves unanswered goes back to the engine.

Small tensors travel in the frames, large ones in two arenas, one for questions and one for
answers; what finds no room there travels in the frames too. An answer is copied out when it comes.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from wherry.names import AliasName
from wherry.reasons import Reason
from wherry_agent import frames
from wherry_agent.arena import INLINE_BYTES, Arena, Window, create_arena
from wherry_agent.asking import (
    DEPTH,
    Answer,
    Berth,
    Bringing,
    BundlePlace,
    Compared,
    Comparison,
    Proof,
    Question,
    RunnerListener,
    RunnerState,
    Unanswered,
)
from wherry_agent.berth import ArenaBerth
from wherry_agent.frames import Fault, Tensor
from wherry_agent.ledger import Ledger, Outcome
from wherry_agent.limits import describe_end, is_over_cpu
from wherry_agent.measuring import memory_bytes
from wherry_agent.processes import StartProcess, WorkerProcess, spawn

RECEIVED_BYTES = 16 << 10  # At a time; a new buffer for each answer took 25 us.
GRACE_S = 1.0
LARGEST_QUESTION_BYTES = frames.LARGEST_BODY_BYTES - (64 << 10)  # Between tensors there are gaps.
TRIM_S = 5.0
TRIMS = 2  # After so many, pages that were used before the first of them are given back.


class _Arenas:
    """The engine's ends of a worker's two arenas, and what the worker inherits of them."""

    def __init__(self) -> None:
        self.descriptors = (create_arena(), create_arena())
        self._is_held, self._is_closed = True, False
        self.questions, self.answers = Arena(self.descriptors[0]), Window(self.descriptors[1])

    def close_descriptors(self) -> None:
        if self._is_held:
            self._is_held = False
            for descriptor in self.descriptors:
                os.close(descriptor)

    def close(self) -> bool:
        """Unmap both; return False where they were closed already."""
        if self._is_closed:
            return False
        self._is_closed = True
        self.questions.close()
        self.answers.close()
        return True


def start_runner(
    alias: AliasName,
    place: BundlePlace,
    listener: RunnerListener,
    bringing: Bringing,
    start_process: StartProcess = spawn,
) -> Link:
    """Start a worker for the bundle at `place`; raise OSError where it can have no memory."""
    return Link(alias, place, listener=listener, bringing=bringing, start_process=start_process)


class Link(asyncio.BufferedProtocol):
    """A `Runner` whose bundle lives in a process of its own."""

    def __init__(
        self,
        alias: AliasName,
        place: BundlePlace,
        *,
        listener: RunnerListener,
        bringing: Bringing,
        start_process: StartProcess = spawn,
        trim_s: float = TRIM_S,
    ) -> None:
        self.alias, self.place, self.state = alias, place, RunnerState.STARTING
        self.ready_at_s = 0.0
        self._listener, self._bringing = listener, bringing
        self._loop = asyncio.get_running_loop()
        self._reader = frames.Reader()
        self._received = memoryview(bytearray(RECEIVED_BYTES))
        self._ledger = Ledger(
            place.digest,
            silence_s=bringing.silence_s,
            on_expired=self._end_if_drained,
            on_silent=self._lose,
        )
        self._arenas = _Arenas()
        self._trim_s, self._trims = trim_s, 0
        self._transport: asyncio.Transport | None = None
        self._process: WorkerProcess | None = None
        self._socket, self._theirs = socket.socketpair()
        self._starting = self._loop.create_task(self._start(start_process))
        self._starting.add_done_callback(self._started)
        self._timer = self._loop.call_later(bringing.load_timeout_s, self._took_too_long)

    @property
    def pid(self) -> int | None:
        """The worker's process; None until there is one."""
        return self._process.pid if self._process else None

    @property
    def in_flight(self) -> int:
        return len(self._ledger)

    def memory_bytes(self) -> int:
        if self.pid is None:
            return 0
        return memory_bytes("RssAnon", Path(f"/proc/{self.pid}/status"))

    def ask(self, question: Question | Comparison, timeout_s: float) -> None:
        assert self.state is RunnerState.READY and self._transport is not None
        tensors = question.tensors
        if isinstance(question, Comparison):
            tensors += question.reference
        if sum(len(tensor.data) for tensor in tensors) > LARGEST_QUESTION_BYTES:
            refused = Unanswered(Fault.RUNTIME_FAILED, frames.TOO_LARGE, self.place.digest)
            self._loop.call_soon(question.done, refused)
            return
        number = self._ledger.enter(question, timeout_s)
        self._transport.write(self._frame(number, question))

    def berth(self, size_bytes: int, head_bytes: int) -> Berth | None:
        """Return a place where what follows the head stands as aligned as any tensor."""
        before_bytes = -head_bytes % frames.ALIGNMENT
        at = self._arenas.questions.reserve_unasked(before_bytes + size_bytes)
        if at is None:
            return None
        place = (at, at + before_bytes, size_bytes)
        return ArenaBerth(self._arenas.questions, place, self._trim_later)

    def drain(self, timeout_s: float) -> None:
        """End the worker when it has answered what it was asked, or when the time is over."""
        if self.state is not RunnerState.READY or not self._ledger.is_waited_for:
            self.end()
            return
        self.state = RunnerState.DRAINING
        self._timer = self._loop.call_later(timeout_s, self.end)

    def end(self) -> None:
        """End the worker now; what it was asked goes back to the engine."""
        self._enter_end()
        if self._process is None:
            self._starting.cancel()
        elif self._transport is None:
            self._process.kill()
        else:
            self._transport.abort()
            self._loop.call_later(GRACE_S, self._process.kill)  # Nothing, once it was reaped.

    def kill(self) -> None:
        """End the worker without a word to anybody, and wait until it is gone."""
        self.state = RunnerState.ENDED
        self._timer.cancel()
        self._ledger.close()
        self._starting.cancel()
        self._close_theirs()
        if self._transport is None:
            self._socket.close()
        else:
            self._transport.abort()
        if self._process:
            self._process.kill()
            self._forget(self._process)
        self._arenas.close()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self.state is RunnerState.ENDED:
            transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._received

    def buffer_updated(self, nbytes: int) -> None:
        self._ledger.hear()
        try:
            for head, body in self._reader.feed(self._received[:nbytes]):
                if self.state is not RunnerState.ENDED:
                    self._hear(head, body)
        except frames.BadFrame as error:
            self._lose(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        if self.state is not RunnerState.ENDED:
            status = self._status()
            reason = Reason.OVER_CPU if is_over_cpu(status) else Reason.LOAD_FAILED
            self._lose(describe_end(status), reason)
        self._finish_if_gone()

    # What the worker says

    def _hear(self, head: frames.Head, body: bytes) -> None:
        match head:
            case frames.Answered(number, compute_ns, at, heads):
                if at is not None:
                    body = bytes(self._arenas.answers.read(at, frames.body_bytes(heads)))
                    self._trim_later()
                tensors = frames.tensors_of(heads, body)
                self._arenas.questions.release(number - head.looks)
                self._settle(number, Answer(self.place.digest, tensors, compute_ns))
            case frames.Compared():
                self._settle(head.number, self._compared(head))
            case frames.Refused(number, fault, detail):
                self._settle(number, Unanswered(fault, detail, self.place.digest))
            case frames.Saw(inputs, outputs):
                self._listener.saw(self, inputs, outputs)
            case frames.Ready() if self.state is RunnerState.STARTING:
                self._become_ready(head)
            case frames.Failed(reason, detail) if self.state is RunnerState.STARTING:
                self._fail(reason, detail)
            case _:
                raise frames.BadFrame(f"the worker sent {type(head).__name__}")

    def _become_ready(self, ready: frames.Ready) -> None:
        self._timer.cancel()
        self.state, self.ready_at_s = RunnerState.READY, self._loop.time()
        proof = Proof(
            runtime_version=ready.runtime_version,
            outputs=ready.outputs,
            load_ms=ready.load_ms,
            memory_bytes=ready.memory_bytes,
            peak_bytes=ready.peak_bytes,
        )
        self._listener.became_ready(self, proof)

    def _compared(self, head: frames.Compared) -> Compared:
        return Compared(
            self.place.digest,
            rows=head.rows,
            agreed=head.agreed,
            distance=head.distance,
            largest_distance=head.largest_distance,
            compute_ns=head.compute_ns,
        )

    def _settle(self, number: int, outcome: Outcome) -> None:
        self._arenas.questions.release(number - 1)
        self._ledger.settle(number, outcome)
        self._end_if_drained()
        if self.state is RunnerState.READY and len(self._ledger) == DEPTH - 1:
            self._listener.has_room(self)

    def _end_if_drained(self) -> None:
        if self.state is RunnerState.DRAINING and not self._ledger.is_waited_for:
            self.end()

    # Shared memory

    def _frame(self, number: int, question: Question | Comparison) -> bytes:
        """Return the frame that asks a question; its tensors may go into the arena."""
        heads, tensors = frames.heads_of(question.tensors), question.tensors
        reference: tuple[frames.TensorHead, ...] = ()
        if isinstance(question, Comparison):
            reference, tensors = frames.heads_of(question.reference), tensors + question.reference
        at = self._find(number, question)
        if at is None:
            at = self._put(number, frames.body_bytes(heads + reference), tensors)
        head: frames.Head = frames.Infer(number, self._ledger.last_answered, at, heads)
        if isinstance(question, Comparison):
            head = frames.Compare(number, self._ledger.last_answered, at, heads, reference)
        return frames.encode(head, tensors if at is None else ())

    def _find(self, number: int, question: Question | Comparison) -> int | None:
        """Return where the tensor of a question arrived, if that was in the arena."""
        if isinstance(question, Comparison) or not isinstance(question.berth, ArenaBerth):
            return None
        at = question.berth.find(self._arenas.questions, question.tensors)
        if at is not None:
            question.berth.ask(number)
            self._trim_later()
        return at

    def _put(self, number: int, size_bytes: int, tensors: tuple[Tensor, ...]) -> int | None:
        """Write tensors into the arena; return where, or None where they travel in the frame."""
        if size_bytes <= INLINE_BYTES:
            return None
        at = self._arenas.questions.reserve(number, size_bytes)
        if at is not None:
            self._arenas.questions.write(at, [tensor.data for tensor in tensors])
            self._trim_later()
        return at

    def _trim_later(self) -> None:
        """Have both arenas trimmed until nothing is left of what was used now."""
        if not self._trims:
            self._loop.call_later(self._trim_s, self._trim)
        self._trims = TRIMS

    def _trim(self) -> None:
        if self.state is RunnerState.ENDED or self._transport is None:
            return
        if not self._ledger:
            self._arenas.questions.release(self._ledger.last_asked)  # Looked at long ago.
        self._arenas.questions.trim()
        self._transport.write(frames.encode(frames.Trim(self._ledger.last_answered)))
        self._trims -= 1
        if self._trims:
            self._loop.call_later(self._trim_s, self._trim)

    # Deadlines

    def _took_too_long(self) -> None:
        detail = f"it was not ready within {self._bringing.load_timeout_s:g} s"
        self._fail(Reason.LOAD_TIMEOUT, detail)

    def _fail(self, reason: Reason, detail: str) -> None:
        self.end()
        self._listener.failed_to_load(self, reason, detail)

    def _lose(self, detail: str, reason: Reason = Reason.LOAD_FAILED) -> None:
        """End a worker that ended by itself, or that must not go on.

        `reason` is why it was not loaded, where it was not yet.
        """
        was = self.state
        if self._process:
            self._process.kill()
        self.state = RunnerState.ENDED
        if was is RunnerState.STARTING:
            self._fail(reason, detail)
        else:
            # Told first, so that what it left goes to another worker.
            self._listener.died(self, detail)
            self.end()

    # The process

    async def _start(self, start_process: StartProcess) -> None:
        """Start the process and connect to it; it may be ended meanwhile, which cancels this."""
        inherited = self._theirs.fileno(), self._arenas.descriptors
        try:
            process = await start_process(self.place, self._bringing, *inherited)
        except OSError as error:
            self._fail(Reason.LOAD_FAILED, f"no process could be started for it: {error}")
            return
        self._process = process
        self._loop.add_reader(process.watched, self._reap, process)
        self._close_theirs()
        await self._loop.create_connection(lambda: self, sock=self._socket)

    def _started(self, starting: asyncio.Task[None]) -> None:
        self._close_theirs()
        if self._process is None:
            self._socket.close()
            self._finish_if_gone()

    def _close_theirs(self) -> None:
        """Close what the worker has inherited."""
        self._theirs.close()
        self._arenas.close_descriptors()

    def _reap(self, process: WorkerProcess) -> None:
        self._forget(process)
        self._finish_if_gone()

    def _forget(self, process: WorkerProcess) -> None:
        """Wait for a process that ended or is killed."""
        process.wait()
        if self._loop.remove_reader(process.watched):
            process.forget()

    def _finish_if_gone(self) -> None:
        """Tell the end once its process is gone and what it said before was heard."""
        if self.state is not RunnerState.ENDED or (self._process and not self._process.wait(0)):
            return
        if self._arenas.close():
            self._listener.ended(self)

    def _status(self) -> int | None:
        """Return the status that it ended with; None where it only closed its socket."""
        if self._process is None:
            return None
        self._process.wait(GRACE_S / 10)
        return self._process.status

    def _enter_end(self) -> None:
        self.state = RunnerState.ENDED
        self._timer.cancel()
        for question in self._ledger.close():
            self._listener.left_unanswered(self, question)
