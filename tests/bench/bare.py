"""The work of six profiles by hand: what the pipeline's cost is held against.

Run as `python -m tests.bench.bare VERSION NET PROFILES OUTPUT`, in one process. It is the script
that an engineer writes with torch, onnxruntime.quantization and ai-edge-quantizer alone: the data
loaded, the net run, one export a runtime that all profiles share, and every candidate made by the
libraries' own calls, once where two profiles want the same.

The evaluations are the pipeline's. The candidates are those that its rules name for such a net.
Each is run over the search rows with the profile's threads and batch, once where two profiles'
settings are the same, and once over the final rows. Profiles of this machine get as many rounds
of timing, interleaved. For each profile the golden rows go twice through the chosen variant, and
through copies that are hurt in three ways; inputs and answers get histograms. There is no
isolation, no cache, no check of what a pass did, no packing and no report.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.schema_py_generated import Model, Tensor
from ai_edge_quantizer import quantizer, recipe
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from safetensors.torch import save_file

from wherry import codec
from wherry.profile import Activation, Arch, Precision, Profile, Runtime
from wherry_controller.builder.data.read import SEARCH, side_of
from wherry_controller.builder.data.rows import digests_of
from wherry_controller.builder.timing import CPUINFO, is_here

Pixels = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Run = Callable[[Pixels], Pixels]

WARM_UPS, ROUNDS, LONGEST_S = 10, 300, 10.0
EXPORT_OPSET = 20
REFERENCE_ROWS = 1000
BINS = 64
SMALLEST = 512  # Bytes of what is taken for a layer's weights.


class Rows(CalibrationDataReader):  # type: ignore[misc]
    """Calibration rows, as onnxruntime takes them."""

    def __init__(self, images: Pixels) -> None:
        self._left = iter(images)

    def get_next(self) -> dict[str, Pixels] | None:
        image = next(self._left, None)
        return None if image is None else {"image": image[None]}


class Bench:
    """Everything that the profiles share, made once."""

    def __init__(self, version: Path, net: str, output: Path) -> None:
        self.output = output
        self.calibration: Pixels = np.load(version / "calibration.npz")["image"]
        data = np.load(version / "evaluation.npz")
        images, labels = data["image"], data["labels"]
        search = np.array([side_of(one) == SEARCH for one in digests_of({"image": images})])
        self.parts = {
            "search": (images[search], labels[search]),
            "final": (images[~search], labels[~search]),
        }
        self.golden = _one_a_class(*self.parts["final"])
        self.model = _load(version, net)
        self.reference = {
            part: _by_batch(self._torch, rows, 64) for part, (rows, _) in self.parts.items()
        }
        self.made: dict[tuple[object, ...], Path] = {}
        self.scores: dict[tuple[object, ...], tuple[float, Pixels]] = {}

    def _torch(self, images: Pixels) -> Pixels:
        with torch.inference_mode():
            answers: Pixels = self.model(torch.from_numpy(images)).numpy()
            return answers

    def export(self) -> None:
        self.onnx = self.output / "float.onnx"
        program = torch.onnx.export(
            self.model,
            (torch.from_numpy(self.parts["search"][0][:2]),),
            dynamo=True,
            input_names=["image"],
            output_names=["scores"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=EXPORT_OPSET,
            verbose=False,
        )
        assert program is not None
        program.save(str(self.onnx))
        self.prepared = self.output / "prepared.onnx"
        quant_pre_process(str(self.onnx), str(self.prepared))
        import litert_torch

        self.lite = self.output / "float.tflite"
        one = (torch.from_numpy(self.parts["search"][0][:1]),)
        litert_torch.convert(self.model, one).export(str(self.lite))
        save_file(dict(self.model.state_dict()), str(self.output / "weights.safetensors"))

    def candidate(self, profile: Profile, precision: Precision) -> Path:
        """Return the file of a candidate, made once whichever profile asks first."""
        is_onnx = profile.runtime is Runtime.ONNXRUNTIME
        static = is_onnx and precision is Precision.INT8
        details = (profile.activation, profile.reduced_range) if static else ()
        key = (is_onnx, precision, *details)
        if key not in self.made:
            name = "-".join(["onnx" if is_onnx else "lite", precision.value, str(len(self.made))])
            to = self.output / f"{name}{'.onnx' if is_onnx else '.tflite'}"
            if is_onnx:
                self._make_onnx(profile, precision, to)
            else:
                self._make_lite(precision, to)
            self.made[key] = to
        return self.made[key]

    def _make_onnx(self, profile: Profile, precision: Precision, to: Path) -> None:
        if precision is Precision.FP32:
            to.write_bytes(self.onnx.read_bytes())
        elif precision is Precision.FP16:
            model = convert_float_to_float16(onnx.load(self.onnx), keep_io_types=True)
            onnx.save(model, to)
        else:
            assert precision is Precision.INT8
            is_signed = profile.activation is Activation.S8
            quantize_static(
                str(self.prepared),
                str(to),
                Rows(self.calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=profile.reduced_range,
                activation_type=QuantType.QInt8 if is_signed else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )

    def _make_lite(self, precision: Precision, to: Path) -> None:
        if precision is Precision.FP32:
            to.write_bytes(self.lite.read_bytes())
            return
        one = quantizer.Quantizer(str(self.lite))
        result = None
        if precision is Precision.INT8:
            one.load_quantization_recipe(recipe.static_wi8_ai8())
            (name,) = Interpreter(model_path=str(self.lite)).get_signature_list()
            rows = {name: [{"args_0": image[None]} for image in self.calibration]}
            result = one.calibrate(rows)
        elif precision is Precision.INT8_WEIGHTS:
            one.load_quantization_recipe(recipe.weight_only_wi8_afp32())
        else:
            one.load_quantization_recipe(FP16_RECIPE)
        one.quantize(result).export_model(str(to), overwrite=True)

    def score(self, file: Path, profile: Profile) -> float:
        """Return the loss of accuracy on the final rows; the answers are kept for histograms."""
        self._run("search", file, profile, (profile.threads, profile.max_batch))
        return self._run("final", file, profile, ())[0]

    def _run(
        self, part: str, file: Path, profile: Profile, settings: tuple[int, ...]
    ) -> tuple[float, Pixels]:
        key = (part, file, *settings)
        if key not in self.scores:
            rows, labels = self.parts[part]
            answers = _by_batch(_runner(file, profile), rows, profile.max_batch)
            error = float(np.sqrt(np.mean((answers - self.reference[part]) ** 2)))
            was, now = (_accuracy(one, labels) for one in (self.reference[part], answers))
            assert np.isfinite(error)
            self.scores[key] = (was - now, answers)
        return self.scores[key]


FP16_RECIPE = [
    {
        "regex": ".*",
        "operation": "*",
        "algorithm_key": "float_casting",
        "op_config": {
            "weight_tensor_config": {"num_bits": 16, "symmetric": True, "dtype": "FLOAT"},
            "compute_precision": "FLOAT",
            "explicit_dequantize": True,
        },
    }
]


def main(version: Path, net: str, profiles: Sequence[Profile], output: Path) -> None:
    bench = Bench(version, net, output)
    bench.export()
    chosen = {}
    for profile in profiles:
        chosen[profile.name] = _build(bench, profile)
    (output / "chosen.json").write_text(json.dumps(chosen))


def _build(bench: Bench, profile: Profile) -> str:
    wanted = [one for one in Precision if one in _precisions(profile)]
    files = [bench.candidate(profile, precision) for precision in wanted]
    losses = [bench.score(file, profile) for file in files]
    sizes = [file.stat().st_size for file in files]
    ranks: list[float] = [float(size) for size in sizes]
    if is_here(profile, CPUINFO.read_text()):
        ranks = _time([_runner(file, profile) for file in files], bench.golden[:1])
    good = [at for at, loss in enumerate(losses) if loss <= 0.005]
    best = min(good, key=lambda at: ranks[at])
    _prove(bench, files[best], profile)
    return wanted[best].value


def _precisions(profile: Profile) -> Sequence[Precision]:
    """Return what the rules try of a residual net: its weights are those of convolutions."""
    useless = {Precision.INT8_DYNAMIC, Precision.INT4}
    if profile.runtime is Runtime.ONNXRUNTIME and profile.arch is not Arch.X86_64:
        useless.add(Precision.FP16)
    return [one for one in profile.precisions if one not in useless]


def _prove(bench: Bench, file: Path, profile: Profile) -> None:
    golden = _by_batch(_runner(file, profile), bench.golden, profile.max_batch)
    again = _by_batch(_runner(file, profile), bench.golden, profile.max_batch)
    assert np.array_equal(golden, again)
    hurt = bench.output / f"hurt{file.suffix}"
    for _ in _damages(file, hurt):
        if hurt.read_bytes() != file.read_bytes():  # Only a calibrated one has ranges.
            answers = _by_batch(_runner(hurt, profile), bench.golden, profile.max_batch)
            assert not np.array_equal(golden, answers)
    _, answers = bench.scores["final", file]
    for values in (bench.parts["final"][0][:REFERENCE_ROWS], answers[:REFERENCE_ROWS]):
        np.histogram(values, BINS)


def _damages(file: Path, hurt: Path) -> Iterator[None]:
    """Write a copy with a channel of the first layer zeroed, one of the last, and narrow ranges."""
    return _onnx_damages(file, hurt) if file.suffix == ".onnx" else _lite_damages(file, hurt)


def _onnx_damages(file: Path, hurt: Path) -> Iterator[None]:
    for which in (0, -1, None):
        model = onnx.load(file)
        tensors = {one.name: one for one in model.graph.initializer}
        if which is not None:
            weights = [one for one in tensors.values() if len(one.dims) in (2, 4)]
            _zero_strongest(weights[which])
        else:
            for node in model.graph.node:
                if node.op_type == "QuantizeLinear" and node.input[1] in tensors:
                    scale = tensors.pop(node.input[1])
                    scale.CopyFrom(
                        numpy_helper.from_array(numpy_helper.to_array(scale) / 4, scale.name)
                    )
        onnx.save(model, hurt)
        yield


def _zero_strongest(weight: onnx.TensorProto) -> None:
    values = numpy_helper.to_array(weight).copy()
    axes = tuple(range(1, values.ndim))
    values[np.argmax(np.abs(values.astype(np.float32)).sum(axes))] = 0
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def _lite_damages(file: Path, hurt: Path) -> Iterator[None]:
    for which in (0, -1, None):
        content = bytearray(file.read_bytes())
        model = Model.GetRootAs(content)
        graph = model.Subgraphs(0)
        tensors = [graph.Tensors(at) for at in range(graph.TensorsLength())]
        if which is not None:
            matrices = [one for one in tensors if one.ShapeLength() in (2, 4)]
            weights = [
                data for one in matrices if (data := _data(content, model, one)).size >= SMALLEST
            ]
            strongest = weights[which][: max(1, weights[which].size // 4)]
            strongest[:] = 0
        else:
            for one in tensors:
                scaled = one.Quantization() if not _data(content, model, one).size else None
                if scaled is not None and scaled.ScaleLength():
                    scaled.ScaleAsNumpy()[:] /= 4
        hurt.write_bytes(content)
        yield


def _data(content: bytearray, model: Model, tensor: Tensor) -> npt.NDArray[np.uint8]:
    """Return a constant's bytes where they stand, in the tree or behind it."""
    buffer = model.Buffers(tensor.Buffer())
    if buffer.Size():
        return np.frombuffer(content, np.uint8, buffer.Size(), buffer.Offset())
    found = buffer.DataAsNumpy()
    return found if isinstance(found, np.ndarray) else np.zeros(0, np.uint8)


def _runner(file: Path, profile: Profile) -> Run:
    return _onnx_runner(file, profile) if file.suffix == ".onnx" else _lite_runner(file, profile)


def _onnx_runner(file: Path, profile: Profile) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = profile.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(images: Pixels) -> Pixels:
        answers: Pixels = session.run(None, {"image": images})[0]
        return answers

    return run


def _lite_runner(file: Path, profile: Profile) -> Run:
    interpreter = Interpreter(model_path=str(file), num_threads=profile.threads)
    interpreter.allocate_tensors()
    (given,), (asked,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images: Pixels) -> Pixels:
        answers = []
        for image in images:
            interpreter.set_tensor(given["index"], _quantized(image[None], given))
            interpreter.invoke()
            answers.append(_floats(interpreter.get_tensor(asked["index"]), asked))
        return np.concatenate(answers)

    return run


def _quantized(values: Pixels, detail: dict[str, Any]) -> npt.NDArray[Any]:
    scale, zero = detail["quantization"]
    if not scale:
        return values
    steps: npt.NDArray[Any] = np.clip(np.rint(values / scale) + zero, -128, 127).astype(np.int8)
    return steps


def _floats(values: npt.NDArray[Any], detail: dict[str, Any]) -> Pixels:
    scale, zero = detail["quantization"]
    floats: Pixels = (values.astype(np.float32) - zero) * np.float32(scale) if scale else values
    return floats


def _time(runs: Sequence[Run], row: Pixels) -> list[float]:
    for run in runs:
        for _ in range(WARM_UPS):
            run(row)
    taken: list[list[float]] = [[] for _ in runs]
    until = time.monotonic() + LONGEST_S
    for _ in range(ROUNDS):
        if time.monotonic() > until:
            break
        for index, run in enumerate(runs):
            started = time.perf_counter()
            run(row)
            taken[index].append(time.perf_counter() - started)
    return [float(np.median(times)) for times in taken]


def _by_batch(run: Run, rows: Pixels, size: int) -> Pixels:
    return np.concatenate([run(rows[at : at + size]) for at in range(0, len(rows), size)])


def _accuracy(answers: Pixels, labels: Labels) -> float:
    return float(np.mean(answers.argmax(1) == labels))


def _one_a_class(images: Pixels, labels: Labels) -> Pixels:
    return images[[int(np.flatnonzero(labels == one)[0]) for one in range(10)]]


def _load(version: Path, net: str) -> torch.nn.Module:
    from tests.bench import digit_nets

    model: torch.nn.Module = getattr(digit_nets, net)()
    model.load_state_dict(torch.load(version / "weights.pt", weights_only=True))
    return model.eval()


if __name__ == "__main__":
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    main(
        Path(sys.argv[1]),
        sys.argv[2],
        codec.decode(tuple[Profile, ...], Path(sys.argv[3]).read_bytes()),
        Path(sys.argv[4]),
    )
