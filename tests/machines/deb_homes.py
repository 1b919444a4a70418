"""Homes of devices that have confirmed a bundle, to be copied into roots, and what they answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.agent.bundles import Floats, a_bundle, a_litert_bundle, images, logits_of
from tests.bench.agent.lives import a_life
from wherry.bundle import Bundle

MODELS: Mapping[str, Callable[[], Bundle]] = {"onnx": a_bundle, "litert": a_litert_bundle}
ROWS: Floats = images(3)
TOLERANCE = 0.2  # LiteRT's model is int8, with an output step of 0.125.


def a_confirmed_home(kind: str, scratch: Path) -> Path:
    """Return a home whose agent serves a bundle for the runtime `kind` without any broker."""
    folder = scratch / f"life-{kind}"
    shutil.rmtree(folder, ignore_errors=True)
    with a_life(folder, MODELS[kind]()) as life:
        life.end()
        return life.home


def the_question() -> str:
    """Return what `wherry-agent infer` reads."""
    return json.dumps({"image": ROWS.tolist()})


def is_right(said: str) -> bool:
    """Return whether the answer of `wherry-agent infer` is the model's."""
    (line,) = [line for line in said.splitlines() if line.startswith("{")][-1:]
    values = json.loads(line)["outputs"][0]["data"]
    flat = [each for row in values for each in (row if isinstance(row, list) else [row])]
    expected = logits_of(ROWS).ravel().tolist()
    return len(flat) == len(expected) and all(
        abs(one - other) <= TOLERANCE for one, other in zip(flat, expected, strict=True)
    )
