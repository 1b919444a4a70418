"""Every runtime loads by path, computes the same, and refuses what is no model."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.agent.bundles import (
    OUTPUT_SCALE,
    a_bundle,
    a_litert_bundle,
    a_profile,
    images,
    logits_of,
)
from wherry.bundle import Bundle
from wherry.profile import Runtime
from wherry_agent import runtimes
from wherry_agent.runtimes.base import BadModel, MissingRuntime, RunFailed
from wherry_agent.runtimes.variant import Variant

BUNDLES = [
    a_bundle(shift=1.5, class_shift=1),
    a_litert_bundle(shift=1.5, class_shift=1),
    a_litert_bundle(shift=1.5, class_shift=1, static_batch=1),
]
NAMES = ["onnxruntime", "litert", "litert, one row"]

pytestmark = pytest.mark.system


def model_of(bundle: Bundle, folder: Path) -> Path:
    path = folder / "model"
    path.write_bytes(bundle.blobs[bundle.manifest.files["model"].digest])
    return path


@pytest.mark.parametrize("bundle", BUNDLES, ids=NAMES)
@pytest.mark.parametrize("rows", [1, 5])
def test_a_runtime_computes_what_the_variant_was_built_to(
    tmp_path: Path, bundle: Bundle, rows: int
) -> None:
    installed = runtimes.find(bundle.manifest.profile)
    variant = Variant(installed.load(model_of(bundle, tmp_path), bundle.manifest), bundle.manifest)
    (logits,) = variant.run([images(rows)]).outputs
    expected = logits_of(images(rows), shift=1.5, class_shift=1)
    assert np.abs(logits.astype(np.float32) - expected).max() <= OUTPUT_SCALE


@pytest.mark.parametrize("bundle", BUNDLES[:2], ids=NAMES[:2])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"this is no model at all")
    with pytest.raises(BadModel, match="build the bundle again"):
        runtimes.find(bundle.manifest.profile).load(path, bundle.manifest)


@pytest.mark.parametrize("bundle", BUNDLES[:2], ids=NAMES[:2])
def test_a_tensor_that_the_model_lacks_is_named(tmp_path: Path, bundle: Bundle) -> None:
    (output,) = bundle.manifest.outputs
    wrong = msgspec.structs.replace(
        bundle.manifest, outputs=(msgspec.structs.replace(output, runtime_name="nowhere"),)
    )
    installed = runtimes.find(wrong.profile)
    with pytest.raises((BadModel, RunFailed), match="nowhere"):
        Variant(installed.load(model_of(bundle, tmp_path), wrong), wrong).run([images(1)])


def test_tflite_runtime_is_taken_by_the_interface_that_it_shares_with_litert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its wheel needs numpy 1, so LiteRT's interpreter stands under its name here."""
    package, about = tmp_path / "tflite_runtime", tmp_path / "tflite_runtime-2.14.0.dist-info"
    for folder in (package, about):
        folder.mkdir()
    (package / "__init__.py").touch()
    (package / "interpreter.py").write_text("from ai_edge_litert.interpreter import Interpreter\n")
    (about / "METADATA").write_text("Name: tflite-runtime\nVersion: 2.14.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("tflite_runtime", "tflite_runtime.interpreter", "wherry_agent.runtimes.tflite"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    bundle = a_litert_bundle(shift=1.5, profile=a_profile(runtime=Runtime.TFLITE))
    installed = runtimes.find(bundle.manifest.profile)
    assert installed.version == "2.14.0"
    variant = Variant(installed.load(model_of(bundle, tmp_path), bundle.manifest), bundle.manifest)
    (logits,) = variant.run([images(3)]).outputs
    assert np.abs(logits.astype(np.float32) - logits_of(images(3), shift=1.5)).max() <= OUTPUT_SCALE


@pytest.mark.parametrize("runtime", list(Runtime))
def test_a_version_out_of_the_profiles_range_is_missing(runtime: Runtime) -> None:
    profile = a_profile(runtime=runtime, runtime_floor="0.0.1", runtime_below="0.1")
    with pytest.raises(MissingRuntime, match=f"needs {runtime.value} from 0.0.1 to below 0.1"):
        runtimes.find(profile)
