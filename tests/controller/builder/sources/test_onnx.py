"""Tests of ONNX sources: real models and hostile ones, rewritten and compared by their answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from tests.controller.builder.sources.cards import CONTENT, SPEECH, a_card_of, magika, silero
from wherry.signature import BATCH, Datatype, Signature, Tensor
from wherry_controller.builder.data.rows import Array, Tensors
from wherry_controller.builder.sources import open_source, weight_bytes
from wherry_controller.core.card import Card, SourceKind
from wherry_controller.core.fault import BuildReason, BuildRefused, Fault

pytestmark = pytest.mark.system

OPSET, IR = 17, 8
LARGEST_DISTANCE = 1e-6
LINE = Signature(
    (Tensor("x", Datatype.FP32, (BATCH, 4)),), (Tensor("y", Datatype.FP32, (BATCH, 3)),)
)
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 7


def test_silero_loses_its_branches_and_keeps_its_answers(tmp_path: Path) -> None:
    card = a_card_of(SourceKind.ONNX, "silero_vad.onnx", SPEECH, constants={"sr": 16000})
    folder = silero("silero_vad.onnx").parent
    sample = _speech(5)
    source = open_source(card, folder)
    expected = source.run(sample)
    assert {name: array.shape for name, array in expected.items()} == {
        "output": (5, 1),
        "stateN": (5, 2, 128),
    }
    source.to_onnx(20, sample, tmp_path / "net.onnx")
    kinds = _kinds(tmp_path / "net.onnx")
    assert {"LSTM", "Conv"} <= kinds
    assert not {"If", "Constant"} & kinds
    for rows in (1, 2, 5):
        part = {name: array[:rows] for name, array in sample.items()}
        given = _run(tmp_path / "net.onnx", part)
        for name, array in given.items():
            np.testing.assert_array_equal(array, expected[name][:rows])


def test_the_weights_of_a_recurrent_layer_that_is_put_together_are_constants(
    tmp_path: Path,
) -> None:
    card = a_card_of(SourceKind.ONNX, "silero_vad.onnx", SPEECH, constants={"sr": 8000})
    samples = Tensor("input", Datatype.FP32, (BATCH, 288))
    signature = replace(SPEECH, inputs=(samples, SPEECH.inputs[1]))
    source = open_source(replace(card, signature=signature), silero("silero_vad.onnx").parent)
    source.to_onnx(20, {}, tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    (recurrent,) = (node for node in graph.node if node.op_type == "LSTM")
    constants = {tensor.name for tensor in graph.initializer}
    assert set(recurrent.input[1:4]) <= constants
    assert constants <= {name for node in graph.node for name in node.input}


def test_names_of_the_file_give_way_to_those_of_the_signature_even_where_they_cross(
    tmp_path: Path,
) -> None:
    tensors = {"samples": "input", "memory": "state", "output": "stateN", "speech": "output"}
    signature = Signature(
        (
            Tensor("samples", Datatype.FP32, (BATCH, 576)),
            Tensor("memory", Datatype.FP32, (BATCH, 2, 128)),
        ),
        (
            Tensor("speech", Datatype.FP32, (BATCH, 1)),
            Tensor("output", Datatype.FP32, (BATCH, 2, 128)),
        ),
        states=(replace(SPEECH.states[0], output="output", input="memory"),),
    )
    file = silero("silero_vad_op18_ifless.onnx")
    card = a_card_of(SourceKind.ONNX, file.name, signature, names=tensors, constants={"sr": 16000})
    given = _speech(3)
    sample = {"samples": given["input"], "memory": given["state"]}
    source = open_source(card, file.parent)
    source.to_onnx(20, sample, tmp_path / "net.onnx")
    _assert_close(_run(tmp_path / "net.onnx", sample), source.run(sample))


def test_a_file_with_a_fixed_batch_runs_row_by_row_and_keeps_it(tmp_path: Path) -> None:
    file = silero("silero_vad_openvino_16k.onnx")
    source = open_source(a_card_of(SourceKind.ONNX, file.name, SPEECH), file.parent)
    sample = _speech(3)
    expected = source.run(sample)
    assert expected["stateN"].shape == (3, 2, 128)
    source.to_onnx(20, sample, tmp_path / "net.onnx")
    one = {name: array[2:] for name, array in sample.items()}
    given = _run(tmp_path / "net.onnx", one)
    _assert_close(given, {name: array[2:] for name, array in expected.items()})


def test_magika_takes_whole_numbers_and_keeps_its_answers(tmp_path: Path) -> None:
    card = a_card_of(SourceKind.ONNX, "model.onnx", CONTENT)
    numbers = np.random.default_rng(3).integers(0, 256, (3, 2048)).astype(np.int32)
    source = open_source(card, magika().parent)
    source.to_onnx(20, {"bytes": numbers}, tmp_path / "net.onnx")
    given = _run(tmp_path / "net.onnx", {"bytes": numbers})
    _assert_close(given, source.run({"bytes": numbers}))
    source.to_safetensors(tmp_path / "net.safetensors")
    stored = sum(array.nbytes for array in load_file(tmp_path / "net.safetensors").values())
    assert stored > 3_000_000
    assert weight_bytes(card, magika().parent) == magika().stat().st_size


def test_an_input_that_nothing_feeds_is_refused() -> None:
    file = silero("silero_vad.onnx")
    fault = _refusal(a_card_of(SourceKind.ONNX, file.name, SPEECH), file.parent)
    assert fault.reason is BuildReason.SIGNATURE_MISFIT
    assert "'sr'" in fault.problem


def test_an_old_opset_is_raised_and_a_new_one_taken_down(tmp_path: Path) -> None:
    for opset, highest, expected in ((11, 20, 13), (17, 16, 16), (17, 20, 17)):
        card = _line(tmp_path, opset=opset)
        source = open_source(card, tmp_path)
        source.to_onnx(highest, {}, tmp_path / "net.onnx")
        (used,) = onnx.load(tmp_path / "net.onnx").opset_import
        assert used.version == expected
        sample = {"x": np.ones((2, 4), np.float32)}
        _assert_close(_run(tmp_path / "net.onnx", sample), source.run(sample))


def test_weights_in_another_file_are_read_where_the_card_names_it(tmp_path: Path) -> None:
    card = _line(tmp_path, location="line.data")
    (tmp_path / "line.data").write_bytes(WEIGHTS.tobytes())
    named = replace(card, source=replace(card.source, external_data=("line.data",)))
    source = open_source(named, tmp_path)
    sample = {"x": np.eye(4, dtype=np.float32)}
    _assert_close(source.run(sample), {"y": WEIGHTS})
    (tmp_path / "to").mkdir()
    source.to_onnx(20, sample, tmp_path / "to" / "net.onnx")
    _assert_close(_run(tmp_path / "to" / "net.onnx", sample), {"y": WEIGHTS})
    size = (tmp_path / "line.onnx").stat().st_size + WEIGHTS.nbytes
    assert weight_bytes(named, tmp_path) == size


@pytest.mark.parametrize("location", ["/etc/passwd", "../line.data", "other.data"])
def test_weights_that_the_card_does_not_name_are_not_read(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "version"
    folder.mkdir()
    for file in (tmp_path / "line.data", folder / "other.data"):
        file.write_bytes(WEIGHTS.tobytes())
    fault = _refusal(_line(folder, location=location), folder)
    assert fault.reason is BuildReason.SOURCE_UNREADABLE
    assert repr(location) in fault.problem


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    card = _line(tmp_path, location="line.data")
    (tmp_path / "elsewhere").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "line.data").symlink_to("elsewhere")
    named = replace(card, source=replace(card.source, external_data=("line.data",)))
    assert _refusal(named, tmp_path).reason is BuildReason.SOURCE_UNREADABLE


@pytest.mark.parametrize(
    ("operator", "domain", "reason"),
    [
        ("MatMulInteger", "", BuildReason.ALREADY_QUANTIZED),
        ("DynamicQuantizeLinear", "", BuildReason.ALREADY_QUANTIZED),
        ("MatMulNBits", "com.microsoft", BuildReason.ALREADY_QUANTIZED),
        ("QLinearAdd", "com.microsoft", BuildReason.ALREADY_QUANTIZED),
        ("FancyMatMul", "com.example", BuildReason.UNSUPPORTED_OPERATOR),
    ],
)
def test_quantized_and_unknown_operators_are_named(
    tmp_path: Path, operator: str, domain: str, reason: BuildReason
) -> None:
    fault = _refusal(_line(tmp_path, operator=operator, domain=domain), tmp_path)
    assert fault.reason is reason
    assert operator in fault.problem
    assert "'the product'" in fault.problem


def test_an_operator_that_onnxruntime_does_not_have_is_named(tmp_path: Path) -> None:
    fault = _refusal(_line(tmp_path, operator="MatMuul"), tmp_path)
    assert fault.reason is BuildReason.UNSUPPORTED_OPERATOR
    assert "MatMuul" in fault.problem


@pytest.mark.parametrize(
    "signature",
    [
        replace(LINE, inputs=(Tensor("x", Datatype.FP32, (BATCH, 5)),)),
        replace(LINE, inputs=(Tensor("x", Datatype.INT32, (BATCH, 4)),)),
        replace(LINE, inputs=(Tensor("z", Datatype.FP32, (BATCH, 4)),)),
        replace(LINE, outputs=(Tensor("y", Datatype.FP64, (BATCH, 3)),)),
        replace(LINE, outputs=(Tensor("y", Datatype.FP32, (BATCH, 2)),)),
    ],
)
def test_a_signature_that_is_not_the_files_is_refused(tmp_path: Path, signature: Signature) -> None:
    card = replace(_line(tmp_path), signature=signature)
    assert _refusal(card, tmp_path).reason is BuildReason.SIGNATURE_MISFIT


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x08"])
def test_a_file_that_holds_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "line.onnx").write_bytes(content)
    card = a_card_of(SourceKind.ONNX, "line.onnx", LINE)
    assert _refusal(card, tmp_path).reason is BuildReason.SOURCE_UNREADABLE


def test_no_litert_is_made_of_onnx(tmp_path: Path) -> None:
    source = open_source(_line(tmp_path), tmp_path)
    with pytest.raises(BuildRefused) as refusal:
        source.to_lite({}, tmp_path / "net.tflite")
    assert refusal.value.fault.reason is BuildReason.NO_RECIPE


def _line(
    folder: Path,
    *,
    opset: int = OPSET,
    operator: str = "MatMul",
    domain: str = "",
    location: str = "",
) -> Card:
    """Write a model of one product; return a card for it."""
    weights = numpy_helper.from_array(WEIGHTS, "w")
    if location:
        weights.ClearField("raw_data")
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value=location)
    node = helper.make_node(operator, ["x", "w"], ["y"], "the product", domain=domain)
    graph = helper.make_graph(
        [node],
        "line",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [weights],
    )
    domains = [helper.make_opsetid("", opset)]
    if domain:
        domains.append(helper.make_opsetid(domain, 1))
    model = helper.make_model(graph, opset_imports=domains, ir_version=IR)
    (folder / "line.onnx").write_bytes(model.SerializeToString())
    return a_card_of(SourceKind.ONNX, "line.onnx", LINE)


def _speech(rows: int) -> dict[str, Array]:
    draw = np.random.default_rng(5)
    return {
        "input": draw.standard_normal((rows, 576)).astype(np.float32),
        "state": draw.standard_normal((rows, 2, 128)).astype(np.float32),
    }


def _run(file: Path, inputs: Tensors) -> Tensors:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _assert_close(given: Tensors, expected: Tensors) -> None:
    assert set(given) == set(expected)
    for name, array in given.items():
        assert array.shape == expected[name].shape
        distance = np.abs(array.astype(np.float64) - expected[name].astype(np.float64))
        assert distance.max() < LARGEST_DISTANCE


def _kinds(file: Path) -> set[str]:
    return {node.op_type for node in onnx.load(file).graph.node}


def _refusal(card: Card, folder: Path) -> Fault:
    with pytest.raises(BuildRefused) as refusal:
        open_source(card, folder)
    return refusal.value.fault
