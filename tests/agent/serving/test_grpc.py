"""Triton's gRPC client asks the same models, unmodified, and is refused in the same sentences."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient import grpc as triton

from tests.agent.benches import ALIAS, a_bench
from tests.agent.bundles import Floats, a_bundle, images, logits_of
from wherry_agent.serving import ListenSettings, Server, grpc_api
from wherry_agent.serving.arriving import HttpLimits
from wherry_agent.serving.grpc_words import words
from wherry_agent.serving.room import Room

pytestmark = pytest.mark.system

SOUND = a_bundle()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("grpc")
    with a_bench(folder) as bench:
        bench.serve(SOUND)
        listening = ListenSettings(socket_path=folder / "other.sock", grpc_port=0)
        server = Server(bench.engine, bench.recorder, listening)
        server.start()
        yield f"127.0.0.1:{server.grpc_port}"
        server.close()


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as client:
        yield client


def an_image(rows: Floats, name: str = "image") -> triton.InferInput:
    sent = triton.InferInput(name, list(rows.shape), "FP32")
    sent.set_data_from_numpy(rows)
    return sent


@pytest.mark.parametrize("batch", [1, 5])
def test_it_infers_with_raw_tensors(client: triton.InferenceServerClient, batch: int) -> None:
    rows = images(batch)
    answer = client.infer(ALIAS, [an_image(rows)], request_id="mine", parameters={"key": "a"})
    np.testing.assert_allclose(answer.as_numpy("logits"), logits_of(rows), rtol=0, atol=1e-4)
    told = answer.get_response()
    assert (told.id, told.model_version) == ("mine", SOUND.digest)


def test_it_tells_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(ALIAS)
    assert client.is_model_ready(ALIAS, SOUND.digest)
    assert client.get_server_metadata().name == "wherry"
    told = client.get_model_metadata(ALIAS)
    assert (told.name, list(told.versions)) == (ALIAS, [SOUND.digest])
    (image,) = told.inputs
    assert (image.name, image.datatype, list(image.shape)) == ("image", "FP32", [-1, 2, 2])


def test_numbers_in_the_message_are_taken_too(address: str) -> None:
    rows = images(1)
    asked = words("ModelInferRequest")(
        model_name=ALIAS,
        inputs=[
            words("InferInputTensor")(
                name="image",
                datatype="FP32",
                shape=rows.shape,
                contents=words("InferTensorContents")(fp32_contents=rows.ravel().tolist()),
            )
        ],
    )
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=words("ModelInferRequest").SerializeToString,
            response_deserializer=words("ModelInferResponse").FromString,
        )
        told = infer(asked)
    got = np.frombuffer(told.raw_output_contents[0], np.float32)
    np.testing.assert_allclose(got, logits_of(rows).ravel(), rtol=0, atol=1e-4)


def test_what_is_wrong_is_said_with_a_status(client: triton.InferenceServerClient) -> None:
    with pytest.raises(
        triton.InferenceServerException, match="no model was ever ordered"
    ) as caught:
        client.infer("other", [an_image(images(1))])
    assert caught.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(triton.InferenceServerException, match="came with the shape") as caught:
        client.infer(ALIAS, [an_image(np.zeros((1, 3), np.float32))])
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    with pytest.raises(triton.InferenceServerException) as caught:
        client.infer(ALIAS, [an_image(np.zeros((1 << 21, 2, 2), np.float32))])
    assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"


def test_with_users_in_the_settings_nobody_is_answered_who_cannot_be_told(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench:
        bench.serve(SOUND)
        listening = ListenSettings(
            socket_path=tmp_path / "other.sock", grpc_port=0, users=("0", "1000")
        )
        server = Server(bench.engine, bench.recorder, listening)
        server.start()
        with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            with pytest.raises(triton.InferenceServerException) as caught:
                client.infer(ALIAS, [an_image(images(1))])
            assert caught.value.status() == "StatusCode.PERMISSION_DENIED"
        server.close()


def test_calls_take_of_the_room_of_all_bodies(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench:
        bench.serve(SOUND)
        path = tmp_path / "other.sock"
        limits = HttpLimits(body_bytes=1 << 20, bodies_bytes=1 << 20)
        server = Server(
            bench.engine,
            bench.recorder,
            ListenSettings(socket_path=path, grpc_port=0, http=limits),
        )
        server.start()
        with (
            socket.socket(socket.AF_UNIX) as other,
            triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client,
        ):
            other.connect(str(path))
            other.sendall(
                b"POST / HTTP/1.1\r\ncontent-length: 1048576\r\nexpect: 100-continue\r\n\r\n"
            )
            assert b"100" in other.recv(4096)
            with pytest.raises(triton.InferenceServerException, match="too many bytes") as caught:
                client.infer(ALIAS, [an_image(images(1))])
            assert caught.value.status() == "StatusCode.UNAVAILABLE"
        server.close()


def test_one_call_too_many_at_a_time_is_refused() -> None:
    async def story() -> None:
        end, port = await grpc_api.serve(
            lambda request, respond: None,
            "127.0.0.1:0",
            room=Room(1024),
            largest_bytes=1024,
            most_calls=1,
        )
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            ask = channel.unary_unary(
                "/inference.GRPCInferenceService/ServerLive",
                request_serializer=words("ServerLiveRequest").SerializeToString,
                response_deserializer=words("ServerLiveResponse").FromString,
            )
            calls = [ask(words("ServerLiveRequest")()) for _ in range(2)]
            codes = [asyncio.ensure_future(call.code()) for call in calls]
            done, _ = await asyncio.wait(codes, return_when=asyncio.FIRST_COMPLETED, timeout=10)
            assert [code.result() for code in done] == [grpc.StatusCode.RESOURCE_EXHAUSTED]
            for call in calls:
                call.cancel()
        await end(0)

    asyncio.run(story())
