"""A build as a child process: its messages, its crashes and its end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.builders import a_digest
from tests.controller.scripted import a_card
from wherry import codec
from wherry_controller.core.card import parse_card
from wherry_controller.core.recipe import BuildRequest, BuildStep, Progress
from wherry_controller.services.child import BuildCrashed, BuildStopped, ChildBuilder

PROGRESS = Progress(BuildStep.LOADING, 0, 4)
SAYS = f"print({codec.encode(PROGRESS).decode()!r}, flush=True)"


@pytest.fixture
def request_for_build(tmp_path: Path) -> BuildRequest:
    (tmp_path / "output").mkdir()
    return BuildRequest(
        card=parse_card(a_card()),
        folder=str(tmp_path),
        output=str(tmp_path / "output"),
        lineage=a_digest("lineage"),
        profiles=(),
    )


def a_child(code: str) -> ChildBuilder:
    return ChildBuilder((sys.executable, "-c", code))


def test_each_line_of_the_child_is_a_message(request_for_build: BuildRequest) -> None:
    assert list(a_child(f"{SAYS}; {SAYS}").run(request_for_build)) == [PROGRESS, PROGRESS]


def test_the_child_is_given_the_request(request_for_build: BuildRequest) -> None:
    reads = "import json, sys; assert json.load(open(sys.argv[1]))['card']['model'] == 'digits'"
    assert not list(a_child(reads).run(request_for_build))


def test_a_crash_is_told_by_its_last_line(request_for_build: BuildRequest) -> None:
    child = a_child(f"{SAYS}; raise MemoryError('no more')")
    with pytest.raises(BuildCrashed, match="MemoryError: no more"):
        list(child.run(request_for_build))


def test_a_silent_crash_is_told_by_its_exit_status(request_for_build: BuildRequest) -> None:
    with pytest.raises(BuildCrashed, match="exit status -9"):
        list(a_child("import os; os.kill(os.getpid(), 9)").run(request_for_build))


def test_a_line_that_is_no_message_is_refused(request_for_build: BuildRequest) -> None:
    with pytest.raises(codec.BadDocument, match="build message"):
        list(a_child("print('torch says hello')").run(request_for_build))


def test_a_stop_ends_the_child_that_runs(request_for_build: BuildRequest) -> None:
    child = a_child(f"{SAYS}; import time; time.sleep(600)")
    messages = child.run(request_for_build)
    assert next(messages) == PROGRESS
    child.stop()
    with pytest.raises(BuildStopped, match="order the build again"):
        next(messages)


def test_nothing_begins_after_a_stop(request_for_build: BuildRequest) -> None:
    child = a_child(SAYS)
    child.stop()
    with pytest.raises(BuildStopped):
        list(child.run(request_for_build))
