"""The ledger of a runner: the answers it owes, each with its deadline.

A question whose time is over is answered so at once, and the runner still owes its answer: it is
not asked another one in its place. One that owes an answer and stays silent for too long is hung.
Everything here happens on the engine's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from wherry.names import Digest
from wherry_agent.asking import Answer, Compared, Comparison, Question, Unanswered
from wherry_agent.frames import BadFrame, Fault

Outcome: TypeAlias = Answer | Compared | Unanswered


@dataclass(slots=True)
class _Owed:
    """An answer that is owed; `question` is None once nobody waits for it."""

    question: Question | Comparison | None
    timer: asyncio.TimerHandle
    timeout_s: float


class Ledger:
    """What one runner owes; `on_expired` follows each deadline, `on_silent` the hung runner."""

    def __init__(
        self,
        bundle: Digest,
        *,
        silence_s: float,
        on_expired: Callable[[], None],
        on_silent: Callable[[str], None],
    ) -> None:
        self._bundle, self._silence_s = bundle, silence_s
        self._on_expired, self._on_silent = on_expired, on_silent
        self._loop = asyncio.get_running_loop()
        self._owed: dict[int, _Owed] = {}
        self.heard_at_s = 0.0
        self.last_asked = self.last_answered = 0

    def __len__(self) -> int:
        return len(self._owed)

    @property
    def is_waited_for(self) -> bool:
        """Say whether anybody waits for an answer."""
        return any(owed.question for owed in self._owed.values())

    def enter(self, question: Question | Comparison, timeout_s: float) -> int:
        """Return the number of a question that is asked now."""
        if not self._owed:
            self.hear()  # Its silence begins with the question.
        self.last_asked += 1
        timer = self._loop.call_later(timeout_s, self._expire, self.last_asked)
        self._owed[self.last_asked] = _Owed(question, timer, timeout_s)
        return self.last_asked

    def hear(self) -> None:
        """Note that the runner gave a sign of life."""
        self.heard_at_s = self._loop.time()

    def settle(self, number: int, outcome: Outcome) -> None:
        """Give a question its answer; raise `BadFrame` where that one is not owed."""
        owed = self._owed.get(number)
        if owed is None:
            raise BadFrame(f"{number} was answered, which was not asked")
        answer = _answer(owed.question, outcome)
        del self._owed[number]
        owed.timer.cancel()
        self.last_answered = number
        answer()

    def close(self) -> list[Question | Comparison]:
        """Return what is waited for and owed no more."""
        left, self._owed = self._owed, {}
        for owed in left.values():
            owed.timer.cancel()
        return [owed.question for owed in left.values() if owed.question is not None]

    def _expire(self, number: int) -> None:
        owed = self._owed[number]
        question, owed.question = owed.question, None
        detail = f"no answer came within {owed.timeout_s:g} s; send fewer rows at a time"
        if question is not None:
            question.done(Unanswered(Fault.TIMED_OUT, detail, self._bundle))
        self._on_expired()
        self._find_silence()

    def _find_silence(self) -> None:
        """Tell if the runner is silent for too long; else look again when it would be."""
        if not self._owed:
            return
        left_s = self.heard_at_s + self._silence_s - self._loop.time()
        if left_s <= 0:
            self._on_silent(f"it answered nothing for {self._silence_s:g} s")
        else:
            self._loop.call_later(left_s, self._find_silence)


def _answer(question: Question | Comparison | None, outcome: Outcome) -> Callable[[], None]:
    """Return what gives a question its answer, which must be of its kind."""
    if question is None:
        return lambda: None  # It came after its deadline.
    if isinstance(question, Question) and not isinstance(outcome, Compared):
        return partial(question.done, outcome)
    if isinstance(question, Comparison) and not isinstance(outcome, Answer):
        return partial(question.done, outcome)
    raise BadFrame(f"a question was answered with {type(outcome).__name__}")
