"""What brings a bundle up, and what is refused by which word."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import onnx
import pytest
from msgspec.structs import replace

from tests.agent.bundles import a_bundle, an_onnx_model, write_bundle
from wherry.blobs import WrongBytes
from wherry.bundle import Bundle
from wherry.manifest import BadManifest
from wherry.reasons import Reason
from wherry_agent import bringup
from wherry_agent.asking import Bringing
from wherry_agent.bringup import bring_up
from wherry_agent.golden import GoldenMismatch, GoldenNotFinite
from wherry_agent.runtimes.base import BadModel, MissingRuntime


def a_place(bundle: Bundle, folder: Path) -> bringup.Place:
    manifest, blobs = write_bundle(bundle, folder)
    return bringup.Place(bundle.digest, manifest, blobs)


@pytest.mark.system
@pytest.mark.parametrize(
    ("widest", "own", "faithful"),
    [(0.1, {}, True), (0.1, {"logits": 0.01}, False), (0.01, {"logits": 0.1}, True)],
)
def test_an_output_is_held_to_its_own_tolerance_where_it_has_one(
    tmp_path: Path, widest: float, own: dict[str, float], faithful: bool
) -> None:
    bundle = a_bundle(golden_error=0.05)
    golden = replace(bundle.manifest.golden, tolerance=widest, tolerances=own)
    manifest = replace(bundle.manifest, golden=golden)
    refused = pytest.raises(GoldenMismatch, match=r"0\.01 is allowed")
    with nullcontext() if faithful else refused:
        bring_up(a_place(bundle, tmp_path), manifest, Bringing())


@pytest.mark.system
def test_a_model_that_cannot_run_its_golden_inputs_is_to_be_built_again(tmp_path: Path) -> None:
    model = onnx.load_from_string(an_onnx_model())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    bundle = a_bundle(model=model.SerializeToString())
    with pytest.raises(BadModel, match=r"build the bundle again\.$"):
        bring_up(a_place(bundle, tmp_path), bundle.manifest, Bringing())


@pytest.mark.system
def test_a_manifest_that_was_altered_is_not_read(tmp_path: Path) -> None:
    place = a_place(a_bundle(), tmp_path)
    place.manifest.write_bytes(place.manifest.read_bytes().replace(b'"v1"', b'"v2"'))
    with pytest.raises(WrongBytes):
        bringup.read_manifest(place)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MissingRuntime("a", "b"), Reason.MISSING_RUNTIME),
        (GoldenMismatch("y", 1.0, 0.5), Reason.GOLDEN_MISMATCH),
        (GoldenNotFinite("y"), Reason.NOT_FINITE),
        (WrongBytes("a", "b"), Reason.WRONG_BYTES),
        (BadModel("it is none"), Reason.LOAD_FAILED),
        (BadManifest("it is none"), Reason.LOAD_FAILED),
        (OSError("gone"), Reason.LOAD_FAILED),
    ],
)
def test_every_refusal_to_load_has_its_reason(error: Exception, reason: Reason) -> None:
    assert bringup.reason_of(error) is reason
