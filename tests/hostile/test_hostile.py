"""Hostile bundles are refused for their reason, beside an incumbent that goes on answering."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.benches import a_bench
from tests.agent.bundles import a_bundle
from tests.hostile import corpus
from tests.hostile.judging import Outcome, judge, watching
from wherry_agent.engine import EngineSettings

pytestmark = pytest.mark.system

LOAD_TIMEOUT_S = 4.0
SOME = (
    "text",
    "unknown operator",
    "half a tflite file",
    "altered model",
    "altered golden output",
    "endless loop",
    "10 GB constant",
    "2.5 GB a row",
    "NaN",
    "other classes",
    "data of '/etc/passwd'",
)


def test_each_kind_is_refused_for_its_reason_and_the_incumbent_goes_on(tmp_path: Path) -> None:
    chosen = {one.name: one for one in corpus.written() if one.name in SOME}
    assert set(chosen) == set(SOME)
    with a_bench(tmp_path, EngineSettings(load_timeout_s=LOAD_TIMEOUT_S)) as bench:
        bench.load(a_bundle())
        bench.serve(a_bundle())
        with bench.client() as client, watching(client) as watched:
            for name, hostile in chosen.items():
                judged = judge(bench, hostile)
                assert judged.outcome is Outcome.REFUSED, name
                assert judged.reason in hostile.reasons, (name, judged)
    assert watched.asked > 0
    assert watched.lost == []


def test_what_was_damaged_answers_nothing_wrong(tmp_path: Path) -> None:
    with a_bench(tmp_path, EngineSettings(load_timeout_s=LOAD_TIMEOUT_S)) as bench:
        bench.load(a_bundle())
        bench.serve(a_bundle())
        with bench.client() as client, watching(client) as watched:
            for hostile in corpus.damaged(18):
                judged = judge(bench, hostile)
                assert judged.outcome is not Outcome.ANSWERED, (hostile.name, judged)
                if judged.outcome is Outcome.REFUSED:
                    assert judged.reason in hostile.reasons, (hostile.name, judged)
    assert watched.lost == []


def test_a_sound_bundle_is_judged_harmless_and_one_that_is_off_is_not(tmp_path: Path) -> None:
    off = a_bundle(shift=3.0)  # Its golden outputs agree with it: only other answers tell.
    with a_bench(tmp_path) as bench:
        for bundle, outcome in ((a_bundle(), Outcome.HARMLESS), (off, Outcome.ANSWERED)):
            hostile = corpus.Hostile("a test", bundle, corpus.ANY)
            assert judge(bench, hostile).outcome is outcome
