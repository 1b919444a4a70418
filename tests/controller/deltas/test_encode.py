"""The encoder: what it writes rebuilds, and each way is taken where it is the shortest."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.controller.deltas.files import Weights, a_model, some_weights, tuned
from tests.deltas import a_header, as_blob, expected, rebuilt
from wherry.blobs import WrongBytes
from wherry.delta import FIELD_BITS, HEAD, Kind, join_fields, pack_header
from wherry_controller.deltas.__main__ import make
from wherry_controller.deltas.encode import encode, split_fields

MODELS = Path(__file__).parents[2] / "vectors" / "models"


def encoded(base: bytes, blob: bytes) -> bytes:
    """Return the delta, which makes the blob again to the byte."""
    delta = b"".join(encode(base, blob, a_header(base, blob)))
    assert rebuilt(delta, base, expected(base, blob)) == blob
    return delta


def kinds(delta: bytes, base: bytes, blob: bytes) -> Counter[Kind]:
    """Return the bytes that each kind of window tells."""
    found: Counter[Kind] = Counter()
    at = len(pack_header(a_header(base, blob)))
    while at < len(delta):
        kind, _, _, length, _, payload_bytes, _ = HEAD.unpack_from(delta, at)
        found[Kind(kind)] += length
        at += HEAD.size + payload_bytes
    return found


def share(base: Weights, blob: Weights, **facts: str) -> float:
    old, new = a_model(base), a_model(blob, **facts)
    return len(encoded(old, new)) / len(new)


@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_any_bytes_come_of_any_others(base: bytes, blob: bytes) -> None:
    encoded(base, blob)


@given(st.binary(min_size=1, max_size=500), st.sampled_from(FIELD_BITS))
def test_fields_that_were_split_are_joined_again(data: bytes, bits: int) -> None:
    plane = np.frombuffer(data, dtype=np.uint8)
    assert join_fields(split_fields(plane, bits), bits, len(plane)).tobytes() == data


def test_the_same_file_is_one_copy() -> None:
    data = a_model(some_weights())
    delta = encoded(data, data)
    assert len(delta) < 400
    assert kinds(delta, data, data) == {Kind.COPY: len(data)}


@pytest.mark.parametrize(("dtype", "largest"), [("float16", 0.2), ("float32", 0.51)])
def test_weights_that_moved_a_little_take_a_part_of_their_bytes(dtype: str, largest: float) -> None:
    weights = some_weights(dtype=dtype)
    # Noise of one size for all weights is the hardest case: its entropy is 17 and 48 %.
    assert share(weights, tuned(weights)) < largest


def test_integers_of_which_few_moved_take_little() -> None:
    weights = {"w": np.random.default_rng(3).integers(-127, 127, (300, 400), dtype=np.int8)}
    moved = weights["w"].copy()
    moved[::7, ::9] += 1
    assert share(weights, {"w": moved}) < 0.03


def test_only_the_layer_that_was_trained_is_told() -> None:
    weights = some_weights(dtype="float16")
    after = weights | {"bias": tuned(weights)["bias"]}
    assert share(weights, after) < 0.01


def test_channels_that_were_scaled_are_told_by_their_factors() -> None:
    weights = some_weights(dtype="float16")
    factors = np.linspace(0.9, 1.1, 32).reshape(32, 1, 1, 1)
    scaled = tuned(weights) | {"conv": (weights["conv"].astype("f4") * factors).astype("float16")}
    base, blob = a_model(weights), a_model(scaled)
    delta = encoded(base, blob)
    assert kinds(delta, base, blob)[Kind.SCALED] == scaled["conv"].nbytes
    assert len(delta) < 0.18 * len(blob)


def test_weights_that_were_retrained_are_told_in_full_planes() -> None:
    base, blob = a_model(some_weights(1)), a_model(some_weights(2))
    delta = encoded(base, blob)
    assert len(delta) < 1.01 * len(zstandard.ZstdCompressor(level=19).compress(blob))


def test_what_a_new_tensor_or_a_longer_graph_moved_is_found_again() -> None:
    weights = some_weights()
    grown = {"new": some_weights(5)["conv"][:1], **weights}
    base, blob = a_model(weights), a_model(grown, note="a longer graph " * 100)
    delta = encoded(base, blob)
    told = kinds(delta, base, blob)
    assert told[Kind.COPY] > 0.95 * sum(array.nbytes for array in weights.values())
    assert len(delta) < grown["new"].nbytes + 1000


def test_a_changed_graph_is_patched() -> None:
    weights = some_weights()
    base = a_model(weights, note="the first wording of a graph; " * 50)
    blob = a_model(weights, note="the first wording of a graph, changed; " * 50)
    delta = encoded(base, blob)
    assert kinds(delta, base, blob)[Kind.PATCH] > 0
    assert len(delta) < 1000


def test_tensors_that_were_named_anew_are_told_by_those_of_their_shape() -> None:
    weights = some_weights(dtype="float16")
    renamed = {f"other_{name}": array for name, array in tuned(weights).items()}
    assert share(weights, renamed) < 0.2


def test_a_tensor_longer_than_a_window_is_cut_at_its_rows() -> None:
    random = np.random.default_rng(4)
    weights = {"w": random.standard_normal((70, 5000)).astype("float32")}
    factors = np.linspace(0.5, 2, 70, dtype="float32").reshape(70, 1)
    base, blob = a_model(weights), a_model({"w": weights["w"] * factors})
    delta = encoded(base, blob)
    assert len(delta) < 0.01 * len(blob)


def test_special_floats_are_told_too() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-8, 65504] * 100, dtype="float16")
    zeros = np.zeros_like(odd)
    encoded(a_model({"w": zeros}), a_model({"w": odd}))
    encoded(a_model({"w": odd}), a_model({"w": zeros}))


def test_a_tflite_file_is_told_by_its_tensors() -> None:
    for file in sorted(MODELS.glob("*.tflite")):
        base = file.read_bytes()
        moved = np.frombuffer(base, dtype=np.uint8).copy()
        moved[len(base) // 2 :: 50] += 1
        encoded(base, moved.tobytes())


def test_the_process_writes_a_delta_that_it_has_rebuilt(tmp_path: Path) -> None:
    weights = some_weights()
    base, blob = a_model(weights), a_model(tuned(weights))
    make(as_blob(tmp_path, base), as_blob(tmp_path, blob), tmp_path / "delta")
    assert rebuilt((tmp_path / "delta").read_bytes(), base, expected(base, blob)) == blob


def test_a_file_whose_name_lies_makes_no_delta(tmp_path: Path) -> None:
    path = as_blob(tmp_path, b"some bytes")
    path.write_bytes(b"other bytes")
    with pytest.raises(WrongBytes):
        make(path, as_blob(tmp_path, b"a blob"), tmp_path / "delta")
    assert not (tmp_path / "delta").exists()
