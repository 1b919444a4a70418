"""Tests of jobs in processes of their own: results, refusals, deaths, and what they print."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry_controller.builder.faults import refuse
from wherry_controller.builder.jobs import Jobs, Say
from wherry_controller.core.fault import BuildReason, BuildRefused

pytestmark = pytest.mark.system


def adds(one: int, other: int, say: Say) -> int:
    say("quantizing")
    sys.stdout.write("a net may print\n")
    sys.stderr.write("and a converter complain\n")
    return one + other


def refuses(say: Say) -> int:
    refuse(BuildReason.NO_RECIPE, "it cannot be made")


def dies(say: Say) -> int:
    sys.stderr.write("the converter's last words\n")
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def raises(say: Say) -> int:
    raise ArithmeticError("no words for it")


@pytest.fixture(scope="module")
def jobs() -> Iterator[Jobs]:
    with Jobs(2) as running:
        yield running


def nothing(_: str) -> None: ...


def test_a_job_gives_its_result_says_how_far_it_is_and_keeps_its_log(
    jobs: Jobs, tmp_path: Path
) -> None:
    said: list[str] = []
    log = tmp_path / "variant.log"
    future = jobs.submit(functools.partial(adds, 2, 3), log=log, say=said.append)
    assert future.result() == 5
    assert said == ["quantizing"]
    assert log.read_text() == "a net may print\nand a converter complain\n"


def test_a_refusal_keeps_its_name(jobs: Jobs, tmp_path: Path) -> None:
    future = jobs.submit(refuses, log=tmp_path / "log", say=nothing)
    with pytest.raises(BuildRefused, match="it cannot be made") as refusal:
        future.result()
    assert refusal.value.fault.reason is BuildReason.NO_RECIPE


def test_a_death_ends_its_own_job_and_no_other(jobs: Jobs, tmp_path: Path) -> None:
    dead = jobs.submit(dies, log=tmp_path / "dead.log", say=nothing)
    alive = jobs.submit(functools.partial(adds, 1, 1), log=tmp_path / "alive.log", say=nothing)
    with pytest.raises(BuildRefused, match=r"SIGSEGV.*the converter's last words") as refusal:
        dead.result()
    assert refusal.value.fault.reason is BuildReason.CONVERTER_CRASHED
    assert alive.result() == 2


def test_an_error_that_nobody_foresaw_stands_in_the_log_and_is_named(
    jobs: Jobs, tmp_path: Path
) -> None:
    log = tmp_path / "variant.log"
    with pytest.raises(BuildRefused, match=r"ArithmeticError: no words for it.*variant\.log"):
        jobs.submit(raises, log=log, say=nothing).result()
    assert "Traceback" in log.read_text()
