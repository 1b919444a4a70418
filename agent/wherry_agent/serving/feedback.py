"""Which bundle answered which request with which classes, kept until its labels come."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TypeAlias

from wherry.errors import Malformed, Unavailable
from wherry.names import AliasName, Digest

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
    """Labels that are not one for each row of the answer."""

    def __init__(self, given: int, rows: int) -> None:
        super().__init__(given, rows)
        self.given, self.rows = given, rows

    def __str__(self) -> str:
        return f"there are {self.given} labels for {self.rows} rows; send one for each."


@dataclass(frozen=True, slots=True)
class Judged:
    """The labels of one answer against the classes that its bundle gave."""

    bundle: Digest
    labels: int
    right: int


@dataclass(frozen=True, slots=True)
class _Kept:
    bundle: Digest
    classes: tuple[int, ...]
    labelled: bool = False


class Answers:
    """The latest answers, `limit` at most; the oldest goes first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()

    def keep(
        self, alias: AliasName, request: str, bundle: Digest, classes: tuple[int, ...]
    ) -> None:
        self._kept[alias, request] = _Kept(bundle, classes)
        self._kept.move_to_end((alias, request))
        if len(self._kept) > self._limit:
            self._kept.popitem(last=False)

    def label(self, alias: AliasName, request: str, labels: tuple[int, ...]) -> Judged:
        """Judge an answer once; raises `UnknownRequest`, `LabelledTwice` or `WrongLabels`."""
        kept = self._kept.get((alias, request))
        if kept is None:
            raise UnknownRequest(request)
        if kept.labelled:
            raise LabelledTwice(request)
        if len(labels) != len(kept.classes):
            raise WrongLabels(len(labels), len(kept.classes))
        self._kept[alias, request] = _Kept(kept.bundle, (), labelled=True)
        right = sum(a == b for a, b in zip(labels, kept.classes, strict=True))
        return Judged(kept.bundle, len(labels), right)
