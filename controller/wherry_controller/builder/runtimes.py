"""The runtimes as functions: arrays in by the runtime's names, arrays out.

The one module that touches onnxruntime and LiteRT, neither of which has types. Threads and
spinning are the profile's, as on the device, or the figures would say nothing about it.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnxruntime

from wherry.profile import Profile, Runtime
from wherry_controller.builder.data import Tensors

Invoke: TypeAlias = Callable[[Tensors], Tensors]

DISTRIBUTIONS = {
    Runtime.ONNXRUNTIME: "onnxruntime",
    Runtime.LITERT: "ai-edge-litert",
    Runtime.TFLITE: "tflite-runtime",
}


@dataclass(frozen=True, slots=True)
class LiteTensor:
    """A tensor of a LiteRT model; `scale` is 0 where it has none.

    `argument` is its name in the model's own signature: `args_0`, … and `output_0`, … in order.
    """

    argument: str
    name: str
    dtype: np.dtype[np.generic]
    scale: float
    zero_point: int


def version_of(runtime: Runtime) -> str | None:
    """Return the version of the runtime that is installed here, or None."""
    try:
        return importlib.metadata.version(DISTRIBUTIONS[runtime])
    except importlib.metadata.PackageNotFoundError:
        return None


def name_of(runtime: Runtime) -> str:
    """Return the runtime and its installed version, for people."""
    return f"{runtime.value} {version_of(runtime)}"


def open_onnx(file: Path, profile: Profile) -> Invoke:
    """Load an ONNX model on onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = profile.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "1" if profile.spinning else "0"
    )
    session = onnxruntime.InferenceSession(str(file), options, providers=[profile.provider])
    names = [output.name for output in session.get_outputs()]

    def invoke(inputs: Tensors) -> Tensors:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return invoke


def open_lite(file: Path, profile: Profile) -> Invoke:
    """Load a LiteRT model with one signature on LiteRT's interpreter."""
    # LiteRT is an extra of its own, so only a LiteRT profile imports it.
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file), num_threads=profile.threads)
    interpreter.allocate_tensors()
    inputs = {detail["name"]: detail["index"] for detail in interpreter.get_input_details()}
    outputs = {detail["name"]: detail["index"] for detail in interpreter.get_output_details()}

    def invoke(arrays: Tensors) -> Tensors:
        for name, index in inputs.items():
            interpreter.set_tensor(index, arrays[name])
        interpreter.invoke()
        return {name: interpreter.get_tensor(index) for name, index in outputs.items()}

    return invoke


def lite_tensors(file: Path) -> tuple[list[LiteTensor], list[LiteTensor]]:
    """Return the inputs and outputs of a LiteRT model with one signature, in its order."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(file)).get_signature_runner()
    both = (runner.get_input_details(), runner.get_output_details())
    inputs, outputs = (
        [
            LiteTensor(argument, detail["name"], np.dtype(detail["dtype"]), *detail["quantization"])
            for argument, detail in side.items()
        ]
        for side in both
    )
    return inputs, outputs
