"""Manifests: one whose parts do not fit one another is refused, each misfit by its own rule."""

from __future__ import annotations

import json
import math
from contextlib import suppress

import pytest
from hypothesis import given
from msgspec.structs import replace

from tests.builders import (
    INPUT_BYTES,
    MODEL_BYTES,
    OUTPUT_BYTES,
    a_binding,
    a_blob,
    a_golden,
    a_golden_tensor,
    a_manifest,
    a_report,
    a_signature,
    a_tensor,
    floats,
)
from tests.shared.altered import altered
from wherry.codec import BadDocument, decode, encode
from wherry.errors import Malformed
from wherry.manifest import (
    MODEL_FILE,
    BadManifest,
    Binding,
    GoldenTensor,
    Manifest,
    blobs_of,
    tolerance_of,
)
from wherry.manifest import size_of as size_of_blobs
from wherry.signature import BATCH, Datatype

IMAGES = a_signature(inputs=(a_tensor("image", (BATCH, 1, 2, 2), layout="NCHW"),))
GOLDEN_IMAGES = a_golden(
    inputs=(a_golden_tensor("image", (2, 1, 2, 2), data=floats(*range(8))),),
)


def an_image_manifest(permutation: tuple[int, ...]) -> Manifest:
    bound = a_binding(permutation=permutation)
    return a_manifest(signature=IMAGES, golden=GOLDEN_IMAGES, inputs=(bound,))


def test_a_manifest_passes_the_wire_and_says_its_format() -> None:
    data = encode(a_manifest())
    assert json.loads(data)["format"] == "wherry.bundle/1"
    assert decode(Manifest, data) == a_manifest()


@pytest.mark.parametrize(
    "bindings",
    [
        (),
        (a_binding("other"),),
        (a_binding(), a_binding()),
        (a_binding(), a_binding("scores")),
    ],
)
def test_the_bindings_name_the_signature_s_tensors(bindings: tuple[Binding, ...]) -> None:
    with pytest.raises(BadManifest, match="the bindings do not name"):
        a_manifest(inputs=bindings)
    with pytest.raises(BadManifest, match="the bindings do not name"):
        a_manifest(outputs=bindings)


def test_the_bindings_stand_in_the_signature_s_order() -> None:
    signature = a_signature(inputs=(a_tensor("a"), a_tensor("b")))
    golden = a_golden(inputs=(a_golden_tensor("a"), a_golden_tensor("b")))
    bindings = (a_binding("a", "x"), a_binding("b", "y"))
    held = a_manifest(signature=signature, golden=golden, inputs=bindings)
    assert held.inputs == bindings
    with pytest.raises(BadManifest, match="the bindings do not name"):
        a_manifest(signature=signature, golden=golden, inputs=bindings[::-1])
    with pytest.raises(BadManifest, match="the golden tensors are not"):
        a_manifest(
            signature=signature, golden=a_golden(inputs=golden.inputs[::-1]), inputs=bindings
        )


@pytest.mark.parametrize("permutation", [(), (0, 1, 2, 3), (0, 2, 3, 1), (0, 3, 1, 2)])
def test_axes_after_the_batch_may_stand_in_any_order(permutation: tuple[int, ...]) -> None:
    assert an_image_manifest(permutation).inputs[0].permutation == permutation


@pytest.mark.parametrize(
    "permutation",
    [(1, 0, 2, 3), (3, 2, 1, 0), (0, 1, 2), (0, 1, 2, 3, 4), (0, 1, 1, 3), (0, 1, 2, 4), (0,)],
)
def test_a_permutation_keeps_every_axis_and_the_batch_first(permutation: tuple[int, ...]) -> None:
    with pytest.raises(BadManifest, match="does not keep the batch first"):
        an_image_manifest(permutation)


@pytest.mark.parametrize("scale", [0.0, -0.1, math.inf, math.nan])
def test_a_scale_is_positive_and_finite(scale: float) -> None:
    with pytest.raises(BadManifest, match="the scale of 'image'"):
        a_manifest(inputs=(a_binding(scale=scale),))
    with pytest.raises(BadManifest, match="the scale of 'scores'"):
        a_manifest(outputs=(a_binding("scores", scale=scale),))
    assert a_manifest(inputs=(a_binding(scale=0.5, zero_point=-3),)).inputs[0].scale == 0.5


@pytest.mark.parametrize("tensors", [(), (a_golden_tensor("other"),), (a_golden_tensor(),) * 2])
def test_golden_tensors_are_those_of_the_signature(tensors: tuple[GoldenTensor, ...]) -> None:
    with pytest.raises(BadManifest, match="the golden tensors are not the signature's"):
        a_manifest(golden=a_golden(inputs=tensors))
    with pytest.raises(BadManifest, match="the golden tensors are not the signature's"):
        a_manifest(golden=a_golden(outputs=tensors))


@pytest.mark.parametrize("shape", [(), (0, 2), (2,), (2, 3), (2, 2, 1), (-2, 2)])
def test_a_golden_tensor_has_a_shape_that_the_signature_allows(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadManifest, match="the golden 'image' came with the shape"):
        a_manifest(golden=a_golden(inputs=(a_golden_tensor(shape=shape),)))


def test_a_golden_tensor_is_of_the_signature_s_datatype() -> None:
    other = a_golden_tensor(datatype=Datatype.INT32)
    with pytest.raises(BadManifest, match="not of the signature's datatype"):
        a_manifest(golden=a_golden(inputs=(other,)))


@pytest.mark.parametrize("data", [b"", INPUT_BYTES[:-1], INPUT_BYTES + b"\0"])
def test_the_bytes_of_a_golden_tensor_fill_its_shape(data: bytes) -> None:
    with pytest.raises(BadManifest, match="do not fill its shape"):
        a_manifest(golden=a_golden(inputs=(a_golden_tensor(data=data),)))


def test_golden_tensors_have_one_number_of_rows() -> None:
    three = a_golden_tensor(shape=(3, 2), data=floats(*range(6)))
    with pytest.raises(BadManifest, match="not one number of rows"):
        a_manifest(golden=a_golden(inputs=(three,)))


def test_an_output_may_have_a_tolerance_of_its_own() -> None:
    golden = replace(a_golden(tolerance=0.5), tolerances={"scores": 0.25})
    assert tolerance_of(golden, "scores") == 0.25
    assert tolerance_of(a_golden(tolerance=0.5), "scores") == 0.5


@pytest.mark.parametrize("tolerance", [-0.1, math.inf, math.nan])
def test_an_output_s_own_tolerance_is_a_distance(tolerance: float) -> None:
    with pytest.raises(BadManifest, match="is no distance"):
        replace(a_golden(), tolerances={"scores": tolerance})


def test_only_a_golden_output_has_a_tolerance() -> None:
    with pytest.raises(BadManifest, match="'other' has a tolerance and is no golden output"):
        replace(a_golden(), tolerances={"other": 0.1})


@pytest.mark.parametrize("tolerance", [-0.1, math.inf, math.nan])
def test_a_golden_tolerance_is_a_distance(tolerance: float) -> None:
    assert a_golden(tolerance=0.0).tolerance == 0.0
    with pytest.raises(BadManifest, match="is no distance"):
        a_golden(tolerance=tolerance)


@pytest.mark.parametrize("figure", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("field", ["value", "reference_value", "drop_low", "drop_high"])
def test_a_figure_of_a_report_is_finite(field: str, figure: float) -> None:
    with pytest.raises(BadManifest, match="of accuracy is no finite number"):
        replace(a_report(), **{field: figure})


@pytest.mark.parametrize("share", [-0.1, 1.1, math.inf, math.nan])
def test_an_agreement_is_a_share_or_none(share: float) -> None:
    shares = (None, 0.0, 1.0)
    assert [replace(a_report(), agreement=whole).agreement for whole in shares] == list(shares)
    with pytest.raises(BadManifest, match="no share from 0 to 1"):
        replace(a_report(), agreement=share)


def test_a_static_batch_is_at_least_one() -> None:
    assert a_manifest(static_batch=1).static_batch == 1
    for batch in (0, -1):
        with pytest.raises(BadManifest, match="the static batch is below 1"):
            a_manifest(static_batch=batch)


def test_the_class_output_is_an_output_or_none() -> None:
    assert a_manifest(class_output=None).class_output is None
    with pytest.raises(BadManifest, match="there is no output 'image'"):
        a_manifest(class_output="image")


def test_there_is_a_model_file() -> None:
    with pytest.raises(BadManifest, match="there is no file 'model'"):
        a_manifest(files={"labels": a_blob()})


def test_a_misfit_is_refused_on_the_wire_too() -> None:
    data = encode(a_manifest(static_batch=1))
    with pytest.raises(BadManifest, match="build the bundle again"):
        decode(Manifest, data.replace(b'"static_batch":1', b'"static_batch":0'))
    with pytest.raises(BadManifest):
        decode(Manifest, data.replace(b'"shape":[2,2]', b'"shape":[]'))
    with pytest.raises(BadManifest):
        decode(Manifest, encode(a_manifest()).replace(b"[2,2]", b"[]"))


@given(altered(a_manifest()))
def test_a_manifest_with_any_value_replaced_is_whole_or_malformed(data: bytes) -> None:
    """No value that a signer might put anywhere makes an error of another kind."""
    with suppress(Malformed):
        assert isinstance(decode(Manifest, data), Manifest)


def test_every_blob_of_a_bundle_is_counted_once_and_golden_ones_come_first() -> None:
    files = {
        MODEL_FILE: a_blob(MODEL_BYTES),
        "copy": a_blob(MODEL_BYTES),
        "input": a_blob(INPUT_BYTES),
    }
    manifest = a_manifest(files=files)
    assert blobs_of(manifest) == (a_blob(INPUT_BYTES), a_blob(OUTPUT_BYTES), a_blob(MODEL_BYTES))
    assert size_of_blobs(manifest) == len(INPUT_BYTES) + len(OUTPUT_BYTES) + len(MODEL_BYTES)


def test_an_unknown_critical_entry_is_refused() -> None:
    with pytest.raises(BadDocument, match="it needs escrow"):
        decode(Manifest, encode(a_manifest(critical=("escrow",))))
