"""onnxruntime binds tensors where it can, keeps what it made, and takes no other provider."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper

from tests.agent.bundles import a_bundle, a_profile, an_onnx_model, images, logits_of, write_bundle
from wherry.manifest import Manifest
from wherry.profile import CPU_PROVIDER
from wherry.signature import Datatype
from wherry_agent.asking import Bringing
from wherry_agent.bringup import Place, bring_up
from wherry_agent.golden import GoldenMismatch
from wherry_agent.runtimes import onnx as runtime
from wherry_agent.runtimes import optimized
from wherry_agent.runtimes.base import BadModel, MissingRuntime, RunFailed

pytestmark = pytest.mark.system

FLOAT = TensorProto.FLOAT
KINDS = {
    Datatype.BOOL: TensorProto.BOOL,
    Datatype.UINT8: TensorProto.UINT8,
    Datatype.INT8: TensorProto.INT8,
    Datatype.INT32: TensorProto.INT32,
    Datatype.INT64: TensorProto.INT64,
    Datatype.FP16: TensorProto.FLOAT16,
    Datatype.FP32: TensorProto.FLOAT,
    Datatype.FP64: TensorProto.DOUBLE,
}


def a_manifest(provider: str = CPU_PROVIDER) -> Manifest:
    manifest = a_bundle().manifest
    return replace(manifest, profile=replace(manifest.profile, provider=provider))


def written(model: bytes, folder: Path) -> Path:
    path = folder / "model"
    path.write_bytes(model)
    return path


def a_model(
    operator: str, kind: int, given: Sequence[str | int], taken: Sequence[str | int], to: int = 0
) -> bytes:
    node = helper.make_node(operator, ["x"], ["y"])
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", kind, list(taken))],
        [helper.make_tensor_value_info("y", to or kind, list(given))],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("datatype", list(Datatype), ids=[one.value for one in Datatype])
def test_every_type_is_computed_where_it_stands(tmp_path: Path, datatype: Datatype) -> None:
    kind = KINDS[datatype]
    path = written(a_model("Identity", kind, ["n", 3], ["n", 3]), tmp_path)
    model = runtime.load(path, a_manifest())
    for rows in (1, 4, 1):
        values = (np.arange(3 * rows) % 2).reshape(rows, 3)
        array = values.astype(helper.tensor_dtype_to_np_dtype(kind))
        (output,) = model.run([array])
        assert output.dtype == array.dtype
        assert np.array_equal(output, array)


def test_outputs_of_known_shape_are_written_in_one_place(tmp_path: Path) -> None:
    model = runtime.load(written(an_onnx_model(), tmp_path), a_manifest())
    (first,) = model.run([images(2, seed=1)])
    (second,) = model.run([images(2, seed=2)])
    assert np.shares_memory(first, second)
    assert np.allclose(second, logits_of(images(2, seed=2)))


def test_inputs_may_stand_elsewhere_each_time(tmp_path: Path) -> None:
    model = runtime.load(written(an_onnx_model(), tmp_path), a_manifest())
    inputs = [images(2, seed=seed) for seed in range(5)]
    for image in (*inputs, *inputs):
        (output,) = model.run([image])
        assert np.allclose(output, logits_of(image))


@pytest.mark.parametrize("declared", [["any", "length"], ["n", 3], [1, "n"]])
def test_a_model_whose_shapes_follow_from_its_values_is_run_all_the_same(
    tmp_path: Path, declared: list[str | int]
) -> None:
    data = a_model("NonZero", FLOAT, declared, ["n"], TensorProto.INT64)
    model = runtime.load(written(data, tmp_path), a_manifest())
    for values in ([1, 0, 2], [0, 0, 1], [1, 1, 1]):
        (places,) = model.run([np.array(values, np.float32)])
        assert places.tolist() == [np.flatnonzero(values).tolist()]


def test_a_run_that_onnxruntime_refuses_fails(tmp_path: Path) -> None:
    model = runtime.load(written(an_onnx_model(), tmp_path), a_manifest())
    model.run([images(2)])
    with pytest.raises(RunFailed):
        model.run([images(2).astype(np.float64)])
    with pytest.raises(RunFailed):
        model.run([np.zeros((2, 3), np.float32)])
    (output,) = model.run([images(2)])
    assert np.allclose(output, logits_of(images(2)))


def test_a_batch_larger_than_all_others_lets_their_outputs_go(tmp_path: Path) -> None:
    path = written(a_model("Identity", FLOAT, ["n", 1024], ["n", 1024]), tmp_path)
    model = runtime.load(path, a_manifest())
    for rows in (1, 4096, 8192, 3, 1):
        array = np.full((rows, 1024), rows, np.float32)
        (output,) = model.run([array])
        assert np.array_equal(output, array)


# Providers


@pytest.mark.parametrize(
    ("wanted", "available", "taken"),
    [
        (CPU_PROVIDER, [CPU_PROVIDER], [CPU_PROVIDER]),
        (CPU_PROVIDER, [runtime.CUDA_PROVIDER, CPU_PROVIDER], [CPU_PROVIDER]),
        (
            runtime.CUDA_PROVIDER,
            [runtime.TENSORRT_PROVIDER, runtime.CUDA_PROVIDER, CPU_PROVIDER],
            [runtime.CUDA_PROVIDER, CPU_PROVIDER],
        ),
        (
            runtime.TENSORRT_PROVIDER,
            [runtime.TENSORRT_PROVIDER, runtime.CUDA_PROVIDER, CPU_PROVIDER],
            [runtime.TENSORRT_PROVIDER, runtime.CUDA_PROVIDER, CPU_PROVIDER],
        ),
    ],
)
def test_a_session_gets_the_profiles_provider_first(
    wanted: str, available: list[str], taken: list[str]
) -> None:
    assert runtime.providers_of(replace(a_profile(), provider=wanted), available) == taken


def test_a_provider_that_is_not_there_is_never_replaced(tmp_path: Path) -> None:
    path = written(an_onnx_model(), tmp_path)
    with pytest.raises(MissingRuntime, match="onnxruntime with CUDAExecutionProvider and"):
        runtime.load(path, a_manifest(runtime.CUDA_PROVIDER))


class Session:
    """A session as onnxruntime gives it where another provider than the CPU's was asked for."""

    def __init__(self, providers: list[str]) -> None:
        self._providers = providers

    def get_providers(self) -> list[str]:
        return self._providers

    def run(self, names: list[str], feed: dict[str, object]) -> list[object]:
        return [logits_of(np.asarray(feed["x"], np.float32))]


def test_a_session_of_another_provider_is_run_without_bindings() -> None:
    session = Session([runtime.CUDA_PROVIDER, CPU_PROVIDER])
    model = runtime.model_of(session, a_manifest(runtime.CUDA_PROVIDER))
    (output,) = model.run([images(2)])
    assert np.array_equal(output, logits_of(images(2)))


def test_a_provider_that_did_not_come_up_is_missing() -> None:
    with pytest.raises(MissingRuntime, match="a working CUDAExecutionProvider"):
        runtime.model_of(Session([CPU_PROVIDER]), a_manifest(runtime.CUDA_PROVIDER))


# What is kept


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def test_what_was_made_of_a_model_is_loaded_the_next_time(tmp_path: Path) -> None:
    path, folder = written(an_onnx_model(), tmp_path), tmp_path / "made"
    manifest = a_manifest()
    runtime.load(path, manifest, folder)
    (made,) = kept(folder)
    assert made.read_bytes() != path.read_bytes()
    path.unlink()
    (output,) = runtime.load(path, manifest, folder).run([images(2)])
    assert np.array_equal(output, logits_of(images(2)))


@pytest.mark.parametrize("damage", [b"", b"no model"], ids=["emptied", "overwritten"])
def test_what_is_damaged_is_made_again(tmp_path: Path, damage: bytes) -> None:
    path, folder = written(an_onnx_model(), tmp_path), tmp_path / "made"
    runtime.load(path, a_manifest(), folder)
    (made,) = kept(folder)
    whole = made.read_bytes()
    made.write_bytes(damage)
    (output,) = runtime.load(path, a_manifest(), folder).run([images(2)])
    assert np.array_equal(output, logits_of(images(2)))
    assert [file.read_bytes() for file in kept(folder)] == [whole]


def test_what_is_whole_and_does_not_load_is_made_again(tmp_path: Path) -> None:
    path, folder = written(an_onnx_model(), tmp_path), tmp_path / "made"
    runtime.load(path, a_manifest(), folder)
    (made,) = kept(folder)
    key = made.name.rpartition("-")[0]
    made.unlink()
    optimized.keep(folder, key, lambda part: _write(part, b"no model"))
    (output,) = runtime.load(path, a_manifest(), folder).run([images(2)])
    assert np.array_equal(output, logits_of(images(2)))
    assert kept(folder) == [made]


def test_a_model_is_loaded_where_nothing_can_be_kept(tmp_path: Path) -> None:
    path = written(an_onnx_model(), tmp_path)
    (tmp_path / "file").touch()
    (output,) = runtime.load(path, a_manifest(), tmp_path / "file" / "made").run([images(2)])
    assert np.array_equal(output, logits_of(images(2)))


def test_a_model_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    path, folder = written(b"no model", tmp_path), tmp_path / "made"
    with pytest.raises(BadModel):
        runtime.load(path, a_manifest(), folder)
    assert kept(folder) == []


def test_what_was_made_under_other_conditions_is_another_file() -> None:
    model = a_bundle().manifest.files["model"].digest
    other = a_bundle(shift=1.0).manifest.files["model"].digest
    keys = {
        optimized.key_of(model, ["1.31.1", "avx2"]),
        optimized.key_of(model, ["1.31.2", "avx2"]),
        optimized.key_of(model, ["1.31.1", "avx2", "avx512f"]),
        optimized.key_of(other, ["1.31.1", "avx2"]),
    }
    assert len(keys) == 4


def test_only_the_last_used_are_kept(tmp_path: Path) -> None:
    for number in range(optimized.MOST_KEPT + 2):
        optimized.keep(tmp_path, f"k{number}", lambda part: _write(part, b"x"))
        assert optimized.find_kept(tmp_path, "k0") is not None
    assert optimized.find_kept(tmp_path, "k1") is None
    assert len(kept(tmp_path)) == optimized.MOST_KEPT


def test_threads_and_spinning_are_the_profiles() -> None:
    options = runtime.options_of(replace(a_profile(threads=3), spinning=True))
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    quiet = runtime.options_of(a_profile())
    assert quiet.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_the_original_decides_where_what_was_kept_fails_the_golden_check(tmp_path: Path) -> None:
    bundle, folder = a_bundle(), tmp_path / "made"
    manifest_path, blobs = write_bundle(bundle, tmp_path)
    place, bringing = (
        Place(bundle.digest, manifest_path, blobs),
        Bringing(optimized_folder=folder),
    )
    bring_up(place, bundle.manifest, bringing)
    (made,) = kept(folder)
    key = made.name.rpartition("-")[0]
    made.unlink()
    optimized.keep(folder, key, lambda part: _write(part, an_onnx_model(shift=1.0)))
    loaded = bring_up(place, bundle.manifest, bringing)
    assert np.array_equal(loaded.variant.run([images(2)]).outputs[0], logits_of(images(2)))
    assert kept(folder) == []


def test_a_bundle_that_fails_the_golden_check_keeps_nothing(tmp_path: Path) -> None:
    bundle, folder = a_bundle(golden_error=1.0), tmp_path / "made"
    manifest_path, blobs = write_bundle(bundle, tmp_path)
    with pytest.raises(GoldenMismatch):
        bring_up(
            Place(bundle.digest, manifest_path, blobs),
            bundle.manifest,
            Bringing(optimized_folder=folder),
        )
    assert kept(folder) == []
