"""Variants run and timed, each job in a child process of a server on the place's runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from wherry.manifest import Binding
from wherry.profile import CPU_PROVIDER, Profile
from wherry.signature import Tensor
from wherry_controller.builder.data.rows import Rows, Tensors
from wherry_controller.builder.running import emulation
from wherry_controller.builder.running.environments import (
    Readiness,
    locked,
    python_at,
    state_of,
)
from wherry_controller.builder.running.place import Place, this_arch
from wherry_controller.builder.running.server import RunFailed, Server
from wherry_controller.builder.variant import Variant

DEADLINE_S = 900.0
EMULATED_DEADLINE_S = 1800.0


@dataclass(frozen=True, slots=True)
class Ran:
    """What a variant gave: outputs in signature terms, mapped from files; `on` is for people.

    Of sequences every output is `[rows, steps, …]`, states too. `memory_bytes` is the peak above a
    process that has only imported the runtime.
    """

    outputs: Tensors
    load_ms: float
    memory_bytes: int
    on: str


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a run of one row took; `on` is for people."""

    p50_ms: float
    p99_ms: float
    on: str


class Runners:
    """Servers by place, started when first asked; `runtimes` is the folder of environments."""

    def __init__(
        self,
        runtimes: Path,
        *,
        memory_bytes: int | None = None,
        deadline_s: float = DEADLINE_S,
        emulated_deadline_s: float = EMULATED_DEADLINE_S,
    ) -> None:
        self._runtimes, self._memory_bytes = runtimes, memory_bytes
        self._deadline_s, self._emulated_deadline_s = deadline_s, emulated_deadline_s
        self._servers: dict[Place, Server] = {}

    def __enter__(self) -> Runners:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in self._servers.values():
            server.close()
        self._servers.clear()

    def run(
        self,
        place: Place,
        variant: Variant,
        profile: Profile,
        rows: Rows,
        to: Path,
        *,
        span: range | None = None,
    ) -> Ran:
        """Run the variant over `rows`, or those of `span`; the outputs are kept in the folder `to`.

        Raises `RunFailed`, and refuses with RUNTIME_MISSING where the place cannot be had.
        """
        to.mkdir(parents=True, exist_ok=True)
        span = range(len(rows)) if span is None else span
        server = self._server(place)
        job = {
            "do": "run",
            "model": _model_of(variant, profile),
            "files": _files_of(rows),
            "start": span.start,
            "stop": span.stop,
            "to": str(to.absolute()),
        }
        answer = server.ask(job | self._bounds(place), deadline_s=self._deadline_of(place))
        outputs = {
            tensor.name: np.load(to / f"{index}.npy", mmap_mode="r")
            for index, tensor in enumerate(variant.signature.outputs)
        }
        return Ran(outputs, answer.load_ms, answer.memory_bytes, _on(place, server))

    def time(
        self, place: Place, variants: Sequence[Variant], profile: Profile, rows: Rows
    ) -> tuple[Timing, ...]:
        """Time the variants in turn on this machine, while no other build of it times any."""
        if place.cpu or place.arch is not this_arch():
            raise RunFailed("an emulated processor's speed says nothing")
        server = self._server(place)
        self._runtimes.mkdir(parents=True, exist_ok=True)
        job = {
            "do": "time",
            "models": [_model_of(variant, profile) for variant in variants],
            "files": _files_of(rows),
        }
        with locked(self._runtimes):
            answer = server.ask(job | self._bounds(place), deadline_s=self._deadline_s)
        pairs = zip(answer.p50_ms, answer.p99_ms, strict=True)
        return tuple(Timing(p50, p99, _on(place, server)) for p50, p99 in pairs)

    def can_emulate(self, place: Place) -> str:
        """Return "" where the place's processor can be emulated, or why not."""
        problem = emulation.why_not(place, self._runtimes)
        if problem or state_of(place, self._runtimes) is Readiness.READY:
            return problem
        return f"{place.runtime.value} {place.version} is not installed for {place.cpu}"

    def processes(self) -> dict[Place, int]:
        """Return the process of each place that was asked so far."""
        return {place: server.process for place, server in self._servers.items()}

    def _server(self, place: Place) -> Server:
        server = self._servers.get(place)
        if server is not None and not server.is_alive():
            server.close()
            server = None
        if server is None:
            python = python_at(place, self._runtimes)
            server = self._servers[place] = Server(python, place.runtime)
        return server

    def _bounds(self, place: Place) -> dict[str, object]:
        # QEMU's own mappings would count as the model's.
        return {"memory_bytes": None if place.cpu else self._memory_bytes}

    def _deadline_of(self, place: Place) -> float:
        return self._emulated_deadline_s if place.cpu else self._deadline_s


def _on(place: Place, server: Server) -> str:
    where = f"{place.cpu} (emulated)" if place.cpu else place.arch.value
    return f"{place.runtime.value} {server.version} on {where}"


def _files_of(rows: Rows) -> dict[str, str]:
    return {name: str(path.absolute()) for name, path in rows.files.items()}


def _model_of(variant: Variant, profile: Profile) -> Mapping[str, object]:
    signature = variant.signature
    return {
        "file": str(variant.file.absolute()),
        "inputs": _sides(signature.inputs, variant.inputs),
        "outputs": _sides(signature.outputs, variant.outputs),
        "static_batch": variant.static_batch,
        "max_batch": profile.max_batch,
        "states": [(pair.output, pair.input) for pair in signature.states],
        "threads": profile.threads,
        "spinning": profile.spinning,
        # Whatever an unverified profile names cannot be run here.
        "provider": profile.provider if profile.verified else CPU_PROVIDER,
        "affinity": profile.affinity,
    }


def _sides(tensors: Sequence[Tensor], bindings: Sequence[Binding]) -> list[Mapping[str, object]]:
    return [
        {
            "name": tensor.name,
            "runtime_name": binding.runtime_name,
            "datatype": binding.datatype,
            "permutation": binding.permutation,
            "scale": binding.scale,
            "zero_point": binding.zero_point,
            "wanted": tensor.datatype,
            "shape": tensor.shape,
        }
        for tensor, binding in zip(tensors, bindings, strict=True)
    ]
