"""The rows that a version brings: read by form, checked, told apart and kept on disk.

    file or function -> parts -> inputs and labels as the card says -> digests -> .npy a tensor

Calibration, search and final evaluation share no row. Without a file of its own, the search gets a
quarter of the evaluation rows, picked by digest: it depends on no order, and equal rows stay
together. Memory holds a part and a digest a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from wherry_controller.builder.data.array_file import npy_parts, npz_parts
from wherry_controller.builder.data.code_rows import code_parts
from wherry_controller.builder.data.csv_file import csv_parts
from wherry_controller.builder.data.labels import checked_labels
from wherry_controller.builder.data.ranges import stray
from wherry_controller.builder.data.rows import Array, Rows, Tensors, Writer, digests_of
from wherry_controller.builder.data.wanted import Purpose, Where, checked_inputs
from wherry_controller.builder.faults import refuse, refuse_if, refusing
from wherry_controller.core.card import Card, function_of
from wherry_controller.core.fault import (
    FEWEST_CALIBRATION_ROWS,
    FEWEST_EVALUATION_ROWS,
    BuildReason,
)

MOST_ROWS = 1_000_000
LARGEST_BYTES = 16 * 1024**3
SEARCH_BELOW = 64  # Of the 256 first bytes that a digest can have: a quarter.
CALIBRATION, SEARCH, FINAL = "calibration", "search", "final"

_Look: TypeAlias = tuple[np.dtype[np.generic], tuple[int, ...]]
Parts: TypeAlias = Callable[[Path, Card, Purpose], Iterator[Tensors]]


@dataclass(frozen=True, slots=True)
class Datasets:
    """What a version is calibrated, searched and judged by; no row stands in two of them."""

    calibration: Rows | None
    search: Rows
    final: Rows


@dataclass(frozen=True, slots=True)
class _Kept:
    """Rows on disk with their digests; a digest that stands twice counts once."""

    rows: Rows
    digests: frozenset[bytes]


def read_datasets(card: Card, folder: Path, to: Path) -> Datasets:
    """Read all rows that the card names from `folder` into folders of `to`, and refuse bad ones."""
    judged = _read_judged(card, folder, to)
    search, final = judged[SEARCH], judged[FINAL]
    if card.data.calibration is None:
        return Datasets(None, search.rows, final.rows)
    calibration = _read_calibration(card, card.data.calibration, folder, to)
    shared = calibration.digests & (search.digests | final.digests)
    _refuse_overlap(len(shared), card.data.calibration)
    refuse_if(stray(card.signature, calibration.rows, search.rows))
    return Datasets(calibration.rows, search.rows, final.rows)


def row_digests(rows: Rows) -> frozenset[bytes]:
    """Return the digests by which rows are told apart."""
    return frozenset(digest for part in rows.parts() for digest in digests_of(part))


def side_of(digest: bytes) -> str:
    """Return which part of the evaluation a row belongs to."""
    return SEARCH if digest[0] < SEARCH_BELOW else FINAL


def _read_judged(card: Card, folder: Path, to: Path) -> dict[str, _Kept]:
    data = card.data
    if data.search is None:
        judged = _keep(_judged(card, data.evaluation, folder), to, side_of)
    else:
        judged = _keep(_judged(card, data.evaluation, folder), to, lambda _: FINAL)
        judged |= _keep(_judged(card, data.search, folder), to, lambda _: SEARCH)
        _refuse_overlap(len(judged[SEARCH].digests & judged[FINAL].digests), data.search)
    final = len(judged[FINAL].rows) if FINAL in judged else 0
    if SEARCH not in judged or final < FEWEST_EVALUATION_ROWS:
        problem = (
            f"{data.evaluation} leaves {final} rows to judge by and "
            f"{len(judged[SEARCH].rows) if SEARCH in judged else 0} to search with, and it takes "
            f"{FEWEST_EVALUATION_ROWS} and 1"
        )
        refuse(BuildReason.EVALUATION_SHORT, problem)
    return judged


def _judged(card: Card, name: str, folder: Path) -> Iterator[tuple[Tensors, Tensors]]:
    return _checked(card, name, folder, Purpose.JUDGE)


def _read_calibration(card: Card, name: str, folder: Path, to: Path) -> _Kept:
    if not function_of(name) and not (folder / name).is_file():
        refuse(BuildReason.CALIBRATION_MISSING, f"there is no file {name}")
    parts = _checked(card, name, folder, Purpose.CALIBRATE)
    kept = _keep(parts, to, lambda _: CALIBRATION)[CALIBRATION]
    if len(kept.digests) < FEWEST_CALIBRATION_ROWS:
        problem = f"{name} has {len(kept.rows)} rows, of which {len(kept.digests)} differ"
        refuse(BuildReason.CALIBRATION_SHORT, problem)
    return kept


def _refuse_overlap(shared: int, name: str) -> None:
    """Refuse data of which a row serves to decide and to judge: no figure would show it."""
    if shared:
        problem = f"{shared} of the rows in {name} stand among the evaluation rows too"
        refuse(BuildReason.DATA_OVERLAP, problem)


def _checked(
    card: Card, name: str, folder: Path, purpose: Purpose
) -> Iterator[tuple[Tensors, Tensors]]:
    """Return inputs and labels part by part, each as the card says and all of one shape."""
    rows = size_bytes = 0
    like: dict[str, _Look] = {}
    for part in _guarded(name, _parts(card, name, folder, purpose)):
        where = Where(name, rows)
        inputs = checked_inputs(card.signature, where, part)
        labels = checked_labels(card, where, part) if purpose is Purpose.JUDGE else {}
        looks = {tensor: _look(array) for tensor, array in (*inputs.items(), *labels.items())}
        like = like or looks
        _refuse_unlike(name, like, looks)
        rows += len(next(iter(inputs.values())))
        size_bytes += sum(array.nbytes for array in (*inputs.values(), *labels.values()))
        _refuse_endless(name, rows, size_bytes)
        yield inputs, labels
    if not rows:
        refuse(BuildReason.MALFORMED_DATA, f"{name} has no rows")


def _parts(card: Card, name: str, folder: Path, purpose: Purpose) -> Iterator[Tensors]:
    if function_of(name):
        return code_parts(folder, name, card, purpose)
    form = FORMS.get(Path(name).suffix.lower())
    if form is None:
        problem = f"{name} ends in none of {', '.join(FORMS)}, the last of which is of images"
        refuse(BuildReason.MALFORMED_DATA, problem)
    if not (folder / name).is_file():
        refuse(BuildReason.MALFORMED_DATA, f"{name} cannot be read, since there is no such file")
    return form(folder / name, card, purpose)


def _parquet_parts(file: Path, card: Card, purpose: Purpose) -> Iterator[Tensors]:
    try:
        from wherry_controller.builder.data.parquet_file import parquet_parts
    except ImportError:
        _refuse_without("tables", file)
    return parquet_parts(file, card, purpose)


def _image_parts(file: Path, card: Card, purpose: Purpose) -> Iterator[Tensors]:
    try:
        from wherry_controller.builder.data.image_file import image_parts
    except ImportError:
        _refuse_without("images", file)
    return image_parts(file, card, purpose)


FORMS: dict[str, Parts] = {
    ".npz": npz_parts,
    ".npy": npy_parts,
    ".csv": csv_parts,
    ".parquet": _parquet_parts,
    ".zip": _image_parts,
}


def _refuse_without(extra: str, file: Path) -> NoReturn:
    problem = (
        f"{file.name} needs the extra {extra} of wherry-controller; install it or give an .npz"
    )
    refuse(BuildReason.MALFORMED_DATA, problem)


def _guarded(name: str, parts: Iterator[Tensors]) -> Iterator[Tensors]:
    """Name what reading raises; what writing raises, a full disk, is no fault of the file."""
    while True:
        with refusing(BuildReason.MALFORMED_DATA, f"{name} cannot be read"):
            part = next(parts, None)
        if part is None:
            return
        yield part


def _look(array: Array) -> _Look:
    return array.dtype, array.shape[1:]


def _refuse_unlike(name: str, like: dict[str, _Look], looks: dict[str, _Look]) -> None:
    if like.keys() != looks.keys():
        odd = min(like.keys() ^ looks.keys())
        refuse(BuildReason.MALFORMED_DATA, f"only some rows of {name} have {odd!r}")
    for tensor, look in looks.items():
        if look != like[tensor]:
            shapes = " and ".join(f"{dtype} {list(shape)}" for dtype, shape in (like[tensor], look))
            problem = f"rows of {name} differ in {tensor!r} ({shapes}); pad them to one length"
            refuse(BuildReason.MALFORMED_DATA, problem)


def _refuse_endless(name: str, rows: int, size_bytes: int) -> None:
    if rows > MOST_ROWS or size_bytes > LARGEST_BYTES:
        problem = f"{name} has more than {MOST_ROWS} rows or {LARGEST_BYTES} bytes; give fewer rows"
        refuse(BuildReason.MALFORMED_DATA, problem)


def _keep(
    parts: Iterator[tuple[Tensors, Tensors]], to: Path, side: Callable[[bytes], str]
) -> dict[str, _Kept]:
    """Write each row into the folder of its side; a side that no row belongs to is absent."""
    with ExitStack() as files:
        writers: dict[str, Writer] = {}
        digests: dict[str, set[bytes]] = {}
        for inputs, labels in parts:
            sides = [(side(digest), digest) for digest in digests_of(inputs)]
            for name in sorted({name for name, _ in sides}):
                if name not in writers:
                    writers[name] = files.enter_context(closing(Writer(to / name)))
                    digests[name] = set()
                mine = np.array([each == name for each, _ in sides])
                writers[name].append(_picked(inputs, mine), _picked(labels, mine))
                digests[name].update(digest for each, digest in sides if each == name)
        return {
            name: _Kept(writer.finish(), frozenset(digests[name]))
            for name, writer in writers.items()
        }


def _picked(tensors: Tensors, mine: npt.NDArray[np.bool_]) -> Tensors:
    return {name: array[mine] for name, array in tensors.items()}
