"""What is looked at is counted by the reference's bins, within a share of the computing time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.agent.bundles import a_bundle
from wherry import codec
from wherry.blobs import describe
from wherry.manifest import REFERENCE_FILE, Manifest, open_manifest
from wherry.measures import LARGEST_BINS, LARGEST_CLASSES, Seen
from wherry.reference import LARGEST_REFERENCE_BYTES, Distribution, Reference
from wherry_agent import observing
from wherry_agent.observing import Observer, reference_of

Array: TypeAlias = NDArray[np.generic]
EDGES = (-1.0, 0.0, 0.5)
IMAGE = np.array([[[-2.0, -1.0], [0.0, 0.25]]], np.float32)
LOGITS = np.array([[0.1, 0.9, 0.2, 0.3]], np.float32)


class Ticking:
    """A clock on which each look takes `look_ns`."""

    def __init__(self, look_ns: int = 0) -> None:
        self.now_ns, self._look_ns = 0, look_ns

    def __call__(self) -> int:
        self.now_ns += self._look_ns
        return self.now_ns


def a_manifest(class_output: str | None = "logits") -> Manifest:
    bundle = a_bundle()
    manifest = open_manifest(bundle.envelope, bundle.digest)
    return msgspec.structs.replace(manifest, class_output=class_output)


def a_distribution(
    name: str = "image",
    *,
    edges: tuple[float, ...] = EDGES,
    stride: int = 1,
    classes: tuple[float, ...] = (),
) -> Distribution:
    return Distribution(
        name=name,
        rows=10,
        edges=edges,
        counts=(1,) * (len(edges) + 1),
        zeros=0.0,
        not_finite=0.0,
        stride=stride,
        classes=classes,
    )


def a_reference(*inputs: Distribution, outputs: tuple[Distribution, ...] = ()) -> Reference:
    return Reference(inputs=inputs or (a_distribution(),), outputs=outputs)


def an_observer(reference: Reference | None, share: float = 1.0, look_ns: int = 0) -> Observer:
    return Observer(a_manifest(), reference, share, clock_ns=Ticking(look_ns))


def look(observer: Observer, image: Array = IMAGE, logits: Array = LOGITS) -> Seen:
    observer.note([image], [logits], 1000)
    taken = observer.take()
    assert taken is not None
    return taken[0][0]


def test_values_are_counted_between_the_references_edges() -> None:
    seen = look(an_observer(a_reference()))
    assert seen == Seen(name="image", rows=1, values=4, counts=(1, 1, 2, 0), zeros=1, not_finite=0)


def test_an_edge_belongs_to_the_bin_above_it_as_in_the_reference() -> None:
    image = np.array([[[-1.0, 0.0], [0.5, 0.5]]], np.float32)
    assert look(an_observer(a_reference()), image).counts == (0, 1, 1, 2)


def test_what_is_no_number_is_counted_and_lies_in_no_bin() -> None:
    image = np.array([[[np.nan, np.inf], [-np.inf, 0.0]]], np.float32)
    seen = look(an_observer(a_reference()), image)
    assert (seen.counts, seen.values, seen.not_finite, seen.zeros) == ((0, 0, 1, 0), 4, 3, 1)


def test_the_classes_of_the_answers_are_counted() -> None:
    classes = a_distribution("logits", classes=(0.25, 0.25, 0.25, 0.25))
    observer = an_observer(a_reference(outputs=(classes,)))
    logits = np.repeat(LOGITS, 3, axis=0)
    logits[0, 3] = 7.0
    observer.note([np.repeat(IMAGE, 3, axis=0)], [logits], 1000)
    taken = observer.take()
    assert taken is not None
    assert taken[1][0].classes == (0, 2, 0, 1)


def test_classes_of_another_number_than_the_references_are_not_counted() -> None:
    classes = a_distribution("logits", classes=(0.5, 0.5))
    observer = an_observer(a_reference(outputs=(classes,)))
    observer.note([IMAGE], [LOGITS], 1000)
    taken = observer.take()
    assert taken is not None
    assert taken[1][0].classes == (0, 0)


def test_it_looks_at_the_values_that_the_reference_looked_at() -> None:
    seen = look(an_observer(a_reference(a_distribution(stride=3))))
    assert (seen.values, seen.counts) == (2, (1, 0, 1, 0))


def test_of_a_large_request_some_rows_and_of_a_long_row_some_values_are_looked_at() -> None:
    image = np.zeros((100, 50, 60), np.float32)
    seen = look(an_observer(a_reference()), image)
    assert seen.rows <= observing.MOST_ROWS
    assert seen.values <= observing.MOST_ROWS * observing.MOST_VALUES
    assert seen.values == seen.zeros == seen.counts[2]


def test_what_was_taken_is_not_told_again() -> None:
    classes = a_distribution("logits", classes=(0.25, 0.25, 0.25, 0.25))
    observer = an_observer(a_reference(outputs=(classes,)))
    taken = []
    for _ in range(2):
        observer.note([IMAGE], [LOGITS], 1000)
        taken.append(observer.take())
    assert taken[0] == taken[1] is not None
    assert observer.take() is None


@settings(max_examples=20)
@given(st.lists(st.integers(1, 10**7), min_size=200, max_size=300), st.integers(1, 10**6))
def test_looking_takes_no_more_than_its_share_of_the_computing_time(
    compute_ns: list[int], look_ns: int
) -> None:
    clock = Ticking(look_ns)
    observer = Observer(a_manifest(), a_reference(), 0.01, clock_ns=clock)
    for taken_ns in compute_ns:
        observer.note([IMAGE], [LOGITS], taken_ns)
    looked_ns = clock.now_ns / 2  # It is asked for the time before and after a look.
    assert looked_ns <= 0.01 * sum(compute_ns) + look_ns
    assert looked_ns > 0


def test_without_a_share_or_a_reference_nothing_is_looked_at() -> None:
    for observer in (an_observer(a_reference(), 0.0), an_observer(None)):
        observer.note([IMAGE], [LOGITS], 10**9)
        assert observer.take() is None


def test_bins_that_no_window_can_tell_are_left_out() -> None:
    edges = tuple(float(edge) for edge in range(LARGEST_BINS))
    observer = an_observer(a_reference(a_distribution(edges=edges)))
    observer.note([IMAGE], [LOGITS], 1000)
    assert observer.take() is None


def test_no_more_is_counted_than_a_window_can_tell() -> None:
    known = a_manifest()
    names = [f"t{number}" for number in range(200)]

    def each(part: msgspec.Struct) -> tuple[msgspec.Struct, ...]:
        return tuple(msgspec.structs.replace(part, name=name) for name in names)

    manifest = msgspec.structs.replace(
        known,
        signature=msgspec.structs.replace(known.signature, inputs=each(known.signature.inputs[0])),
        inputs=each(known.inputs[0]),
        golden=msgspec.structs.replace(known.golden, inputs=each(known.golden.inputs[0])),
    )
    edges = tuple(float(edge) for edge in range(31))
    reference = a_reference(*(a_distribution(name, edges=edges) for name in names))
    observer = Observer(manifest, reference, 1.0, clock_ns=Ticking())
    observer.note([IMAGE] * len(names), [LOGITS], 1000)
    taken = observer.take()
    assert taken is not None
    told = [len(seen.counts) + len(seen.classes) for side in taken for seen in side]
    assert 0 < sum(told) <= observing.MOST_COUNTS


def test_more_classes_than_a_window_can_tell_are_left_out() -> None:
    shares = (0.0,) * (LARGEST_CLASSES + 1)
    observer = an_observer(a_reference(outputs=(a_distribution("logits", classes=shares),)))
    observer.note([IMAGE], [np.zeros((1, LARGEST_CLASSES + 1), np.float32)], 1000)
    taken = observer.take()
    assert taken is not None
    assert taken[1][0].classes == ()


def test_tensors_of_every_type_can_be_looked_at() -> None:
    for dtype in (np.bool_, np.uint8, np.int8, np.int32, np.int64, np.float16, np.float64):
        seen = look(an_observer(a_reference()), np.ones((2, 2, 2), dtype))
        assert seen.counts == (0, 0, 0, 8)


def write(folder: Path, data: bytes) -> Manifest:
    """Put a reference beside a bundle and return the bundle's manifest."""
    blob = describe(data)
    (folder / blob.digest).write_bytes(data)
    manifest = a_manifest()
    files = {**manifest.files, REFERENCE_FILE: blob}
    return msgspec.structs.replace(manifest, files=files)


def test_the_reference_is_read_from_the_bundle(tmp_path: Path) -> None:
    reference = a_reference()
    manifest = write(tmp_path, codec.encode(reference))
    assert reference_of(manifest, tmp_path) == reference


@pytest.mark.parametrize("data", [b"{}", b"no json", b" " * (300 * 1024)])
def test_a_reference_that_cannot_be_read_is_none(tmp_path: Path, data: bytes) -> None:
    assert reference_of(write(tmp_path, data), tmp_path) is None


def test_a_reference_too_long_to_be_one_is_not_read(tmp_path: Path) -> None:
    manifest = write(tmp_path, b" " * (LARGEST_REFERENCE_BYTES + 1))
    os.truncate(tmp_path / manifest.files[REFERENCE_FILE].digest, 1 << 42)  # No memory holds it.
    assert reference_of(manifest, tmp_path) is None


def test_a_reference_that_was_altered_or_is_gone_is_none(tmp_path: Path) -> None:
    manifest = write(tmp_path, codec.encode(a_reference()))
    place = tmp_path / manifest.files[REFERENCE_FILE].digest
    place.write_bytes(codec.encode(a_reference(a_distribution(edges=(7.0,)))))
    assert reference_of(manifest, tmp_path) is None
    place.unlink()
    assert reference_of(manifest, tmp_path) is None
    assert reference_of(a_manifest(), tmp_path) is None
