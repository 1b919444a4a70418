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

CLOCK_SLACK_S = 1e-6  # Of a timer that fires at its time.

Outcome: TypeAlias = Answer | Compared | Unanswered


@dataclass(slots=True)
class _Owed:
    """An answer that is owed; `question` is None once nobody waits for it."""

    question: Question | Comparison | None
    ends_s: float
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
        self._timer: asyncio.TimerHandle | None = None  # Of the first deadline, or of one before.
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
        ends_s = self._loop.time() + timeout_s
        self._owed[self.last_asked] = _Owed(question, ends_s, timeout_s)
        self._watch(ends_s)
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
        self.last_answered = number
        answer()

    def close(self) -> list[Question | Comparison]:
        """Return what is waited for and owed no more."""
        left, self._owed = self._owed, {}
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        questions = [owed.question for owed in left.values() if owed.question is not None]
        for owed in left.values():
            owed.question = None  # Whoever tells of deadlines at this moment tells no more.
        return questions

    def _watch(self, ends_s: float) -> None:
        """Have deadlines looked at then; a timer of each question would cost more than asking."""
        if self._timer is not None:
            if self._timer.when() <= ends_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(ends_s, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now_s = self._loop.time() + CLOCK_SLACK_S
        waited_for = [owed for owed in self._owed.values() if owed.question]
        late = [owed for owed in waited_for if owed.ends_s <= now_s]
        for owed in late:
            self._tell_late(owed)
        left = [owed.ends_s for owed in self._owed.values() if owed.question]
        if left:
            self._watch(min(left))
        if late:
            self._find_silence()

    def _tell_late(self, owed: _Owed) -> None:
        question, owed.question = owed.question, None
        detail = f"no answer came within {owed.timeout_s:g} s; send fewer rows at a time"
        if question is not None:
            question.done(Unanswered(Fault.TIMED_OUT, detail, self._bundle))
            self._on_expired()

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
