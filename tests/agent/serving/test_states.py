"""A state is tied to the bundle that gave it: elsewhere it is refused by name, or begun anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.benches import ALIAS, Bench, a_bench
from tests.agent.serving.calls import Called, Caller, a_server
from tests.agent.serving.models import a_summing_bundle
from wherry_agent.serving import ListenSettings
from wherry_agent.settings import StaleState

pytestmark = pytest.mark.system

FIRST, SECOND = a_summing_bundle(), a_summing_bundle(gain=10.0)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with a_bench(tmp_path) as bench:
        bench.serve(FIRST)
        yield bench


def ask(
    caller: Caller, x: float, total: float | None = None, state_of: str | None = None
) -> Called:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [x]}]
    if total is not None:
        inputs.append({"name": "total", "datatype": "FP32", "shape": [1, 1], "data": [total]})
    parameters = {} if state_of is None else {"state_of": state_of}
    return caller.post(f"/v2/models/{ALIAS}/infer", {"inputs": inputs, "parameters": parameters})


def sums(called: Called) -> tuple[float, float]:
    assert called.status == 200, called.body
    outputs = called.json["outputs"]
    assert isinstance(outputs, list)
    ((y,), (total,)) = (output["data"] for output in outputs)
    return y, total


def test_a_state_that_was_left_out_begins_at_zeros(bench: Bench) -> None:
    caller = Caller(bench.socket)
    answer = ask(caller, 3.0)
    assert sums(answer) == (3.0, 3.0)
    assert answer.json["parameters"] == {"state_of": FIRST.digest}
    assert sums(ask(caller, 3.0, 0.0)) == (3.0, 3.0)


def test_a_state_goes_on_with_the_bundle_that_gave_it(bench: Bench) -> None:
    caller = Caller(bench.socket)
    _, total = sums(ask(caller, 3.0))
    assert sums(ask(caller, 4.0, total, FIRST.digest)) == (7.0, 7.0)


def test_a_state_that_nobody_is_named_for_is_refused(bench: Bench) -> None:
    refused = ask(Caller(bench.socket), 4.0, 3.0)
    assert refused.status == 400
    assert "total carries state and nothing says whose" in refused.error


def test_a_state_finds_its_bundle_while_that_may_still_answer(bench: Bench) -> None:
    caller = Caller(bench.socket)
    bench.serve(SECOND)
    assert sums(ask(caller, 1.0)) == (10.0, 1.0)
    answer = ask(caller, 4.0, 3.0, FIRST.digest)
    assert answer.json["model_version"] == FIRST.digest
    assert sums(answer) == (7.0, 7.0)


def test_a_version_that_may_still_answer_is_the_one_that_does(bench: Bench) -> None:
    bench.serve(SECOND)
    for bundle in (FIRST, SECOND):
        path = f"/v2/models/{ALIAS}/versions/{bundle.digest}"
        inputs = [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]
        answer = Caller(bench.socket).post(f"{path}/infer", {"inputs": inputs})
        assert answer.json["model_version"] == bundle.digest
        assert Caller(bench.socket).get(path).json["versions"] == [bundle.digest]


def test_a_stale_state_is_refused_by_name(bench: Bench) -> None:
    bench.serve(SECOND)
    refused = ask(Caller(bench.socket), 4.0, 3.0, "f" * 64)
    assert refused.status == 409
    assert refused.error.startswith(f"StaleState: the state is of bundle '{'f' * 64}'")
    assert "leave the state out to begin anew" in refused.error


def test_a_stale_state_is_begun_anew_by_setting(bench: Bench, tmp_path: Path) -> None:
    settings = ListenSettings(socket_path=tmp_path / "anew", stale_state=StaleState.RESET)
    with a_server(bench, settings):
        answer = ask(Caller(tmp_path / "anew"), 4.0, 3.0, "f" * 64)
    assert sums(answer) == (4.0, 4.0)
    assert answer.json["parameters"] == {"state_of": FIRST.digest, "state_reset": True}


def test_a_model_without_state_wants_all_its_inputs_and_says_nothing_of_state(
    tmp_path: Path,
) -> None:
    bundle = a_summing_bundle(stateful=False)
    with a_bench(tmp_path) as bench:
        bench.serve(bundle)
        caller = Caller(bench.socket)
        assert ask(caller, 1.0).error == "the inputs are not those of the model; send x, total."
        assert "parameters" not in ask(caller, 1.0, 2.0).json


def test_a_model_of_numbers_is_judged_by_values(bench: Bench) -> None:
    caller = Caller(bench.socket)
    asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [1.5, 2.0]}]}
    answer = caller.post(f"/v2/models/{ALIAS}/infer", {**asked, "id": "r-1"})
    assert answer.status == 200
    bench.counted()
    path = f"/v2/models/{ALIAS}/feedback"
    refused = caller.post(path, {"id": "r-1", "labels": [1, 2]})
    assert (refused.status, "send `values`" in refused.error) == (400, True)
    told = caller.post(path, {"id": "r-1", "values": [1.0, 4.0]}).json
    assert told == {
        "id": "r-1",
        "labelled": 0,
        "right": 0,
        "values": 2,
        "absolute_error": 2.5,
        "squared_error": 4.25,
    }
    (window,) = bench.counted()
    assert (window.feedback.values, window.feedback.squared_error) == (2, 4.25)
