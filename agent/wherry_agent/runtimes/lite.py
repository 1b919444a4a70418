"""A LiteRT file in an interpreter, whichever package it comes from: both have one interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from wherry.manifest import Binding, Manifest
from wherry_agent.runtimes.base import Array, BadModel, RunFailed

ERRORS = (MemoryError, RuntimeError, ValueError)


class Interpreter(Protocol):
    """What is used of the interpreter of ai-edge-litert and of tflite-runtime."""

    def allocate_tensors(self) -> object: ...
    def get_input_details(self) -> list[dict[str, object]]: ...
    def get_output_details(self) -> list[dict[str, object]]: ...
    def get_tensor(self, place: int, /) -> Array: ...
    def set_tensor(self, place: int, value: Array, /) -> object: ...
    def resize_tensor_input(self, place: int, shape: Sequence[int], /) -> object: ...
    def invoke(self) -> object: ...


class MakesInterpreters(Protocol):
    def __call__(self, *, model_path: str, num_threads: int) -> Interpreter: ...


class LiteModel:
    """An interpreter with the places of its tensors, loaded by path, with its threads set."""

    def __init__(self, make: MakesInterpreters, path: Path, manifest: Manifest) -> None:
        self._interpreter = make(model_path=str(path), num_threads=manifest.profile.threads)
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


def load_with(make: MakesInterpreters, path: Path, manifest: Manifest) -> LiteModel:
    """Load the model at `path`; raise `BadModel` where the runtime refuses it."""
    try:
        return LiteModel(make, path, manifest)
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
