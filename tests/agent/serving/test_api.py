"""The local API over real sockets: one signature on both runtimes, and feedback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.agent.benches import (
    ALIAS,
    Bench,
    a_bench,
    a_get,
    a_post,
    an_infer_request,
    an_input,
    ask,
)
from tests.agent.bundles import OUTPUT_SCALE, a_bundle, a_litert_bundle, images, logits_of
from wherry.bundle import Bundle
from wherry_agent.client import Client, Input, NotServing, RequestRefused

pytestmark = pytest.mark.system

BUNDLE = a_bundle()
LITE = a_litert_bundle()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with a_bench(tmp_path_factory.mktemp("bench")) as bench:
        bench.load(LITE)
        bench.serve(BUNDLE)
        yield bench


@pytest.fixture
def client(bench: Bench) -> Iterator[Client]:
    bench.counted()
    with bench.client() as client:
        yield client


def status_of(bench: Bench, request: bytes) -> tuple[int, object]:
    with bench.wire() as wire:
        wire.send(request)
        status, body = wire.response()
        return status, json.loads(body)


@pytest.mark.parametrize("bundle", [BUNDLE, LITE], ids=["onnxruntime", "litert"])
@pytest.mark.parametrize("rows", [1, 5])
def test_an_application_sees_the_same_on_both_runtimes(
    tmp_path: Path, bundle: Bundle, rows: int
) -> None:
    with a_bench(tmp_path) as bench, bench.client() as client:
        bench.serve(bundle)
        assert client.metadata(ALIAS) == {
            "name": "default",
            "versions": [bundle.digest],
            "platform": "wherry_bundle",
            "inputs": [{"name": "image", "datatype": "FP32", "shape": [-1, 2, 2]}],
            "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 4]}],
        }
        sent = images(rows, seed=rows)
        answer = client.infer(ALIAS, an_input(sent), "r-1")
        (output,) = answer.outputs
        assert (answer.id, answer.version) == ("r-1", bundle.digest)
        assert (output.name, output.datatype, output.shape) == ("logits", "FP32", (rows, 4))
        off = np.asarray(output.data, np.float32).reshape(rows, 4) - logits_of(sent)
        assert np.abs(off).max() <= OUTPUT_SCALE


def test_nested_data_are_the_same_as_flat_ones(client: Client) -> None:
    rows = images(3)
    nested = client.infer(ALIAS, {"image": Input("FP32", rows.shape, rows.tolist())})
    assert nested.values("logits") == client.infer(ALIAS, an_input(rows)).values("logits")


def test_loopback_answers_as_the_socket_does(bench: Bench) -> None:
    with Client(f"http://127.0.0.1:{bench.server.port}") as client:
        assert ask(client, images(1))[0] == BUNDLE.digest


def test_the_socket_is_for_its_user_and_group(bench: Bench) -> None:
    assert bench.socket.stat().st_mode & 0o777 == 0o660


@pytest.mark.parametrize(
    "path",
    [
        "/v2",
        "/v2/",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/default",
        "/v2/models/default?verbose=1",
        "/v2/models/default/ready",
        f"/v2/models/default/versions/{BUNDLE.digest}",
        f"/v2/models/default/versions/{BUNDLE.digest}/ready",
    ],
)
def test_what_there_is_to_read_is_found(bench: Bench, path: str) -> None:
    assert status_of(bench, a_get(path))[0] == 200


@pytest.mark.parametrize(
    ("request_bytes", "status", "sentence"),
    [
        (a_get("/"), 404, "there is nothing at '/'"),
        (a_get("/v2/models"), 404, "there is nothing at '/v2/models'"),
        (a_get("/v2/models/other"), 404, "no model was ever ordered under 'other'"),
        (a_get("/v2/models/No%2F"), 404, "is no alias"),
        (a_get(f"/v2/models/default/versions/{LITE.digest}"), 404, "ask for that one"),
        (a_post(f"/v2/models/default/versions/{LITE.digest}/infer", b"{}"), 404, "ask for that"),
        (a_post("/v2/models/other/infer", b"{}"), 404, "no model was ever"),
        (a_post("/v2/models/default/infer", b"{}"), 400, "this is no inference request"),
        (a_post("/v2/health/live", b""), 405, "takes no POST"),
        (a_post("/v2/models/default/feedback", b"{}"), 400, "this is no feedback"),
        (an_infer_request(images(17)), 400, "send at most 16 rows"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_sentence(
    bench: Bench, request_bytes: bytes, status: int, sentence: str
) -> None:
    got, body = status_of(bench, request_bytes)
    assert got == status
    assert isinstance(body, dict)
    assert sentence in body["error"]


def test_a_device_without_a_model_is_alive_and_not_ready(tmp_path: Path) -> None:
    with a_bench(tmp_path) as bench, bench.client() as client:
        assert status_of(bench, a_get("/v2/health/live")) == (200, {"live": True})
        assert status_of(bench, a_get("/v2/health/ready")) == (503, {"ready": False})
        bench.serve(BUNDLE)
        bench.engine.serve(ALIAS, None)
        assert not client.is_ready(ALIAS)
        with pytest.raises(NotServing, match="nothing serves"):
            ask(client, images(1))
        with bench.wire() as wire:
            wire.send(an_infer_request(images(1)))
            assert b"\r\nretry-after: 1\r\n" in wire.socket.recv(4096)


def test_labels_are_counted_against_the_bundle_that_answered(bench: Bench, client: Client) -> None:
    rows = images(4)
    classes = [int(value) for value in logits_of(rows).argmax(axis=1)]
    wrong = [(value + 1) % 4 for value in classes]
    ask(client, rows, "r-right")
    ask(client, rows, "r-wrong")
    bench.serve(LITE)
    bench.counted()
    assert client.feedback(ALIAS, "r-right", classes).right == 4
    assert client.feedback(ALIAS, "r-wrong", wrong).right == 0
    (window,) = bench.counted()
    assert (window.bundle, window.feedback.labelled, window.feedback.right) == (BUNDLE.digest, 8, 4)
    told = window.feedback.classes.values()
    assert (sum(each.true for each in told), sum(each.right for each in told)) == (8, 4)
    bench.serve(BUNDLE)


def test_labels_count_once_and_for_answers_that_are_kept(bench: Bench, client: Client) -> None:
    ask(client, images(2), "r-once")
    with pytest.raises(RequestRefused, match=r"400.*1 labels for 2 rows"):
        client.feedback(ALIAS, "r-once", [1])
    client.feedback(ALIAS, "r-once", [1, 2])
    with pytest.raises(RequestRefused, match=r"409.*was labelled before"):
        client.feedback(ALIAS, "r-once", [1, 2])
    with pytest.raises(RequestRefused, match=r"404.*'r-none' is kept"):
        client.feedback(ALIAS, "r-none", [1])
    (window,) = bench.counted()
    assert window.feedback.labelled == 2


def test_requests_and_their_times_are_recorded(bench: Bench, client: Client) -> None:
    for _ in range(5):
        ask(client, images(1))
    (window,) = bench.counted()
    assert (window.alias, window.bundle) == (ALIAS, BUNDLE.digest)
    assert (window.requests, window.latency.total, window.compute.total) == (5, 5, 5)
    assert window.compute.buckets[-1] <= window.latency.buckets[-1]
