"""A server that runs models: a script of its own, for whatever Python has the runtime.

    job, a line of JSON --> forked child: load, run row by row from file to file --> answer, a line

The runtime is imported once; a child that crashes or is killed ends its job only, and the answer
says by which signal. What an answer holds is in the terms of the version's signature, as an agent
gives it: in a tensor is transposed, quantized by the model's own scale and padded to the model's
fixed batch, and out the same backwards. A model with states sees its own outputs again.

It needs Python 3.9, numpy and one runtime, and imports nothing of Wherry's.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version as version_of
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Tensors = Mapping[str, Array]
Invoke = Callable[[Tensors], Tensors]

log = logging.getLogger("wherry.runner")

# As in the agent's runtimes/onnx.py: under other settings the figures say nothing of a device.
SESSION_OPTIONS = {"inter_op_num_threads": 1, "log_severity_level": 3}
SPINNING = "session.intra_op.allow_spinning"

WARM_UPS = 10
ROUNDS = 300
FEWEST_ROUNDS = 5
LONGEST_ROUNDS_S = 10.0
LONGEST_PROBLEM = 500

# The names are those of the Open Inference Protocol v2, as in wherry.signature.
NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "INT8": np.dtype(np.int8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}


class Bound(Protocol):
    """A binding as manifests have it."""

    @property
    def datatype(self) -> str: ...
    @property
    def permutation(self) -> Sequence[int]: ...
    @property
    def scale(self) -> float | None: ...
    @property
    def zero_point(self) -> int: ...


class Side(NamedTuple):
    """One tensor of the signature with its binding: `wanted` and `shape` are the signature's."""

    name: str
    runtime_name: str
    datatype: str
    permutation: list[int]
    scale: float | None
    zero_point: int
    wanted: str
    shape: list[int | str]


class Model(NamedTuple):
    """A model file and how it is loaded; `states` holds an output's and an input's name each."""

    file: str
    inputs: list[Side]
    outputs: list[Side]
    static_batch: int | None
    max_batch: int
    states: list[tuple[str, str]]
    threads: int
    spinning: bool
    provider: str
    affinity: Sequence[int] = ()

    @property
    def batch(self) -> int:
        return self.static_batch or self.max_batch


class Unfit(Exception):
    """A model whose tensors are not what its bindings say."""


def inward(binding: Bound, array: Array) -> Array:
    """Return a tensor of the signature as the runtime's model wants it."""
    turned: npt.NDArray[Any] = array
    if binding.permutation:
        turned = np.transpose(array, binding.permutation)
    wanted = NUMPY[binding.datatype]
    if binding.scale is None:
        return np.ascontiguousarray(turned, wanted)
    # A NaN has no step; as on the device it becomes whatever the processor makes of it.
    with np.errstate(invalid="ignore"):
        steps = np.rint(turned / np.float32(binding.scale)) + binding.zero_point
        limits = np.iinfo(wanted)
        return np.ascontiguousarray(np.clip(steps, limits.min, limits.max), wanted)


def outward(binding: Bound, array: Array, wanted: np.dtype[Any]) -> Array:
    """Return a tensor of the runtime's model as the signature says."""
    if binding.scale is not None:
        array = (array.astype(np.float32) - binding.zero_point) * np.float32(binding.scale)
    if binding.permutation:
        array = np.transpose(array, np.argsort(binding.permutation))
    return np.ascontiguousarray(array, wanted)


def ask(model: Model, invoke: Invoke, inputs: Tensors) -> dict[str, Array]:
    """Ask the loaded model for at most a batch of rows, in signature terms."""
    rows = len(next(iter(inputs.values())))
    given = invoke(_bound(model, inputs))
    return {side.name: _answer(side, given, rows) for side in model.outputs}


def _bound(model: Model, inputs: Tensors) -> Tensors:
    return {
        side.runtime_name: _padded(inward(side, inputs[side.name]), model.static_batch)
        for side in model.inputs
    }


def _padded(batch: Array, size: int | None) -> Array:
    missing = (size or len(batch)) - len(batch)
    if not missing:
        return batch
    return np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])


def _answer(side: Side, given: Tensors, rows: int) -> Array:
    array = given[side.runtime_name]
    if array.ndim == 0 or len(array) < rows:
        raise Unfit(f"{side.name} came as {list(array.shape)} for {rows} rows")
    return outward(side, array[:rows], NUMPY[side.wanted])


def ask_steps(model: Model, invoke: Invoke, inputs: Tensors) -> dict[str, Array]:
    """Ask for sequences: each step's states go into the next; outputs are `[rows, steps, …]`."""
    initial = {name for _, name in model.states}
    steps = next(array.shape[1] for name, array in inputs.items() if name not in initial)
    now = {name: array for name, array in inputs.items() if name in initial}
    answers: list[dict[str, Array]] = []
    for step in range(steps):
        now.update({name: array[:, step] for name, array in inputs.items() if name not in initial})
        answers.append(ask(model, invoke, now))
        now.update({name: answers[-1][output] for output, name in model.states})
    return {name: np.stack([answer[name] for answer in answers], 1) for name in answers[0]}


class Column:
    """The rows of a `.npy` file, read and not mapped: mapped pages would count as memory."""

    def __init__(self, path: str) -> None:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not mapped.flags.c_contiguous:
            raise Unfit(f"{path} is not in row-major order")
        self._path, self._offset = path, int(mapped.offset)
        self._dtype, self._shape = mapped.dtype, mapped.shape[1:]

    def read(self, start: int, stop: int) -> Array:
        size = math.prod(self._shape)
        offset = self._offset + start * size * self._dtype.itemsize
        flat = np.fromfile(self._path, self._dtype, (stop - start) * size, offset=offset)
        return flat.reshape(stop - start, *self._shape)


class Sink:
    """A `.npy` file of `rows` rows that is written batch by batch."""

    def __init__(self, path: Path, rows: int) -> None:
        self._file, self._rows = path.open("wb"), rows
        self._shape: tuple[int, ...] | None = None

    def write(self, batch: Array) -> None:
        if self._shape is None:
            self._begin(batch)
        elif self._shape != batch.shape[1:]:
            problem = f"{list(self._shape)} and {list(batch.shape[1:])}"
            raise Unfit(f"an output changes its shape between batches: {problem}")
        self._file.write(np.ascontiguousarray(batch).data)

    def close(self) -> None:
        self._file.close()

    def _begin(self, batch: Array) -> None:
        self._shape = batch.shape[1:]
        descr = np.lib.format.dtype_to_descr(batch.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (self._rows, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)


def batches(model: Model, files: Mapping[str, str], start: int, stop: int) -> Iterator[Tensors]:
    """Read the rows from `start` to below `stop`, at most a batch at a time."""
    columns = {name: Column(path) for name, path in files.items()}
    for first in range(start, stop, model.batch):
        last = min(first + model.batch, stop)
        given = {name: column.read(first, last) for name, column in columns.items()}
        yield {**_zero_states(model, last - first, given), **given}


def _zero_states(model: Model, rows: int, given: Tensors) -> dict[str, Array]:
    carried = {name for _, name in model.states}
    sides = [side for side in model.inputs if side.name in carried and side.name not in given]
    return {
        side.name: np.zeros([rows, *_lengths(side.shape[1:])], NUMPY[side.wanted]) for side in sides
    }


def _lengths(axes: Sequence[int | str]) -> list[int]:
    """An axis with a name is one that grows, and begins at nothing."""
    return [axis if isinstance(axis, int) else 0 for axis in axes]


def is_sequence(model: Model, inputs: Tensors) -> bool:
    """Say whether the rows have an axis of steps behind the first one."""
    carried = {name for _, name in model.states}
    return any(
        inputs[side.name].ndim > len(side.shape)
        for side in model.inputs
        if side.name not in carried
    )


def run(job: dict[str, Any], load: Callable[[Model], Invoke]) -> dict[str, Any]:
    """Run a model over all rows; the outputs stand in the folder `to`, by their position."""
    model = parse_model(job["model"])
    before = memory_kib("VmRSS")
    invoke, load_ms = loaded(model, load)
    sinks = [
        Sink(Path(job["to"]) / f"{index}.npy", job["stop"] - job["start"])
        for index in range(len(model.outputs))
    ]
    for inputs in batches(model, job["files"], job["start"], job["stop"]):
        answer = ask_steps if is_sequence(model, inputs) else ask
        given = answer(model, invoke, inputs)
        for index, side in enumerate(model.outputs):
            sinks[index].write(given[side.name])
    for sink in sinks:
        sink.close()
    memory_bytes = max(0, memory_kib("VmHWM") - before) * 1024
    return {"load_ms": load_ms, "memory_bytes": memory_bytes}


def time_rounds(job: dict[str, Any], load: Callable[[Model], Invoke]) -> dict[str, Any]:
    """Time rounds of one row each, the models in turn, so that a busy moment falls on all."""
    runs = [_one_row(parse_model(model), load, job["files"]) for model in job["models"]]
    for run_once in runs:
        for _ in range(WARM_UPS):
            run_once()
    taken: list[list[int]] = [[] for _ in runs]
    until = time.monotonic() + LONGEST_ROUNDS_S
    for turn in range(ROUNDS):
        if turn >= FEWEST_ROUNDS and time.monotonic() > until:
            break
        for offset in range(len(runs)):
            index = (turn + offset) % len(runs)
            started = time.perf_counter_ns()
            runs[index]()
            taken[index].append(time.perf_counter_ns() - started)
    return {"p50_ms": [_rank(ns, 50) for ns in taken], "p99_ms": [_rank(ns, 99) for ns in taken]}


def _one_row(
    model: Model, load: Callable[[Model], Invoke], files: Mapping[str, str]
) -> Callable[[], object]:
    """Load a model and return its run alone: an agent's latency is the runtime's too."""
    invoke, _ = loaded(model, load)
    inputs = dict(next(batches(model._replace(static_batch=None, max_batch=1), files, 0, 1)))
    if is_sequence(model, inputs):
        carried = {name for _, name in model.states}
        inputs = {name: a if name in carried else a[:, 0] for name, a in inputs.items()}
    ready = _bound(model, inputs)
    return lambda: invoke(ready)


def _rank(taken_ns: list[int], percent: int) -> float:
    return float(np.percentile(np.array(taken_ns), percent)) / 1e6


def loaded(model: Model, load: Callable[[Model], Invoke]) -> tuple[Invoke, float]:
    """Load a model on the cores that it is for; return it and the milliseconds that took."""
    _pin(model)
    started = time.perf_counter()
    invoke = load(model)
    return invoke, (time.perf_counter() - started) * 1000


def _pin(model: Model) -> None:
    """Run on the profile's cores from now on, those of them that this machine has."""
    cores = set(model.affinity) & os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, cores)


def parse_model(told: dict[str, Any]) -> Model:
    told = {**told, "states": [tuple(pair) for pair in told["states"]]}
    for side in ("inputs", "outputs"):
        told[side] = [Side(**tensor) for tensor in told[side]]
    return Model(**told)


def memory_kib(field: str) -> int:
    """Return a figure of this process from the kernel; a forked child's peak starts at its own."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1])
    return 0


def import_onnx() -> Callable[[Model], Invoke]:
    import onnxruntime

    def load(model: Model) -> Invoke:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = model.threads
        for name, value in SESSION_OPTIONS.items():
            setattr(options, name, value)
        options.add_session_config_entry(SPINNING, "1" if model.spinning else "0")
        session = onnxruntime.InferenceSession(model.file, options, providers=[model.provider])
        names = [side.runtime_name for side in model.outputs]

        def invoke(inputs: Tensors) -> Tensors:
            given = session.run(names, dict(inputs))
            return {name: given[index] for index, name in enumerate(names)}

        return invoke

    return load


def import_litert() -> Callable[[Model], Invoke]:
    from ai_edge_litert.interpreter import Interpreter

    return lambda model: _lite(model, Interpreter)


def import_tflite() -> Callable[[Model], Invoke]:
    from tflite_runtime.interpreter import Interpreter

    return lambda model: _lite(model, Interpreter)


def _lite(model: Model, interpreter_class: Callable[..., Any]) -> Invoke:
    interpreter = interpreter_class(model_path=model.file, num_threads=model.threads)
    interpreter.allocate_tensors()
    inputs = _places(interpreter.get_input_details(), model.inputs)
    outputs = _places(interpreter.get_output_details(), model.outputs)
    shapes = {name: tuple(interpreter.get_tensor(place).shape) for name, place in inputs.items()}

    def invoke(arrays: Tensors) -> Tensors:
        wanted = {name: arrays[name].shape for name in inputs}
        if wanted != shapes:
            for name, place in inputs.items():
                interpreter.resize_tensor_input(place, wanted[name])
            interpreter.allocate_tensors()
            shapes.update(wanted)
        for name, place in inputs.items():
            interpreter.set_tensor(place, arrays[name])
        interpreter.invoke()
        return {name: interpreter.get_tensor(place) for name, place in outputs.items()}

    return invoke


def _places(details: list[dict[str, Any]], sides: list[Side]) -> dict[str, int]:
    indices = {detail["name"]: detail["index"] for detail in details}
    missing = [side.runtime_name for side in sides if side.runtime_name not in indices]
    if missing:
        raise Unfit(f"it has no tensor {missing[0]!r}, but {', '.join(indices)}")
    return {side.runtime_name: indices[side.runtime_name] for side in sides}


IMPORTS = {
    "onnxruntime": ("onnxruntime", import_onnx),
    "litert": ("ai-edge-litert", import_litert),
    "tflite-runtime": ("tflite-runtime", import_tflite),
}
JOBS = {"run": run, "time": time_rounds}


def answer(job: dict[str, Any], load: Callable[[Model], Invoke]) -> dict[str, Any]:
    """Do a job in this process; whatever a runtime raises becomes the answer."""
    try:
        return JOBS[job["do"]](job, load)
    except MemoryError:
        return {"problem": "it needs more memory than it may have"}
    except Exception as error:
        # Runtimes' errors have no base in common.
        log.exception("job.failed")
        words = " ".join(str(error).split())[:LONGEST_PROBLEM] or type(error).__name__
        return {"problem": words}


def attempt(job: dict[str, Any], load: Callable[[Model], Invoke]) -> dict[str, Any]:
    """Do a job in a forked child; return its answer, or by what it ended without one."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _confine(job)
        _say(writing, answer(job, load))
        os._exit(0)
    os.close(writing)
    said, in_time = _hear(reading, job["deadline_s"])
    os.close(reading)
    if not in_time:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not in_time:
        return {"problem": f"it did not finish within {job['deadline_s']:g} s"}
    if os.WIFSIGNALED(status):
        return {"problem": f"it crashed the runtime ({signal.Signals(os.WTERMSIG(status)).name})"}
    try:
        told: dict[str, Any] = json.loads(said)
    except ValueError:
        return {"problem": f"it ended the process with {os.WEXITSTATUS(status)}"}
    return told


def _confine(job: dict[str, Any]) -> None:
    """Bound this child, and offer it to the kernel as the first to die when memory ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if job["memory_bytes"] is not None:
        most = memory_kib("VmSize") * 1024 + job["memory_bytes"]
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    with contextlib.suppress(OSError):  # A builder that is confined may not write there.
        Path("/proc/self/oom_score_adj").write_text("1000")


def _say(descriptor: int, told: dict[str, Any]) -> None:
    with os.fdopen(descriptor, "w") as file:
        file.write(json.dumps(told))


def _hear(reading: int, deadline_s: float) -> tuple[bytes, bool]:
    """Return what the child says until it closes the pipe, and whether that was in time.

    Input that comes meanwhile is its end: whoever asked is gone, and nobody wants the answer.
    """
    until = time.monotonic() + deadline_s
    said = b""
    while True:
        ready, _, _ = select.select([reading, 0], [], [], max(0.0, until - time.monotonic()))
        if reading not in ready:
            return said, False
        part = os.read(reading, 65536)
        if not part:
            return said, True
        said += part


def serve(runtime: str, jobs: IO[str], answers: IO[str]) -> None:
    distribution, import_runtime = IMPORTS[runtime]
    load = import_runtime()
    hello = {"version": version_of(distribution), "machine": platform.machine()}
    print(json.dumps(hello), file=answers, flush=True)
    for line in jobs:
        print(json.dumps(attempt(json.loads(line), load)), file=answers, flush=True)


def main() -> None:
    # Runtimes print to stdout as they like: what they print belongs into the log.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.basicConfig(stream=sys.stderr)
    serve(sys.argv[1], sys.stdin, answers)


if __name__ == "__main__":
    main()
