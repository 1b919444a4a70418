"""Torch sources of every kind, made and asked in a process of its own.

Run as `python -m tests.controller.builder.sources.nets FOLDER`, so that torch and its warnings
stay out of the tests' process. The last line on stdout is JSON: for each case the largest distance
of an export's answers from the source's, or the reason and the sentence of its refusal.
"""

from __future__ import annotations

import importlib
import io
import json
import pickle
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from ai_edge_litert.interpreter import Interpreter
from msgspec import to_builtins
from safetensors.torch import load_file, save_file
from torch import nn

from tests.controller.builder.sources.cards import SPEECH, a_card_of, silero
from wherry.signature import BATCH, Datatype, Signature, Tensor
from wherry_controller.builder.data.rows import Array, Tensors
from wherry_controller.builder.describe import describe
from wherry_controller.builder.sources import Source, open_source
from wherry_controller.core.card import Card, SourceKind
from wherry_controller.core.fault import BuildRefused

NETS = '''
"""Nets of the tests."""

import layers
import torch
from torch import nn


def make():
    print("a net may print")
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def make_two():
    return layers.Two()


def make_odd():
    return nn.Sequential(nn.Linear(4, 4), layers.Odd())


def make_nothing():
    return 7
'''
LAYERS = '''
import torch
from torch import nn


class Two(nn.Module):
    """Gives a mapping in another order than the signature, and takes a switch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, right, left, scale=1.0):
        scores = self.layer(left) * scale
        return {"rest": right, "logits": scores}


class Odd(nn.Module):
    def forward(self, values):
        return torch.special.bessel_j0(values)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = torch.zeros(1)

    def forward(self, values):
        self.calls = self.calls + 1
        return values + self.calls
'''
FP32 = Datatype.FP32
IMAGES = Signature(
    (Tensor("image", FP32, (BATCH, 1, 8, 8)),), (Tensor("scores", FP32, (BATCH, 3)),)
)
LINE = Signature((Tensor("x", FP32, (BATCH, 4)),), (Tensor("y", FP32, (BATCH, 4)),))
STEPS = Signature(
    (Tensor("x", FP32, (BATCH, "steps", 4)),), (Tensor("y", FP32, (BATCH, "steps", 4)),)
)
SIDES = Signature(
    (Tensor("left", FP32, (BATCH, 4)), Tensor("other", FP32, (BATCH, 4))),
    (Tensor("scores", FP32, (BATCH, 3)), Tensor("rest", FP32, (BATCH, 4))),
)
ROWS = 3


class Evil:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.file), "w")


def main(folder: Path) -> None:
    sys.dont_write_bytecode = True
    (folder / "nets.py").write_text(NETS)
    (folder / "layers.py").write_text(LAYERS)
    sys.path.insert(0, str(folder))
    _write(folder)
    outcomes = {name: _outcome(partial(case, folder)) for name, case in CASES.items()}
    sys.stdout.write(f"\n{json.dumps(outcomes)}\n")


def _write(folder: Path) -> None:
    layers, nets = importlib.import_module("layers"), importlib.import_module("nets")

    torch.manual_seed(1)
    net, image = nets.make().eval(), torch.randn(2, 1, 8, 8)
    state = net.state_dict()
    torch.save(state, folder / "net.pt")
    save_file(state, folder / "net.safetensors")
    wrapped = {f"module.{name}": value for name, value in state.items()}
    torch.save({"epoch": 3, "state_dict": wrapped}, folder / "checkpoint.pt")
    torch.save(net, folder / "whole.pt")
    torch.save({**state, "3.weight": torch.zeros(3, 9)}, folder / "misfit.pt")
    torch.save({**state, "3.weight": _quantized(state["3.weight"])}, folder / "quantized.pt")
    torch.save(nets.make_two().state_dict(), folder / "two.pt")
    torch.save(nets.make_odd().state_dict(), folder / "odd.pt")
    _write_programs(folder, net, image)
    torch.jit.trace(net, (image,)).save(folder / "net.ts")  # type: ignore[no-untyped-call]
    _script(layers.Counts(), folder / "counts.ts")
    attention = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    _script(nn.Sequential(attention), folder / "attention.ts")


def _script(net: nn.Module, file: Path) -> None:
    torch.jit.script(net).save(file)  # type: ignore[no-untyped-call]


def _write_programs(folder: Path, net: nn.Module, image: torch.Tensor) -> None:
    axes = ({0: torch.export.Dim("b")},)
    torch.export.save(torch.export.export(net, (image,), dynamic_shapes=axes), folder / "net.pt2")
    torch.export.save(torch.export.export(net, (image,)), folder / "fixed.pt2")
    with zipfile.ZipFile(folder / "net.pt2") as good:
        entries = {name: good.read(name) for name in good.namelist()}
    with zipfile.ZipFile(folder / "evil.pt2", "w") as evil:
        for name, data in entries.items():
            is_sample = "sample_inputs" in name
            evil.writestr(name, _pickled(folder / "evidence") if is_sample else data)


def _pickled(evidence: Path) -> bytes:
    kept = io.BytesIO()
    torch.save(Evil(evidence), kept, pickle_module=pickle)
    return kept.getvalue()


def _quantized(values: torch.Tensor) -> torch.Tensor:
    return torch.quantize_per_tensor(values, 0.1, 0, torch.qint8)


def _outcome(case: Callable[[], object]) -> object:
    try:
        return case()
    except BuildRefused as refusal:
        return [refusal.fault.reason, refusal.fault.problem]


def _images(file: str, kind: SourceKind = SourceKind.STATE_DICT) -> Card:
    factory = "nets.py:make" if kind is SourceKind.STATE_DICT else None
    return a_card_of(kind, file, IMAGES, factory=factory)


def _sample(signature: Signature, rows: int = ROWS) -> Tensors:
    draw = np.random.default_rng(2)
    shapes = {
        tensor.name: [rows, *(5 if isinstance(axis, str) else axis for axis in tensor.shape[1:])]
        for tensor in signature.inputs
    }
    return {name: draw.standard_normal(shape).astype("f4") for name, shape in shapes.items()}


def _opened(card: Card, folder: Path) -> object:
    open_source(card, folder)
    return "opened"


def _to_onnx(card: Card, folder: Path) -> float:
    source = open_source(card, folder)
    source.to_onnx(17, _sample(card.signature, 1), folder / "out.onnx")
    model = onnx.load(folder / "out.onnx")
    tensors = (*model.graph.input, *model.graph.output)
    axes = {tensor.type.tensor_type.shape.dim[0].dim_param for tensor in tensors}
    assert axes == {BATCH}, axes
    session = onnxruntime.InferenceSession(folder / "out.onnx", providers=["CPUExecutionProvider"])
    sample = _sample(card.signature)
    names = [tensor.name for tensor in card.signature.outputs]
    return _distance(source, sample, dict(zip(names, session.run(names, sample), strict=True)))


def _to_fixed_onnx(card: Card, folder: Path) -> list[int]:
    open_source(card, folder).to_onnx(17, _sample(card.signature), folder / "out.onnx")
    (given,) = onnx.load(folder / "out.onnx").graph.input
    return [axis.dim_value for axis in given.type.tensor_type.shape.dim]


def _to_lite(card: Card, folder: Path) -> float:
    source = open_source(card, folder)
    source.to_lite(_sample(card.signature), folder / "out.tflite")
    ask = Interpreter(str(folder / "out.tflite")).get_signature_runner()
    sample = _sample(card.signature, 1)
    given = ask(**{f"args_{i}": sample[t.name] for i, t in enumerate(card.signature.inputs)})
    outputs = enumerate(card.signature.outputs)
    return _distance(source, sample, {t.name: given[f"output_{i}"] for i, t in outputs})


def _distance(source: Source, sample: Tensors, given: Tensors) -> float:
    expected = source.run(sample)
    assert all(given[name].shape == array.shape for name, array in expected.items())
    return max(float(np.ptp(_apart(given[name], array))) for name, array in expected.items())


def _apart(one: Array, other: Array) -> Array:
    return np.append(np.abs(one.astype("f8") - other.astype("f8")), 0)


def _kept(folder: Path) -> bool:
    open_source(_images("net.pt"), folder).to_safetensors(folder / "kept.safetensors")
    kept, state = load_file(folder / "kept.safetensors"), load_file(folder / "net.safetensors")
    return set(kept) == set(state) and all(torch.equal(kept[name], state[name]) for name in kept)


def _same_answers(folder: Path) -> float:
    sample = _sample(IMAGES)
    files = ("net.safetensors", "checkpoint.pt")
    program = _images("net.pt2", SourceKind.EXPORTED_PROGRAM)
    others = [*(_images(file) for file in files), program]
    first = open_source(_images("net.pt"), folder).run(sample)
    return max(_distance(open_source(card, folder), sample, first) for card in others)


def _evil(folder: Path) -> object:
    outcome = _outcome(lambda: _opened(_images("evil.pt2", SourceKind.EXPORTED_PROGRAM), folder))
    return [outcome, (folder / "evidence").exists()]


def _speech(folder: Path) -> object:
    short = Tensor("x", FP32, (BATCH, 512))
    signature = Signature((short,), SPEECH.outputs[:1])
    file = silero("silero_vad.jit")
    card = a_card_of(SourceKind.TORCHSCRIPT, file.name, signature, constants={"sr": 16000})
    return _to_onnx_at(card, file.parent, folder)


def _to_onnx_at(card: Card, folder: Path, to: Path) -> object:
    open_source(card, folder).to_onnx(17, _sample(card.signature), to / "out.onnx")
    return "exported"


def _misfit(folder: Path, signature: Signature) -> object:
    card = a_card_of(SourceKind.STATE_DICT, "net.pt", signature, factory="nets.py:make")
    return open_source(card, folder).run(_sample(signature)) and "answered"


def _of(
    case: Callable[[Card, Path], object],
    kind: SourceKind,
    file: str,
    signature: Signature = IMAGES,
    factory: str | None = None,
) -> Callable[[Path], object]:
    return lambda folder: case(a_card_of(kind, file, signature, factory=factory), folder)


SIDED = a_card_of(
    SourceKind.STATE_DICT,
    "two.pt",
    SIDES,
    factory="nets.py:make_two",
    names={"other": "right", "scores": "logits"},
    constants={"scale": 2.0},
)
STATE, PROGRAM, SCRIPT = (
    SourceKind.STATE_DICT,
    SourceKind.EXPORTED_PROGRAM,
    SourceKind.TORCHSCRIPT,
)
MAKE = "nets.py:make"
CASES: dict[str, Callable[[Path], object]] = {
    "state_dict to onnx": _of(_to_onnx, STATE, "net.pt", factory=MAKE),
    "state_dict to litert": _of(_to_lite, STATE, "net.pt", factory=MAKE),
    "program to onnx": _of(_to_onnx, PROGRAM, "net.pt2"),
    "program to litert": _of(_to_lite, PROGRAM, "net.pt2"),
    "fixed program to onnx": _of(_to_fixed_onnx, PROGRAM, "fixed.pt2"),
    "fixed program to litert": _of(_to_lite, PROGRAM, "fixed.pt2"),
    "script to onnx": _of(_to_onnx, SCRIPT, "net.ts"),
    "script to litert": _of(_to_lite, SCRIPT, "net.ts"),
    "named to onnx": lambda folder: _to_onnx(SIDED, folder),
    "named to litert": lambda folder: _to_lite(SIDED, folder),
    "same answers": _same_answers,
    "kept": _kept,
    "evil program": _evil,
    "whole net": _of(_opened, STATE, "whole.pt", factory=MAKE),
    "misfit": _of(_opened, STATE, "misfit.pt", factory=MAKE),
    "quantized": _of(_opened, STATE, "quantized.pt", factory=MAKE),
    "no net": _of(_opened, STATE, "net.pt", factory="nets.py:make_nothing"),
    "odd to onnx": _of(_to_onnx, STATE, "odd.pt", LINE, "nets.py:make_odd"),
    "odd to litert": _of(_to_lite, STATE, "odd.pt", LINE, "nets.py:make_odd"),
    "attention to onnx": _of(_to_onnx, SCRIPT, "attention.ts", STEPS),
    "steps to litert": _of(_to_lite, STATE, "odd.pt", STEPS, "nets.py:make_odd"),
    "counting script": _of(_to_onnx, SCRIPT, "counts.ts", LINE),
    "speech script": _speech,
    "described program": lambda folder: to_builtins(describe(folder / "net.pt2")),
    "described script": lambda folder: to_builtins(describe(folder / "net.ts")),
    "described state_dict": lambda folder: to_builtins(
        describe(folder / "two.pt", "nets.py:make_two")
    ),
    "other shape": lambda folder: _misfit(
        folder, Signature(IMAGES.inputs, (Tensor("scores", FP32, (BATCH, 4)),))
    ),
    "other type": lambda folder: _misfit(
        folder, Signature(IMAGES.inputs, (Tensor("scores", Datatype.INT64, (BATCH, 3)),))
    ),
    "more outputs": lambda folder: _misfit(
        folder, Signature(IMAGES.inputs, (*IMAGES.outputs, Tensor("more", FP32, (BATCH, 3))))
    ),
}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
