"""onnxruntime behind the Protocol: one session, loaded by path, threads and spinning as declared.

By path, never by bytes: by path onnxruntime releases the interpreter lock while it loads.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

from wherry.manifest import Manifest
from wherry.profile import Profile
from wherry_agent.runtimes.base import Array, BadModel, RunFailed


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


# onnxruntime's own errors have no base in common, and each release has other ones.
ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(state).values() if _is_error(kind)),
    MemoryError,
    RuntimeError,
    ValueError,
)


class OnnxModel:
    """A session with the names of its tensors."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        profile = manifest.profile
        self._session = onnxruntime.InferenceSession(
            str(path), _options(profile), providers=[profile.provider]
        )
        self._inputs = [binding.runtime_name for binding in manifest.inputs]
        self._outputs = [binding.runtime_name for binding in manifest.outputs]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        feed = dict(zip(self._inputs, inputs, strict=True))
        try:
            return list(self._session.run(self._outputs, feed))
        except ERRORS as error:
            raise RunFailed(str(error)) from error


def version() -> str:
    return str(onnxruntime.__version__)


def load(path: Path, manifest: Manifest) -> OnnxModel:
    """Load the model at `path`; raise `BadModel` where onnxruntime refuses it."""
    try:
        return OnnxModel(path, manifest)
    except ERRORS as error:
        raise BadModel(str(error)) from error


def _options(profile: Profile) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = profile.threads
    options.inter_op_num_threads = 1
    spinning = "1" if profile.spinning else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    options.log_severity_level = 3  # What goes wrong comes back as an error.
    return options
