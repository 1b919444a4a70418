"""onnxruntime behind the Protocol: one session, loaded by path, threads and spinning as declared.

By path, never by bytes: by path onnxruntime releases the interpreter lock while it loads. On the
CPU inputs are bound where they stand, and outputs, where their shapes follow from the inputs', to
arrays that are used again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from wherry.manifest import MODEL_FILE, Manifest
from wherry.profile import CPU_PROVIDER, Profile
from wherry_agent import detect
from wherry_agent.runtimes import optimized
from wherry_agent.runtimes.base import Array, BadModel, MissingRuntime, RunFailed

TENSORRT_PROVIDER, CUDA_PROVIDER = "TensorrtExecutionProvider", "CUDAExecutionProvider"
LEVEL = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
BOUND_SHAPES = 8
BOUND_BYTES = 8 << 20  # Of outputs for all shapes but the newest.

DTYPES = {
    "tensor(bool)": np.dtype(np.bool_),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
}


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


# onnxruntime's own errors have no base in common, and each release has other ones.
ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(state).values() if _is_error(kind)),
    MemoryError,
    RuntimeError,
    ValueError,
)


@dataclass(slots=True)
class _Bound:
    """A binding for one set of input shapes, and where its inputs stood the last time."""

    binding: onnxruntime.IOBinding
    outputs: list[Array]
    addresses: list[int] = field(default_factory=list)


class OnnxModel:
    """A session with the names of its tensors."""

    def __init__(self, session: onnxruntime.InferenceSession, manifest: Manifest) -> None:
        self._session = session
        self._inputs = [binding.runtime_name for binding in manifest.inputs]
        self._outputs = [binding.runtime_name for binding in manifest.outputs]
        self._binds = manifest.profile.provider == CPU_PROVIDER
        self._bound: dict[tuple[tuple[int, ...], ...], _Bound] = {}

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        try:
            return self._run_bound(inputs) if self._binds else self._run_unbound(inputs)
        except ERRORS as error:
            raise RunFailed(str(error)) from error

    def _run_unbound(self, inputs: Sequence[Array]) -> list[Array]:
        feed = dict(zip(self._inputs, inputs, strict=True))
        return list(self._session.run(self._outputs, feed))

    def _run_bound(self, inputs: Sequence[Array]) -> list[Array]:
        """Run with tensors bound; without, once and for all, where the model's shapes lie."""
        bound = self._bound.get(tuple(array.shape for array in inputs)) or self._bind(inputs)
        if bound is None:
            return self._run_unbound(inputs)
        try:
            self._place(bound, inputs)
            self._session.run_with_iobinding(bound.binding)
        except ERRORS:
            outputs = self._run_unbound(inputs)
            self._binds = False
            return outputs
        return bound.outputs

    def _place(self, bound: _Bound, inputs: Sequence[Array]) -> None:
        """Bind the inputs where they stand now."""
        addresses = [array.__array_interface__["data"][0] for array in inputs]
        if addresses == bound.addresses:
            return
        for name, array, address in zip(self._inputs, inputs, addresses, strict=True):
            bound.binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, address)
        bound.addresses = addresses

    def _bind(self, inputs: Sequence[Array]) -> _Bound | None:
        """Return a new binding for inputs of these shapes; None where outputs' are not known."""
        outputs = self._outputs_for(inputs)
        if outputs is None:
            self._binds = False
            return None
        binding = self._session.io_binding()
        for name, array in zip(self._outputs, outputs, strict=True):
            binding.bind_output(
                name, "cpu", 0, array.dtype.type, array.shape, array.__array_interface__["data"][0]
            )
        held_bytes = sum(array.nbytes for one in self._bound.values() for array in one.outputs)
        if len(self._bound) >= BOUND_SHAPES or held_bytes > BOUND_BYTES:
            self._bound.clear()
        bound = _Bound(binding, outputs)
        self._bound[tuple(array.shape for array in inputs)] = bound
        return bound

    def _outputs_for(self, inputs: Sequence[Array]) -> list[Array] | None:
        """Return arrays for the outputs, where the model says how their shapes follow."""
        declared = {one.name: one for one in self._session.get_inputs()}
        lengths: dict[object, int] = {}
        for name, array in zip(self._inputs, inputs, strict=True):
            if name not in declared or len(declared[name].shape) != array.ndim:
                return None
            lengths.update(zip(declared[name].shape, array.shape, strict=True))
        given = {one.name: one for one in self._session.get_outputs()}
        outputs: list[Array] = []
        for name in self._outputs:
            shape = _shape(given[name].shape, lengths) if name in given else None
            if shape is None or given[name].type not in DTYPES:
                return None
            outputs.append(np.empty(shape, DTYPES[given[name].type]))
        return outputs


def version() -> str:
    return str(onnxruntime.__version__)


def load(path: Path, manifest: Manifest, kept_in: Path | None = None) -> OnnxModel:
    """Load the model at `path`, or what was made of it and kept; keep what is made of it now.

    Raises `BadModel` where onnxruntime refuses it, and `MissingRuntime` where the profile's
    provider is not to be had: never is another one taken instead.
    """
    profile = manifest.profile
    providers = providers_of(profile, onnxruntime.get_available_providers())
    if kept_in is None or profile.provider != CPU_PROVIDER:
        return model_of(_start(path, options_of(profile), providers), manifest)
    key = optimized.key_of(manifest.files[MODEL_FILE].digest, _conditions(profile))
    session = _start_kept(kept_in, key, profile)
    if session is None:
        _keep(path, kept_in, key, profile)
        session = _start_kept(kept_in, key, profile)
    return model_of(session or _start(path, options_of(profile), providers), manifest)


def providers_of(profile: Profile, available: Sequence[str]) -> list[str]:
    """Return the providers of a session, the profile's first: what it lacks the next one runs.

    Raises `MissingRuntime` where onnxruntime was built without the profile's.
    """
    if profile.provider not in available:
        raise MissingRuntime(f"onnxruntime with {profile.provider}", ", ".join(available))
    behind = {CPU_PROVIDER: (), TENSORRT_PROVIDER: (CUDA_PROVIDER, CPU_PROVIDER)}
    others = behind.get(profile.provider, (CPU_PROVIDER,))
    return [profile.provider, *(other for other in others if other in available)]


def model_of(session: onnxruntime.InferenceSession, manifest: Manifest) -> OnnxModel:
    """Return the session's model; raise `MissingRuntime` where its provider did not come up."""
    found = session.get_providers()
    if manifest.profile.provider not in found:
        raise MissingRuntime(f"a working {manifest.profile.provider}", ", ".join(found))
    return OnnxModel(session, manifest)


def _start(
    path: Path, options: onnxruntime.SessionOptions, providers: Sequence[str]
) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except ERRORS as error:
        raise BadModel(str(error)) from error


def _start_kept(folder: Path, key: str, profile: Profile) -> onnxruntime.InferenceSession | None:
    """Load what was kept, which is optimised already; None where there is nothing that loads."""
    try:
        kept = optimized.find_kept(folder, key)
        if kept is None:
            return None
        options = options_of(profile)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return _start(kept, options, [CPU_PROVIDER])
    except (BadModel, OSError):
        optimized.forget(folder, key)
        return None


def _keep(path: Path, folder: Path, key: str, profile: Profile) -> None:
    """Keep what onnxruntime makes of a model, where it takes it and there is room for it.

    The session that writes it is let go: it holds some ten megabytes more than one that reads it.
    """

    def write(made: Path) -> None:
        options = options_of(profile)
        options.optimized_model_filepath = str(made)
        _start(path, options, [CPU_PROVIDER])

    with suppress(BadModel, OSError):
        optimized.keep(folder, key, write)


def _conditions(profile: Profile) -> list[str]:
    return [version(), profile.provider, LEVEL.name, *detect.facts().cpu_features]


def _shape(axes: Sequence[object], lengths: dict[object, int]) -> list[int] | None:
    """Return the lengths of axes, some of them by name; None where a name stands for none."""
    shape: list[int] = []
    for axis in axes:
        if isinstance(axis, int):
            shape.append(axis)
        elif isinstance(axis, str) and axis in lengths:
            shape.append(lengths[axis])
        else:
            return None
    return shape


def options_of(profile: Profile) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = LEVEL
    options.intra_op_num_threads = profile.threads
    options.inter_op_num_threads = 1
    spinning = "1" if profile.spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    options.log_severity_level = 3  # What goes wrong comes back as an error.
    return options
