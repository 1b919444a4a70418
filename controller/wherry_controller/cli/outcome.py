"""How a command ends: its exit code and the one line that says why.

0 it is done · 1 it ran and what was asked for failed (a build was refused, a rollout halted) ·
2 what was given is not understood · 3 there is no such thing · 4 it is refused (token, conflict,
trust) · 5 the controller cannot be reached or cannot do it now.
"""

from __future__ import annotations

from enum import IntEnum

from wherry.errors import Malformed, Refusal, Unavailable, Unsuitable, Untrusted


class Exit(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    MISSING = 3
    REFUSED = 4
    UNAVAILABLE = 5


class Ended(Exception):
    """A command that ends before its end; the sentence goes to stderr."""

    def __init__(self, code: Exit, sentence: str) -> None:
        super().__init__(code, sentence)
        self.code, self.sentence = code, sentence

    def __str__(self) -> str:
        return self.sentence


def of_status(status: int) -> Exit:
    """Return the exit code for an HTTP status that is no success."""
    if status in (400, 413, 422):
        return Exit.USAGE
    if status == 404:
        return Exit.MISSING
    return Exit.UNAVAILABLE if status >= 500 else Exit.REFUSED


def of_refusal(error: Refusal) -> Exit:
    """Return the exit code for a refusal of something on this machine."""
    match error:
        case Malformed():
            return Exit.USAGE
        case Untrusted() | Unsuitable():
            return Exit.REFUSED
        case Unavailable():
            return Exit.UNAVAILABLE
