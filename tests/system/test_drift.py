"""From the rows that a version was judged by to the drift that a device shows: the real worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tests.agent.benches import Bench, a_bench, ask
from tests.agent.bundles import KEY, SIGNATURE, Floats, a_bundle, logits_of
from tests.agent.waiting import wait_until
from wherry.blobs import describe
from wherry.bundle import Bundle, seal
from wherry.manifest import REFERENCE_FILE
from wherry.reference import Reference, parse_reference
from wherry_agent.engine import EngineSettings
from wherry_agent.telemetry import WindowCounts
from wherry_controller.builder.data.rows import Rows
from wherry_controller.builder.judging.distribution import reference_of
from wherry_controller.core.drift import DriftLevel, drifts_of, worst_of

pytestmark = pytest.mark.system

RANDOM = np.random.default_rng(3)
BATCH = 16


def some_rows(count: int, mean: float = 0.0) -> Floats:
    return RANDOM.normal(mean, size=(count, 2, 2)).astype(np.float32)


def a_judged_bundle(folder: Path) -> tuple[Bundle, Reference]:
    """Return a bundle with the reference that a build makes of 2,000 rows."""
    plain, rows = a_bundle(), some_rows(2000)
    np.save(folder / "image.npy", rows)
    judged, outputs = Rows({"image": folder / "image.npy"}, {}), {"logits": logits_of(rows)}
    data = reference_of(judged, outputs, SIGNATURE, "logits")
    files = {**plain.manifest.files, REFERENCE_FILE: describe(data)}
    blobs = {**plain.blobs, describe(data).digest: data}
    return seal(replace(plain.manifest, files=files), blobs, KEY), parse_reference(data)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with a_bench(tmp_path, EngineSettings(seen_share=1.0)) as bench:
        yield bench


def looked_at(bench: Bench, mean: float, at_least: int) -> WindowCounts:
    """Ask until so many rows were looked at; return all that was counted."""
    taken: list[WindowCounts] = []

    def has_seen_enough() -> bool:
        with bench.client() as client:
            for _ in range(20):
                ask(client, some_rows(BATCH, mean))
        taken.extend(bench.recorder.take())
        return sum(one.inputs[0].rows for one in taken if one.inputs) >= at_least

    wait_until(has_seen_enough)
    whole = taken[0]
    for window in taken[1:]:
        whole += window
    return whole


def test_a_device_shows_drift_where_its_inputs_moved_and_none_where_they_did_not(
    bench: Bench, tmp_path: Path
) -> None:
    bundle, reference = a_judged_bundle(tmp_path)
    bench.load(bundle)
    bench.serve(bundle)
    same = looked_at(bench, 0.0, 800)
    inputs, outputs = drifts_of(reference, same.inputs, same.outputs)
    assert [one.tensor for one in (*inputs, *outputs)] == ["image", "logits"]
    assert worst_of((*inputs, *outputs)) is DriftLevel.STABLE
    assert outputs[0].classes_psi is not None
    moved = looked_at(bench, 1.0, 800)
    inputs, outputs = drifts_of(reference, moved.inputs, moved.outputs)
    assert worst_of(inputs) is DriftLevel.DRIFTED
    assert worst_of(outputs) is DriftLevel.DRIFTED
