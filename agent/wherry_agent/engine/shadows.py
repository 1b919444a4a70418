"""Copies of live requests for a candidate that answers nobody yet.

A request is copied after it was answered, never before, and only if the candidate is idle and
within its budget; else it is counted as skipped, by cause. The candidate gets one copy at a time.
What bytes a caller may take back with the answer are copied beforehand, for sampled requests only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from wherry.messages import Shadow
from wherry_agent.asking import Answer, BundlePlace, Compared, Comparison, Runner, Unanswered
from wherry_agent.core.sharing import (
    Skipped,
    are_alike,
    begin_allowance,
    grow,
    is_sampled,
    may_spend,
    spend,
)
from wherry_agent.engine.clock import Clock
from wherry_agent.engine.recording import Recording
from wherry_agent.engine.slots import Shadowing, Slots
from wherry_agent.engine.waiting import Waiting
from wherry_agent.frames import Tensor

LOOK_EVERY_S = 1.0  # At memory and temperature.


@dataclass(frozen=True, slots=True)
class Copy:
    """What an idle candidate gets of a request: its inputs, and the answer that was given to it."""

    runner: Runner
    shadowing: Shadowing
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    incumbent_ns: int


class Shadows:
    """Samples the requests of every alias whose candidate shadows; on the engine's loop."""

    def __init__(
        self,
        clock: Clock,
        recorder: Recording,
        *,
        temperature_c: Callable[[], float | None],
        timeout_s: float,
    ) -> None:
        self._clock, self._recorder = clock, recorder
        self._temperature_c, self._timeout_s = temperature_c, timeout_s

    def begin(self, slots: Slots, place: BundlePlace, shadow: Shadow) -> None:
        """Copy from now on; nothing is changed where it is the same shadow already."""
        now = slots.shadowing
        if now is None or (now.place.digest, now.shadow) != (place.digest, shadow):
            allowance = begin_allowance(shadow.core_share, self._clock.time())
            slots.shadowing = Shadowing(place, shadow, allowance)

    def sample(self, slots: Slots, entry: Waiting, answer: Answer) -> Copy | None:
        """Return what is to be copied of a request that is about to be answered, if anything."""
        shadowing = slots.shadowing
        if shadowing is None or not slots.serves(answer.bundle):
            return None
        shadowing.number += 1
        if not is_sampled(shadowing.number, shadowing.shadow.share):
            return None
        runner = slots.ready(shadowing.place.digest)
        cause = self._find_obstacle(shadowing, runner, entry) if runner else Skipped.NOT_UP
        if cause is not None:
            bundle = shadowing.place.digest
            self._recorder.skipped_shadowing(slots.alias, bundle, cause.value)
        if runner is None or cause is not None:
            return None
        inputs, outputs = map(_kept, (entry.asking.tensors, answer.tensors))
        return Copy(runner, shadowing, inputs, outputs, answer.compute_ns)

    def hand_on(self, slots: Slots, copy: Copy) -> None:
        """Have the candidate compute what was copied."""
        done = partial(self._note, slots, copy)
        comparison = Comparison(slots.alias, copy.inputs, copy.outputs, done)
        copy.runner.ask(comparison, self._timeout_s)

    def _find_obstacle(
        self, shadowing: Shadowing, candidate: Runner, entry: Waiting
    ) -> Skipped | None:
        signature = shadowing.place.manifest.signature
        if entry.rows > signature.max_batch or not are_alike(entry.signature, signature):
            return Skipped.UNLIKE
        self._look(shadowing, candidate)
        if shadowing.is_too_hot:
            return Skipped.TOO_HOT
        if shadowing.is_over_memory:
            return Skipped.OVER_MEMORY
        if candidate.in_flight:
            return Skipped.BUSY
        return None if may_spend(shadowing.allowance) else Skipped.OVER_CPU

    def _look(self, shadowing: Shadowing, candidate: Runner) -> None:
        """Let the allowance grow; look at memory and temperature from time to time."""
        now_s, shadow = self._clock.time(), shadowing.shadow
        shadowing.allowance = grow(shadowing.allowance, now_s)
        if now_s < shadowing.looked_s + LOOK_EVERY_S:
            return
        shadowing.looked_s = now_s
        temperature_c = self._temperature_c()
        shadowing.is_too_hot = (
            temperature_c is not None and temperature_c > shadow.largest_temperature_c
        )
        shadowing.is_over_memory = (
            shadow.memory_bytes is not None and candidate.memory_bytes() > shadow.memory_bytes
        )

    def _note(self, slots: Slots, copy: Copy, outcome: Compared | Unanswered) -> None:
        shadowing = copy.shadowing
        if isinstance(outcome, Compared):
            spent_s = outcome.compute_ns / 1e9
            self._recorder.shadowed(slots.alias, outcome, incumbent_ns=copy.incumbent_ns)
        else:
            # How long it computed is not known; what it was given is spent.
            spent_s = shadowing.allowance.core_share
            bundle = shadowing.place.digest
            self._recorder.failed_to_shadow(slots.alias, bundle, outcome.fault.value)
        shadowing.allowance = spend(shadowing.allowance, spent_s)


def _kept(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return tensors whose bytes nobody can take back or change."""
    return tuple(
        tensor
        if _is_immutable(tensor.data)
        else Tensor(tensor.name, tensor.datatype, tensor.shape, bytes(tensor.data))
        for tensor in tensors
    )


def _is_immutable(data: bytes | memoryview) -> bool:
    return isinstance(data, bytes) or isinstance(data.obj, bytes)
