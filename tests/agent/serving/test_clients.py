"""Triton's own client, unchanged, over loopback: every mix of encodings, and shared memory."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException, shared_memory

from tests.agent.benches import ALIAS, Bench, a_bench
from tests.agent.bundles import Floats, a_bundle, images, logits_of

pytestmark = pytest.mark.system

BUNDLE = a_bundle()
ROWS = images(3)
WANTED = logits_of(ROWS)
Client: TypeAlias = triton.InferenceServerClient


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with a_bench(tmp_path_factory.mktemp("bench")) as bench:
        bench.serve(BUNDLE)
        yield bench


@pytest.fixture(scope="module")
def client(bench: Bench) -> Iterator[Client]:
    with triton.InferenceServerClient(f"127.0.0.1:{bench.server.port}") as client:
        yield client


def an_input(rows: Floats = ROWS, *, binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("image", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return tensor


@contextmanager
def a_region(size_bytes: int) -> Iterator[tuple[str, shared_memory.SharedMemoryRegion]]:
    key = f"wherry-test-{uuid.uuid4().hex}"
    region = shared_memory.create_shared_memory_region(key, key, size_bytes)
    try:
        yield key, region
    finally:
        shared_memory.destroy_shared_memory_region(region)


def test_the_server_and_its_models_are_found(client: Client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(ALIAS)
    assert client.is_model_ready(ALIAS, BUNDLE.digest)
    assert client.get_server_metadata()["name"] == "wherry"
    assert client.get_model_metadata(ALIAS)["versions"] == [BUNDLE.digest]
    assert client.get_model_repository_index() == [
        {"name": ALIAS, "version": BUNDLE.digest, "state": "READY", "reason": ""}
    ]


@pytest.mark.parametrize("sent_binary", [True, False])
@pytest.mark.parametrize("wanted_binary", [True, False, None])
@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_every_mix_of_encodings_gives_the_same_answer(
    client: Client, sent_binary: bool, wanted_binary: bool | None, coding: str | None
) -> None:
    outputs = None
    if wanted_binary is not None:
        outputs = [triton.InferRequestedOutput("logits", binary_data=wanted_binary)]
    answer = client.infer(
        ALIAS,
        [an_input(binary=sent_binary)],
        outputs=outputs,
        request_id="r-1",
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
        parameters={"unheard_of": 1},
    )
    np.testing.assert_allclose(answer.as_numpy("logits"), WANTED, atol=1e-5)
    told = answer.get_response()
    assert (told["id"], told["model_version"]) == ("r-1", BUNDLE.digest)
    assert ("data" in answer.get_output("logits")) == (wanted_binary is False)


def test_a_version_is_asked_for_by_its_digest(client: Client) -> None:
    answer = client.infer(ALIAS, [an_input()], model_version=BUNDLE.digest)
    assert answer.get_response()["model_version"] == BUNDLE.digest
    with pytest.raises(InferenceServerException, match="ask for that one"):
        client.infer(ALIAS, [an_input()], model_version="1")


def test_many_requests_at_once_are_each_answered(bench: Bench) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{bench.server.port}", concurrency=4) as client:
        asked = [
            (rows, client.async_infer(ALIAS, [an_input(rows)])) for rows in map(images, [2] * 20)
        ]
        for rows, waiting in asked:
            answer = waiting.get_result().as_numpy("logits")
            np.testing.assert_allclose(answer, logits_of(rows), atol=1e-5)


def test_the_asynchronous_client_is_answered_too(bench: Bench) -> None:
    async def ask() -> Floats:
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{bench.server.port}") as client:
            values: Floats = (await client.infer(ALIAS, [an_input()])).as_numpy("logits")
            return values

    np.testing.assert_allclose(asyncio.run(ask()), WANTED, atol=1e-5)


def test_tensors_go_through_shared_memory_both_ways(client: Client) -> None:
    room = max(ROWS.nbytes, WANTED.nbytes)
    with a_region(2 * room) as (key, region):
        client.unregister_system_shared_memory()
        client.unregister_cuda_shared_memory()
        client.register_system_shared_memory("my frames/1", key, 2 * room)
        (told,) = client.get_system_shared_memory_status("my frames/1")
        assert told == {"name": "my frames/1", "key": key, "offset": 0, "byte_size": 2 * room}
        assert client.get_cuda_shared_memory_status() == []
        shared_memory.set_shared_memory_region(region, [ROWS])
        sent = triton.InferInput("image", list(ROWS.shape), "FP32")
        sent.set_shared_memory("my frames/1", ROWS.nbytes)
        wanted = triton.InferRequestedOutput("logits")
        wanted.set_shared_memory("my frames/1", WANTED.nbytes, offset=room)
        answer = client.infer(ALIAS, [sent], outputs=[wanted])
        assert answer.get_output("logits")["parameters"] == {
            "shared_memory_region": "my frames/1",
            "shared_memory_byte_size": WANTED.nbytes,
            "shared_memory_offset": room,
        }
        got = shared_memory.get_contents_as_numpy(region, np.float32, WANTED.shape, offset=room)
        np.testing.assert_allclose(got, WANTED, atol=1e-5)
        del got  # It holds the mapping that ends with the region.
        client.unregister_system_shared_memory("my frames/1")
        assert client.get_system_shared_memory_status() == []
        with pytest.raises(InferenceServerException, match="register it first"):
            client.infer(ALIAS, [sent])


def test_an_output_that_has_nowhere_to_go_is_not_computed(client: Client) -> None:
    wanted = triton.InferRequestedOutput("logits")
    wanted.set_shared_memory("nowhere", WANTED.nbytes)
    before = _counted(client)
    with pytest.raises(InferenceServerException, match="register it first"):
        client.infer(ALIAS, [an_input()], outputs=[wanted])
    assert _counted(client) == before


def test_an_output_stays_in_the_part_that_it_was_given(client: Client) -> None:
    with a_region(1024) as (key, region):
        client.register_system_shared_memory("small", key, 1024)
        wanted = triton.InferRequestedOutput("logits")
        wanted.set_shared_memory("small", WANTED.nbytes - 1)
        with pytest.raises(InferenceServerException, match=r"'logits' has 48 bytes; give more"):
            client.infer(ALIAS, [an_input()], outputs=[wanted])
        assert not shared_memory.get_contents_as_numpy(region, np.uint8, [1024]).any()
        client.unregister_system_shared_memory("small")


def test_what_the_client_counts_as_statistics_is_there(client: Client) -> None:
    before = _counted(client)
    client.infer(ALIAS, [an_input()])
    after = _counted(client)
    assert after.rows == before.rows + len(ROWS)
    assert after.executions == before.executions + 1
    counts = {after.stats[name]["count"] for name in ("success", "compute_infer", "queue")}
    assert counts == {after.executions}
    assert 0 < after.stats["compute_infer"]["ns"] < after.stats["success"]["ns"]


@dataclass(frozen=True)
class Counted:
    rows: int
    executions: int
    stats: dict[str, dict[str, int]]


def _counted(client: Client) -> Counted:
    (told,) = client.get_inference_statistics(ALIAS)["model_stats"]
    assert (told["name"], told["version"]) == (ALIAS, BUNDLE.digest)
    return Counted(told["inference_count"], told["execution_count"], told["inference_stats"])


def test_loading_is_refused_with_who_decides_instead(client: Client) -> None:
    for order in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="the controller decides") as refused:
            order(ALIAS)
        assert refused.value.status() == "501"


def test_extensions_that_are_missing_are_said_to_be(client: Client) -> None:
    for ask in (client.get_model_config, client.get_trace_settings):
        with pytest.raises(
            InferenceServerException, match="an extension that this server does not"
        ):
            ask(ALIAS)
    with pytest.raises(InferenceServerException, match="an extension that this server does not"):
        client.get_log_settings()
    with pytest.raises(InferenceServerException, match="an extension that this server does not"):
        client.register_cuda_shared_memory("gpu", b"handle", 0, 16)


def test_what_does_not_fit_is_told_as_the_client_expects(client: Client) -> None:
    wrong = triton.InferInput("image", [1, 3], "FP32")
    wrong.set_data_from_numpy(np.zeros((1, 3), np.float32))
    with pytest.raises(InferenceServerException, match=r"came with the shape \[1, 3\]") as refused:
        client.infer(ALIAS, [wrong])
    assert refused.value.status() == "400"
    with pytest.raises(InferenceServerException, match="no model was ever") as refused:
        client.infer("other", [an_input()])
    assert refused.value.status() == "404"


def test_a_region_that_shrinks_harms_nobody(client: Client) -> None:
    with a_region(1 << 20) as (key, _):
        client.register_system_shared_memory("shrinks", key, 1 << 20)
        os.truncate(f"/dev/shm/{key}", 8)
        sent = triton.InferInput("image", list(ROWS.shape), "FP32")
        sent.set_shared_memory("shrinks", ROWS.nbytes)
        wanted = triton.InferRequestedOutput("logits")
        wanted.set_shared_memory("shrinks", WANTED.nbytes)
        for asked in ({"inputs": [sent]}, {"inputs": [an_input()], "outputs": [wanted]}):
            with pytest.raises(InferenceServerException, match="it has become smaller"):
                client.infer(ALIAS, **asked)
        client.unregister_system_shared_memory("shrinks")
    assert client.infer(ALIAS, [an_input()]).as_numpy("logits").shape == WANTED.shape
