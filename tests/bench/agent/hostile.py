"""Offers hostile bundles to an engine that serves: `python -m tests.bench.agent.hostile [COUNT]`.

What a damaged model answers as the sound one does harms nobody and is not counted as tried. An
engine that gives no word of a bundle, or an API that does not answer, counts as an agent that is
down; a crash of the engine's own process ends this one, and there are no figures then.
"""

from __future__ import annotations

import json
import queue
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.agent.benches import Bench, a_bench
from tests.agent.bundles import a_bundle
from tests.hostile import corpus
from tests.hostile.judging import JUDGED, Judgement, Outcome, judge, watching
from wherry_agent.client import Client, NotReachable
from wherry_agent.engine import EngineSettings

DAMAGED = 500
LOAD_TIMEOUT_S = 10.0


def measure(damaged: int = DAMAGED) -> dict[str, int]:
    """Return how many were tried and refused, and how often agent and incumbent were down."""
    counts: Counter[str] = Counter(tried=0, refused=0, agent_down=0, incumbent_down=0)
    with tempfile.TemporaryDirectory() as folder:
        settings = EngineSettings(load_timeout_s=LOAD_TIMEOUT_S)
        with a_bench(Path(folder), settings) as bench:
            bench.load(a_bundle())
            bench.serve(a_bundle())
            with bench.client() as client, watching(client) as watched:
                for hostile in _all(damaged):
                    counts.update(_offer(bench, hostile))
            counts["incumbent_down"] = len(watched.lost)
    return dict(counts)


def _all(damaged: int) -> Iterator[corpus.Hostile]:
    yield from corpus.written()
    yield from corpus.damaged(damaged)


def _offer(bench: Bench, hostile: corpus.Hostile) -> Counter[str]:
    try:
        judged = judge(bench, hostile)
    except queue.Empty:
        return Counter(tried=1, agent_down=1)
    counted = _count(hostile, judged)
    with bench.client() as client:
        counted["agent_down"] += 0 if _answers(client) else 1
    return counted


def _count(hostile: corpus.Hostile, judged: Judgement) -> Counter[str]:
    is_damaged = hostile.reasons == corpus.ANY
    if judged.outcome is Outcome.HARMLESS and is_damaged:
        return Counter()
    is_refused = judged.outcome is Outcome.REFUSED and judged.reason in hostile.reasons
    if not is_refused:
        sys.stderr.write(f"not refused as it should be: {hostile.name}: {judged}\n")
    return Counter(tried=1, refused=int(is_refused))


def _answers(client: Client) -> bool:
    try:
        client.is_ready(JUDGED)
    except NotReachable:
        return False
    return True


if __name__ == "__main__":
    found = measure(*(int(argument) for argument in sys.argv[1:2]))
    sys.stdout.write(json.dumps(found) + "\n")
