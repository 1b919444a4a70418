"""The process that tries one runtime: `python -m wherry_agent.probe RUNTIME`.

It imports the runtime and runs a small model whose answer is known, by the kernels in which
runtimes use what a processor has. It ends with 0 where the answer is right, else with a word on
its standard error; a runtime that does not fit the processor ends it by a signal.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from wherry.profile import Runtime
from wherry_agent import limits

if TYPE_CHECKING:
    from wherry_agent.runtimes.lite import MakesInterpreters

MODELS = Path(__file__).parent / "probes"
ONNX_FILE = MODELS / "probe.onnx"
LITE_FILE = MODELS / "probe.tflite"
INPUT_SCALE = 1 / 64
OUTPUT_SCALE = 1 / 8

MEMORY_BYTES = 1 << 30
CPU_S = 30.0

# What the models answer: eight windows of 72 summed over eight channels, int8 within its step; and
# twice the inputs 1, -1, 0.5 and 0, in eighths.
EXACT = 72.0 * 8
NEAR = 3.0
EIGHTHS = [16, -16, 8, 0]
SIXTY_FOURTHS = [64, -64, 32, 0]

Answer: TypeAlias = tuple[bool, str]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m wherry_agent.probe")
    parser.add_argument("runtime", type=Runtime)
    asked = parser.parse_args(arguments)
    limits.enclose()
    bounds = limits.LoadBounds(memory_bytes=MEMORY_BYTES, cpu_s=CPU_S, threads=1, niceness=10)
    with limits.loading(bounds):
        is_right, told = PROBES[asked.runtime]()
    if not is_right:
        sys.stderr.write(told)
    return 0 if is_right else 1


def _probe_onnxruntime() -> Answer:
    from wherry_agent.runtimes import QUIET

    os.environ.update(QUIET)
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(ONNX_FILE), options, providers=["CPUExecutionProvider"]
    )
    exact, near = session.run(None, {"x": np.ones((1, 8, 8, 8), np.float32)})
    is_right = bool((exact == EXACT).all() and (abs(near - EXACT) <= NEAR).all())
    return is_right, f"it answered {exact.tolist()} and {near.tolist()} and not {EXACT}"


def _probe_litert() -> Answer:
    from ai_edge_litert.interpreter import Interpreter

    return _probe_lite(Interpreter)


def _probe_tflite() -> Answer:
    from tflite_runtime.interpreter import Interpreter

    return _probe_lite(Interpreter)


def _probe_lite(make: MakesInterpreters) -> Answer:
    import numpy as np

    interpreter = make(model_path=str(LITE_FILE), num_threads=1)
    interpreter.allocate_tensors()
    places = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    given, asked = (int(str(place["index"])) for place in places)
    interpreter.set_tensor(given, np.array(SIXTY_FOURTHS, np.int8).reshape(1, 2, 2))
    interpreter.invoke()
    answer = interpreter.get_tensor(asked).tolist()
    return answer == [EIGHTHS], f"it answered {answer} and not {[EIGHTHS]}"


PROBES: dict[Runtime, Callable[[], Answer]] = {
    Runtime.ONNXRUNTIME: _probe_onnxruntime,
    Runtime.LITERT: _probe_litert,
    Runtime.TFLITE: _probe_tflite,
}

if __name__ == "__main__":
    sys.exit(main())
