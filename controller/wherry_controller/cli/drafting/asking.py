"""What a card needs and no file tells: asked on a terminal, or settled without a word.

A question is asked until its answer can be read. Where nobody may be asked, its default answers,
and those that have none are named together in one error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import typer

from wherry.errors import Malformed
from wherry_controller.cli import show
from wherry_controller.cli.outcome import Ended, Exit

T = TypeVar("T")

NONE = "none"  # The answer that leaves something out.


@dataclass(frozen=True, slots=True)
class Question(Generic[T]):
    """What is asked, the flag that answers it too, and how an answer is read.

    `read` raises `Ended` or `Malformed` where it cannot; without a `default` there must be an
    answer.
    """

    flag: str
    text: str
    read: Callable[[str], T]
    default: str | None = None


class Asker(Protocol):
    """Somebody, or nobody, to ask."""

    def ask(self, question: Question[T]) -> T | None:
        """Return the answer, or None where there is none and `finish` will say so."""

    def finish(self) -> None:
        """End where a question without a default is left without an answer."""


class Terminal:
    """Asks whoever sits at stdin; what it asks goes to stderr."""

    def ask(self, question: Question[T]) -> T | None:
        answer: T = typer.prompt(
            question.text,
            default=question.default,
            value_proc=lambda text: _read(question, text),
            err=True,
        )
        return answer

    def finish(self) -> None:
        pass


@dataclass(slots=True)
class Nobody:
    """Takes every default."""

    missing: list[str] = field(default_factory=list)

    def ask(self, question: Question[T]) -> T | None:
        if question.default is None:
            self.missing.append(question.flag)
            return None
        return question.read(question.default)

    def finish(self) -> None:
        if self.missing:
            flags = ", ".join(dict.fromkeys(self.missing))
            problem = f"nobody may be asked, and no file tells {flags}: give these flags."
            raise Ended(Exit.USAGE, problem)


def settle(asker: Asker, given: str | None, question: Question[T]) -> T | None:
    """Return what the flag gives, or the answer to the question."""
    return asker.ask(question) if given is None else question.read(given)


def tell(sentence: str) -> None:
    """Say what was decided on the way, on stderr."""
    show.stderr().print(sentence, markup=False, soft_wrap=True)


def _read(question: Question[T], text: str) -> T:
    try:
        return question.read(text.strip())
    except (Ended, Malformed) as error:
        raise typer.BadParameter(str(error)) from error
