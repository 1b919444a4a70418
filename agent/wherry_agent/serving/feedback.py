"""What bundles answered, kept until the truth of it comes: classes, or the numbers of an output.

A request is judged once, by its id. Of a classifier a row's class is kept, of any other model the
values of its first output where they are few. What is kept is bounded in answers and in values.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from wherry.errors import Malformed, Unavailable
from wherry.measures import LARGEST_CLASSES, ClassCounts, Feedback, capped
from wherry.names import AliasName, Digest

LARGEST_KEPT = 1024  # Values of one answer.
LARGEST_ALL_KEPT = 1 << 16  # Values of all answers together.

Truth: TypeAlias = tuple[int, ...] | tuple[float, ...]
_Key: TypeAlias = tuple[AliasName, str]


class UnknownRequest(Unavailable):
    """Labels for a request whose answer is not kept."""

    def __init__(self, request: str) -> None:
        super().__init__(request)
        self.request = request

    def __str__(self) -> str:
        return (
            f"no answer to a request {self.request[:80]!r} is kept: "
            "label with the id that the answer carries, and sooner."
        )


class LabelledTwice(Malformed):
    """Labels for a request that has been labelled."""

    def __init__(self, request: str) -> None:
        super().__init__(request)
        self.request = request

    def __str__(self) -> str:
        return f"request {self.request[:80]!r} was labelled before; label each answer once."


class WrongLabels(Malformed):
    """Labels or values that are not one for each of the answer's."""

    def __init__(self, given: int, rows: int, what: str) -> None:
        super().__init__(given, rows, what)
        self.given, self.rows, self.what = given, rows, what

    def __str__(self) -> str:
        return f"there are {self.given} {self.what}; send one for each."


class WrongTruth(Malformed):
    """Labels for numbers, or values for classes."""

    def __init__(self, wanted: str) -> None:
        super().__init__(wanted)
        self.wanted = wanted

    def __str__(self) -> str:
        return f"this model is judged by {self.wanted}; send `{self.wanted}` and nothing else."


class BadFeedback(Malformed):
    """A body that holds no labels."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return (
            f"this is no feedback: {self.problem}; "
            'send {"id": "…", "labels": [7]}, or "values" for a model that gives numbers.'
        )


class Sent(msgspec.Struct):
    """What is true of the answer to the request `id`: a class each row, or its numbers, flat."""

    id: str
    labels: list[int] | None = None
    values: list[float] | None = None


_sent: msgspec.json.Decoder[Sent] = msgspec.json.Decoder(Sent)


@dataclass(frozen=True, slots=True)
class Judged:
    """The truth of one answer against what its bundle gave."""

    bundle: Digest
    feedback: Feedback


class _Kept(msgspec.Struct, frozen=True):
    """`truth` of ints are classes, of floats numbers; None once it was judged."""

    bundle: Digest
    given: Truth | None


class Answers:
    """The latest answers, `limit` at most; the oldest goes first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values = 0
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()

    def keep(
        self,
        alias: AliasName,
        request: str,
        bundle: Digest,
        given: Truth,
    ) -> None:
        """Keep classes (ints) or numbers (floats) of an answer, if they are not too many."""
        if not 0 < len(given) <= LARGEST_KEPT:
            return
        self._forget((alias, request))
        self._kept[alias, request] = _Kept(bundle, given)
        self._values += len(given)
        while len(self._kept) > self._limit or self._values > LARGEST_ALL_KEPT:
            self._forget(next(iter(self._kept)))

    def judge(self, alias: AliasName, sent: Sent) -> Judged:
        """Judge an answer once; raises `UnknownRequest` or a `Malformed`."""
        kept = self._kept.get((alias, sent.id))
        if kept is None:
            raise UnknownRequest(sent.id)
        if kept.given is None:
            raise LabelledTwice(sent.id)
        judged = Judged(kept.bundle, _compare(sent, kept.given))
        self._values -= len(kept.given)
        self._kept[alias, sent.id] = _Kept(kept.bundle, None)
        return judged

    def _forget(self, key: _Key) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None and kept.given is not None:
            self._values -= len(kept.given)


def decode_feedback(body: bytes | bytearray | memoryview) -> Sent:
    """Return the labels or values that came; raise `BadFeedback` where there are none."""
    try:
        sent = _sent.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFeedback(str(error)) from error
    if (sent.labels is None) == (sent.values is None):
        raise BadFeedback("it holds labels and values, or neither")
    return sent


def _compare(sent: Sent, given: Truth) -> Feedback:
    classes = isinstance(given[0], int)
    truth = sent.labels if classes else sent.values
    if truth is None:
        raise WrongTruth("labels" if classes else "values")
    if len(truth) != len(given):
        what = f"labels for {len(given)} rows" if classes else f"values for {len(given)}"
        raise WrongLabels(len(truth), len(given), what)
    if sent.labels is not None:
        return _feedback_of_classes(sent.labels, [int(value) for value in given])
    return _feedback_of_numbers(truth, given)


def _feedback_of_classes(labels: Sequence[int], given: Sequence[int]) -> Feedback:
    true, answered = Counter(labels), Counter(given)
    right = Counter(label for label, answer in zip(labels, given, strict=True) if label == answer)
    seen = [index for index in sorted({*true, *answered}) if index >= 0][:LARGEST_CLASSES]
    counts = {
        str(index): ClassCounts(true=true[index], answered=answered[index], right=right[index])
        for index in seen
    }
    return Feedback(len(labels), right.total(), counts)


def _feedback_of_numbers(truth: Sequence[float], given: Sequence[float]) -> Feedback:
    errors = [abs(told - true) for told, true in zip(given, truth, strict=True)]
    # Not fsum, which raises where it overflows.
    absolute, squared = sum(errors), sum(error * error for error in errors)
    return Feedback(
        values=len(errors),
        absolute_error=capped(absolute),
        squared_error=capped(squared),
        answers=1,
    )
