"""A runner in the agent's own process: a bundle loaded and asked in a thread.

    STARTING --loaded--> READY --drain--> DRAINING --nothing left to answer--> ENDED

It saves a process and its memory, and gives up what a process of its own holds off: a model that
crashes, hangs or eats memory does it to the agent. A thread that computes for ever cannot be
ended; it is left alone, and nothing is asked of it any more. tflite-runtime, which broken files
crash, is always run in a worker. This module loads numpy and the runtime, so the engine imports
it by name where it is wanted.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from wherry.errors import REFUSALS
from wherry.measures import Seen
from wherry.messages import detail
from wherry.names import AliasName
from wherry.profile import Runtime
from wherry.reasons import Reason
from wherry_agent import answering, link
from wherry_agent.asking import (
    DEPTH,
    Answer,
    Berth,
    Bringing,
    BundlePlace,
    Compared,
    Comparison,
    Question,
    Runner,
    RunnerListener,
    RunnerState,
    Unanswered,
)
from wherry_agent.bringup import Loaded, Place, bring_up, reason_of
from wherry_agent.ledger import Ledger, Outcome
from wherry_agent.observing import Observer, reference_of

GRACE_S = 1.0
TELL_S = 2.0
LOADING_ERRORS = (*REFUSALS, MemoryError, OSError)


def start_runner(
    alias: AliasName, place: BundlePlace, listener: RunnerListener, bringing: Bringing
) -> Runner:
    """Start a thread for the bundle at `place`; a worker, where its runtime must have one."""
    if place.manifest.profile.runtime is Runtime.TFLITE:
        return link.start_runner(alias, place, listener, bringing)
    return Inline(alias, place, listener=listener, bringing=bringing)


class Inline:
    """A `Runner` whose bundle lives in a thread of this process."""

    def __init__(
        self,
        alias: AliasName,
        place: BundlePlace,
        *,
        listener: RunnerListener,
        bringing: Bringing,
        tell_s: float = TELL_S,
    ) -> None:
        self.alias, self.place, self.state = alias, place, RunnerState.STARTING
        self.ready_at_s, self._is_killed = 0.0, False
        self._listener, self._bringing, self._tell_s = listener, bringing, tell_s
        self._loop = asyncio.get_running_loop()
        self._ledger = Ledger(
            place.digest,
            silence_s=bringing.silence_s,
            on_expired=self._end_if_drained,
            on_silent=self._lose,
        )
        self._timer = self._loop.call_later(bringing.load_timeout_s, self._took_too_long)
        self._questions: queue.SimpleQueue[tuple[int, Question | Comparison] | None]
        self._questions = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"inline {alias}", daemon=True)
        self._thread.start()

    @property
    def in_flight(self) -> int:
        return len(self._ledger)

    def memory_bytes(self) -> int:
        return 0  # The agent's own; what of it is this bundle's cannot be told.

    def ask(self, question: Question | Comparison, timeout_s: float) -> None:
        assert self.state is RunnerState.READY
        self._questions.put((self._ledger.enter(question, timeout_s), question))

    def berth(self, size_bytes: int, head_bytes: int) -> Berth | None:
        return None  # It computes where a body stands.

    def drain(self, timeout_s: float) -> None:
        """End when what was asked is answered, or when the time is over."""
        if self.state is not RunnerState.READY or not self._ledger.is_waited_for:
            self.end()
            return
        self.state = RunnerState.DRAINING
        self._timer = self._loop.call_later(timeout_s, self.end)

    def end(self) -> None:
        """End now; what it was asked goes back to the engine."""
        self._stop()
        for question in self._ledger.close():
            self._listener.left_unanswered(self, question)

    def kill(self) -> None:
        """End without a word to anybody; a thread that computes is waited for only briefly."""
        self._stop()
        self._ledger.close()
        self._is_killed = True
        self._thread.join(GRACE_S)

    # On the loop

    def _become_ready(self, loaded: Loaded) -> None:
        if self.state is not RunnerState.STARTING:
            return
        self._timer.cancel()
        self.state, self.ready_at_s = RunnerState.READY, self._loop.time()
        self._listener.became_ready(self, loaded.proof)

    def _settle(self, number: int, outcome: Outcome) -> None:
        if self.state is RunnerState.ENDED:
            return
        self._ledger.hear()
        self._ledger.settle(number, outcome)
        self._end_if_drained()
        if self.state is RunnerState.READY and len(self._ledger) == DEPTH - 1:
            self._listener.has_room(self)

    def _see(self, inputs: tuple[Seen, ...], outputs: tuple[Seen, ...]) -> None:
        if self.state is not RunnerState.ENDED:
            self._listener.saw(self, inputs, outputs)

    def _end_if_drained(self) -> None:
        if self.state is RunnerState.DRAINING and not self._ledger.is_waited_for:
            self.end()

    def _took_too_long(self) -> None:
        allowed_s = self._bringing.load_timeout_s
        self._fail(Reason.LOAD_TIMEOUT, f"it was not ready within {allowed_s:g} s")

    def _fail(self, reason: Reason, why: str) -> None:
        if self.state is RunnerState.STARTING:
            self._stop()
            self._listener.failed_to_load(self, reason, why)

    def _lose(self, why: str) -> None:
        """Give up a thread that computes for ever."""
        if self.state is not RunnerState.ENDED:
            self.state = RunnerState.ENDED
            self._listener.died(self, why)  # First, so that what it left goes elsewhere.
            self.end()

    def _tell_end(self) -> None:
        if not self._is_killed:
            self._listener.ended(self)

    def _stop(self) -> None:
        self.state = RunnerState.ENDED
        self._timer.cancel()
        self._questions.put(None)

    # In the thread

    def _run(self) -> None:
        try:
            loaded = self._load_gently()
        except LOADING_ERRORS as error:
            self._call(self._fail, reason_of(error), detail(str(error)))
        else:
            self._call(self._become_ready, loaded)
            self._answer_all(loaded)
            del loaded  # Before its end is told: its memory is free by then.
        self._call(self._tell_end)

    def _load_gently(self) -> Loaded:
        """Load in a thread of low priority, on the cores that the profile names."""
        cores = set(self.place.manifest.profile.affinity) & os.sched_getaffinity(0)
        if cores:
            os.sched_setaffinity(0, cores)  # Of this thread, and of those that it starts.
        loading: Future[Loaded] = Future()
        arguments = (self.place, self._bringing, loading)
        threading.Thread(target=_load, args=arguments, name="load", daemon=True).start()
        return loading.result()

    def _answer_all(self, loaded: Loaded) -> None:
        reference = reference_of(loaded.manifest, self.place.blobs_folder)
        observer = Observer(loaded.manifest, reference, self._bringing.seen_share)
        told_at_s = time.monotonic()
        while True:
            if time.monotonic() - told_at_s >= self._tell_s:
                self._tell(observer)
                told_at_s = time.monotonic()
            try:
                asked = self._questions.get(timeout=self._tell_s)
            except queue.Empty:
                continue
            if asked is None or self.state is RunnerState.ENDED:
                return
            self._answer(loaded, observer, *asked)

    def _answer(
        self, loaded: Loaded, observer: Observer, number: int, question: Question | Comparison
    ) -> None:
        inputs = answering.arrays_of(question.tensors)
        try:
            computed = loaded.variant.run(inputs)
        except answering.FAILURES as error:
            fault = answering.fault_of(error)
            refused = Unanswered(fault, detail(str(error)), self.place.digest)
            self._call(self._settle, number, refused)
            return
        outputs, compute_ns = computed.outputs, computed.compute_ns
        if isinstance(question, Comparison):
            reference = answering.arrays_of(question.reference)
            agreement = answering.compare(loaded.manifest, outputs, reference)
            self._call(self._settle, number, self._compared(agreement, compute_ns))
            return
        tensors = answering.tensors_of(loaded.manifest, outputs)
        self._call(self._settle, number, Answer(self.place.digest, tensors, compute_ns))
        observer.note(inputs, outputs, compute_ns)

    def _compared(self, agreement: answering.Agreement, compute_ns: int) -> Compared:
        return Compared(
            self.place.digest,
            rows=agreement.rows,
            agreed=agreement.agreed,
            distance=agreement.distance,
            largest_distance=agreement.largest_distance,
            compute_ns=compute_ns,
        )

    def _tell(self, observer: Observer) -> None:
        seen = observer.take()
        if seen is not None:
            self._call(self._see, *seen)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Have the engine's loop call `function`, if there still is one."""
        with suppress(RuntimeError):  # The agent ends.
            self._loop.call_soon_threadsafe(function, *arguments)


def _load(place: BundlePlace, bringing: Bringing, loading: Future[Loaded]) -> None:
    """Bring up a bundle at a low priority, where none of its own threads would keep that."""
    if place.manifest.profile.threads == 1:
        thread = threading.get_native_id()
        before = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, max(bringing.niceness, before))
    here = Place(place.digest, place.manifest_path, place.blobs_folder)
    try:
        loading.set_result(bring_up(here, place.manifest, bringing))
    except LOADING_ERRORS as error:
        loading.set_exception(error)
