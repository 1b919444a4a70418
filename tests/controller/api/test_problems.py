"""Errors as problem documents: statuses by kind, reasons by name, sentences as they are."""

from __future__ import annotations

from http import HTTPStatus

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from tests.builders import a_digest
from wherry.blobs import WrongBytes
from wherry.codec import BadDocument
from wherry.errors import Unavailable
from wherry_controller.api import problems
from wherry_controller.core.rollout import NotNow, RolloutStatus
from wherry_controller.services.missing import Taken, UnknownProfile


class BrokerGone(Unavailable):
    def __str__(self) -> str:
        return "the broker is gone: start it."


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (BadDocument("profile", "it is empty"), 422, "bad_document"),
        (WrongBytes(a_digest("a"), a_digest("b")), 403, "wrong_bytes"),
        (Taken("device", "pi-1"), 409, "taken"),
        (NotNow("paused", RolloutStatus.HALTED), 409, "not_now"),
        (UnknownProfile("tpu", ["pi"]), 404, "unknown_profile"),
        (BrokerGone(), 503, "broker_gone"),
        (problems.NotLoggedIn(), 401, "not_logged_in"),
        (ZeroDivisionError(), 500, "zero_division_error"),
    ],
)
def test_a_kind_of_error_has_a_status_and_its_class_a_reason(
    error: Exception, status: int, reason: str
) -> None:
    problem = problems.problem_of(error)
    assert (problem.status, problem.reason) == (status, reason)
    assert problem.type == f"urn:wherry:problem:{reason}"


def test_the_detail_is_the_sentence_with_its_next_step() -> None:
    problem = problems.problem_of(UnknownProfile("tpu", ["pi"]))
    assert problem.title == "Unknown profile"
    assert problem.detail == (
        "there is no profile 'tpu': choose one of pi, or add it with `wherry profile add`."
    )


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    problems.install(app)

    @app.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError

    @app.get("/counts/{count}")
    def counts(count: int) -> int:
        return count

    return TestClient(app, raise_server_exceptions=False)


@pytest.mark.parametrize(
    ("path", "method", "status", "reason"),
    [
        ("/broken", "GET", 500, "internal_error"),
        ("/counts/many", "GET", 422, "bad_request"),
        ("/nowhere", "GET", 404, "not_found"),
        ("/broken", "PUT", 405, "method_not_allowed"),
    ],
)
def test_every_other_error_is_a_problem_document_too(
    client: TestClient, path: str, method: str, status: int, reason: str
) -> None:
    answer = client.request(method, path)
    assert answer.headers["Content-Type"] == problems.MEDIA_TYPE
    said = answer.json()
    assert (answer.status_code, said["status"], said["reason"]) == (status, status, reason)
    assert said["detail"].endswith(".")


def test_a_bad_request_names_the_field(client: TestClient) -> None:
    (error,) = client.get("/counts/many").json()["errors"]
    assert error["field"] == "path.count"


def test_the_table_names_every_kind_of_refusal() -> None:
    assert {HTTPStatus(404), HTTPStatus(503)} <= set(problems.STATUS_OF.values())
