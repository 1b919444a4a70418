"""Golden outputs put to the proof: they hold where the variant runs well and miss its damages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wherry_controller.builder.data.rows import Tensors
from wherry_controller.builder.judging.damage import Damage, Side
from wherry_controller.builder.judging.golden import Golden, agrees, is_same
from wherry_controller.builder.judging.outputs import farthest_of
from wherry_controller.core.fault import BuildReason, Fault

Run = Callable[[Path], Tensors | None]  # None: the runtime does not take the file.


@dataclass(frozen=True, slots=True)
class Previous:
    """The version before, made for the same profile: its answers to the golden inputs.

    `differs` says whether on ordinary rows it is further off than the tolerances (`strays`).
    """

    outputs: Tensors
    differs: bool


@dataclass(frozen=True, slots=True)
class Proof:
    """What is wrong with the golden set, or None; `seen` is the smallest damage that it shows."""

    fault: Fault | None
    seen: tuple[str, ...] = ()


def prove(
    golden: Golden,
    *,
    again: Tensors,
    emulated: Mapping[str, Tensors],
    sides: Sequence[Side],
    run: Run,
    scratch: Path,
    previous: Previous | None = None,
) -> Proof:
    """Prove the golden set of a variant.

    `again` are the variant's outputs of another run, `emulated` those by processor. `run` gives
    the outputs of a damaged file for the golden inputs; each is written to `scratch` in turn.
    """
    fault = unfaithful(golden, again, emulated)
    if fault is not None:
        return Proof(fault)
    seen: list[str] = []
    for side in sides:
        smallest = _smallest_seen(golden, side, run, scratch)
        if smallest is None:
            return Proof(_blind(f"the golden outputs do not show damage to {side.name}"))
        seen.append(smallest)
    if previous is not None and previous.differs and agrees(golden, previous.outputs):
        return Proof(_blind("the version before gives the same golden outputs"), tuple(seen))
    return Proof(None, tuple(seen))


def unfaithful(golden: Golden, again: Tensors, emulated: Mapping[str, Tensors]) -> Fault | None:
    """Return what is wrong where the good variant does not give its golden outputs again."""
    if not agrees(golden, again):
        return _blind("the variant does not give its own golden outputs again")
    for processor, outputs in emulated.items():
        if not agrees(golden, outputs):
            problem = f"on {processor} the variant gives other golden outputs"
            return Fault(BuildReason.DIFFERS_ON_CPU, problem)
    return None


def strays(golden: Golden, mine: Tensors, others: Tensors) -> bool:
    """Say whether two variants differ on some rows by more than the golden tolerances."""
    return any(
        not farthest_of(mine[name], others[name]) <= tolerance
        for name, tolerance in golden.tolerances.items()
    )


def _smallest_seen(golden: Golden, side: Side, run: Run, scratch: Path) -> str | None:
    for layer in side.layers:
        alive = False
        for damage in layer:
            outputs = _outputs(damage, run, scratch)
            if outputs is None or not agrees(golden, outputs):
                return damage.what
            alive = alive or not is_same(golden, outputs)
        if alive:
            return None
    return None


def _outputs(damage: Damage, run: Run, scratch: Path) -> Tensors | None:
    damage.write(scratch)
    try:
        return run(scratch)
    finally:
        scratch.unlink(missing_ok=True)


def _blind(problem: str) -> Fault:
    return Fault(BuildReason.GOLDEN_BLIND, problem)
