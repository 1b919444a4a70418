"""LiteRT behind the Protocol: one interpreter, loaded by path, with its threads set explicitly."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version as version_of
from pathlib import Path

from ai_edge_litert.interpreter import Interpreter

from wherry.manifest import Binding, Manifest
from wherry_agent.runtimes.base import Array, BadModel, RunFailed

ERRORS = (MemoryError, RuntimeError, ValueError)


class LitertModel:
    """An interpreter with the places of its tensors."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._interpreter = Interpreter(model_path=str(path), num_threads=manifest.profile.threads)
        self._interpreter.allocate_tensors()
        self._inputs = _places(self._interpreter.get_input_details(), manifest.inputs)
        self._outputs = _places(self._interpreter.get_output_details(), manifest.outputs)
        self._shapes = [tuple(self._interpreter.get_tensor(place).shape) for place in self._inputs]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        try:
            self._fit([array.shape for array in inputs])
            for place, array in zip(self._inputs, inputs, strict=True):
                self._interpreter.set_tensor(place, array)
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(place) for place in self._outputs]
        except ERRORS as error:
            raise RunFailed(str(error)) from error

    def _fit(self, shapes: list[tuple[int, ...]]) -> None:
        """Lay the tensors out for other shapes than the last ones."""
        if shapes == self._shapes:
            return
        for place, shape in zip(self._inputs, shapes, strict=True):
            self._interpreter.resize_tensor_input(place, shape)
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def version() -> str:
    return version_of("ai-edge-litert")


def load(path: Path, manifest: Manifest) -> LitertModel:
    """Load the model at `path`; raise `BadModel` where LiteRT refuses it."""
    try:
        return LitertModel(path, manifest)
    except ERRORS as error:
        raise BadModel(str(error)) from error


def _places(details: list[dict[str, object]], bindings: tuple[Binding, ...]) -> list[int]:
    indices = {str(detail["name"]): detail["index"] for detail in details}
    places: list[int] = []
    for binding in bindings:
        index = indices.get(binding.runtime_name)
        if not isinstance(index, int):
            names = ", ".join(indices)
            raise BadModel(f"it has no tensor {binding.runtime_name!r}, but {names}")
        places.append(index)
    return places
