"""A ledger answers each question once, in kind and in time, and tells of silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from wherry.names import AliasName, Digest
from wherry_agent.asking import Answer, Compared, Comparison, Question, Unanswered
from wherry_agent.frames import BadFrame, Fault
from wherry_agent.ledger import Ledger

ALIAS, BUNDLE = AliasName("default"), Digest("a" * 64)
ANSWER = Answer(BUNDLE, (), 1)
COMPARED = Compared(BUNDLE, rows=1, agreed=1, distance=0.0, largest_distance=0.0, compute_ns=1)
FAULT = Unanswered(Fault.RUNTIME_FAILED, "no", BUNDLE)
FAR_S = 1000.0


class Book:
    """A ledger, and what came of it."""

    def __init__(self, silence_s: float = FAR_S) -> None:
        self.done: list[object] = []
        self.expired = 0
        self.silent: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.ledger = Ledger(
            BUNDLE, silence_s=silence_s, on_expired=self._expire, on_silent=self._fall_silent
        )

    def question(self) -> Question:
        return Question(ALIAS, (), self.done.append)

    def comparison(self) -> Comparison:
        return Comparison(ALIAS, (), (), self.done.append)

    def _expire(self) -> None:
        self.expired += 1

    def _fall_silent(self, detail: str) -> None:
        self.silent.set_result(detail)


def in_loop(story: Callable[[], object]) -> None:
    async def whole() -> None:
        story()

    asyncio.run(whole())


def test_each_question_is_answered_once_and_in_kind() -> None:
    def story() -> None:
        book = Book()
        first = book.ledger.enter(book.question(), FAR_S)
        second = book.ledger.enter(book.comparison(), FAR_S)
        third = book.ledger.enter(book.comparison(), FAR_S)
        book.ledger.settle(first, ANSWER)
        book.ledger.settle(second, COMPARED)
        book.ledger.settle(third, FAULT)
        assert book.done == [ANSWER, COMPARED, FAULT]
        assert len(book.ledger) == 0 and book.ledger.last_answered == third
        for number in (first, third, third + 1):
            with pytest.raises(BadFrame):
                book.ledger.settle(number, ANSWER)

    in_loop(story)


def test_an_answer_of_another_kind_is_refused_and_still_owed() -> None:
    def story() -> None:
        book = Book()
        pairs = ((book.question(), COMPARED), (book.comparison(), ANSWER))
        for asked, outcome in pairs:
            number = book.ledger.enter(asked, FAR_S)
            with pytest.raises(BadFrame):
                book.ledger.settle(number, outcome)
        assert book.ledger.close() == [asked for asked, _ in pairs]
        assert not book.done

    in_loop(story)


def test_an_answer_that_comes_too_late_goes_nowhere() -> None:
    async def story() -> None:
        book = Book(silence_s=FAR_S)
        number = book.ledger.enter(book.question(), 0.0)
        while not book.done:
            await asyncio.sleep(0)
        (late,) = book.done
        assert isinstance(late, Unanswered) and late.fault is Fault.TIMED_OUT
        assert (len(book.ledger), book.ledger.is_waited_for, book.expired) == (1, False, 1)
        book.ledger.settle(number, ANSWER)
        assert book.done == [late] and len(book.ledger) == 0
        assert book.ledger.close() == []

    asyncio.run(story())


def test_silence_counts_from_the_question_and_is_told_once_nobody_waits() -> None:
    async def story() -> None:
        book = Book(silence_s=0.02)
        loop = asyncio.get_running_loop()
        asked_at_s = loop.time()
        book.ledger.enter(book.question(), 0.0)
        assert await asyncio.wait_for(book.silent, 30) == "it answered nothing for 0.02 s"
        assert loop.time() - asked_at_s >= 0.02

    asyncio.run(story())


def test_one_that_answers_others_is_not_silent() -> None:
    async def story() -> None:
        book = Book(silence_s=0.02)
        loop = asyncio.get_running_loop()
        book.ledger.enter(book.question(), 0.0)
        number = book.ledger.enter(book.question(), FAR_S)
        while loop.time() < book.ledger.heard_at_s + 0.015:
            await asyncio.sleep(0)
        heard_at_s = loop.time()
        book.ledger.hear()
        book.ledger.settle(number, ANSWER)
        await asyncio.wait_for(book.silent, 30)
        assert loop.time() - heard_at_s >= 0.02

    asyncio.run(story())
