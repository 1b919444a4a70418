"""Requests that are computed together: their rows one after the other, and apart again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from wherry_agent.asking import Answer
from wherry_agent.frames import Tensor


def fit_together(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Say whether the tensors differ in nothing but how many rows they have."""
    return len(some) == len(others) and all(
        (one.name, one.datatype, one.shape[1:]) == (other.name, other.datatype, other.shape[1:])
        for one, other in zip(some, others, strict=True)
    )


def merge(requests: Sequence[Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """Return the tensors of requests that fit together as those of one request."""
    return tuple(
        Tensor(
            same[0].name,
            same[0].datatype,
            (sum(tensor.shape[0] for tensor in same), *same[0].shape[1:]),
            b"".join(tensor.data for tensor in same),
        )
        for same in zip(*requests, strict=True)
    )


def split(answer: Answer, rows: Sequence[int]) -> list[Answer] | None:
    """Return the answer of each request that was merged, by their numbers of rows.

    None where an output has not a row for each row that was asked: such a model answers requests
    only one by one. Each took as long to compute as all of them did. The bytes are copied: the
    first that is told its answer may ask again, and so free what the others' stand in.
    """
    ends = list(accumulate(rows))
    if any(tensor.shape[:1] != (ends[-1],) for tensor in answer.tensors):
        return None
    return [
        Answer(
            answer.bundle,
            tuple(_rows_of(tensor, end - length, end) for tensor in answer.tensors),
            answer.compute_ns,
        )
        for end, length in zip(ends, rows, strict=True)
    ]


def _rows_of(tensor: Tensor, begin: int, end: int) -> Tensor:
    row_bytes = len(tensor.data) // tensor.shape[0]
    part = bytes(memoryview(tensor.data)[begin * row_bytes : end * row_bytes])
    return Tensor(tensor.name, tensor.datatype, (end - begin, *tensor.shape[1:]), part)
