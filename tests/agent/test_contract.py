"""One signature everywhere: what a client sees is the same, whatever computes underneath.

The same client, unchanged, asks bundles of one version for four runtimes: onnxruntime in fp32 and
in int8, LiteRT in int8, and tflite-runtime, which lives in an environment of its own since it
needs numpy 1 (`make` fills build/tflite; it has no wheels from Python 3.12 on).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.agent.bundles import (
    OUTPUT_SCALE,
    Floats,
    a_bundle,
    a_litert_bundle,
    a_profile,
    an_int8_bundle,
    images,
    logits_of,
    write_bundle,
)
from wherry.bundle import Bundle
from wherry.profile import Runtime
from wherry_agent.client import Client, Input, Placed, RequestRefused, Room, tensor

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
WITH_TFLITE = ROOT / "build/tflite/bin/python"

HERE = Path(sys.executable)
RUNTIMES: dict[str, tuple[Path, Callable[[], Bundle], float]] = {
    "onnxruntime-fp32": (HERE, a_bundle, 1e-4),
    "onnxruntime-int8": (HERE, an_int8_bundle, OUTPUT_SCALE),
    "litert-int8": (HERE, a_litert_bundle, OUTPUT_SCALE),
}
if sys.version_info < (3, 12):

    def a_tflite_bundle() -> Bundle:
        return a_litert_bundle(profile=a_profile(runtime=Runtime.TFLITE))

    RUNTIMES["tflite-runtime-int8"] = (WITH_TFLITE, a_tflite_bundle, OUTPUT_SCALE)


@contextmanager
def an_agent(python: Path, bundle: Bundle, folder: Path) -> Iterator[Client]:
    """Answer for a bundle in an environment until the end of the block."""
    manifest, blobs = write_bundle(bundle, folder)
    socket = folder / "api.sock"
    command = [python, "-m", "tests.agent.answering", manifest, blobs, socket, bundle.digest]
    process = subprocess.Popen(
        list(map(str, command)), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "answering\n"
        with Client(socket) as client:
            yield client
    finally:
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


@pytest.fixture(scope="module", params=RUNTIMES)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Client, Bundle, float]]:
    python, make, tolerance = RUNTIMES[request.param]
    bundle = make()
    with an_agent(python, bundle, tmp_path_factory.mktemp(request.param)) as client:
        yield client, bundle, tolerance


def as_numbers(rows: Floats) -> dict[str, Input]:
    return {"image": Input("FP32", rows.shape, rows.ravel().tolist())}


def test_the_metadata_is_the_same_on_every_runtime(served: tuple[Client, Bundle, float]) -> None:
    client, bundle, _ = served
    told = client.metadata("default")
    assert told.pop("versions") == [bundle.digest]
    assert told == {
        "name": "default",
        "platform": "wherry_bundle",
        "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 2, 2]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 4]}],
    }


@pytest.mark.parametrize("batch", [1, 5])
def test_one_client_asks_every_runtime_as_numbers_bytes_and_shared_memory(
    served: tuple[Client, Bundle, float], batch: int
) -> None:
    client, bundle, tolerance = served
    rows = images(batch, seed=batch)
    right = logits_of(rows)
    numbers = client.infer("default", as_numbers(rows))
    raw = client.infer("default", {"image": tensor(rows.data)})
    with client.region(rows.nbytes + right.nbytes) as region:
        region.write(rows.data)
        answer = client.infer(
            "default",
            {"image": Placed("FP32", rows.shape, region.name)},
            outputs={"logits": Room(region.name, right.nbytes, rows.nbytes)},
        )
        shared = np.frombuffer(region.read(right.nbytes, rows.nbytes), np.float32)
    for came in (numbers, raw):
        assert came.version == bundle.digest
        assert tuple(came.output("logits").shape) == right.shape
        np.testing.assert_allclose(came.values("logits"), right.ravel(), rtol=0, atol=tolerance)
    assert raw.output("logits").raw == shared.tobytes()
    assert answer.output("logits").raw == b""
    assert list(numbers.values("logits")) == list(raw.values("logits"))


def test_the_same_requests_are_refused_in_the_same_words(
    served: tuple[Client, Bundle, float],
) -> None:
    client, _, _ = served
    with pytest.raises(RequestRefused, match=r"'image' came with the shape \[1, 4\]"):
        client.infer("default", {"image": Input("FP32", (1, 4), [0.0] * 4)})
    with pytest.raises(RequestRefused, match="send it as FP32"):
        client.infer("default", {"image": Input("INT8", (1, 2, 2), bytes(4))})
    with pytest.raises(RequestRefused, match="send at most 16 rows"):
        client.infer("default", as_numbers(images(17)))
