"""A chosen candidate's golden set: made on its runtime, held against every processor and damage.

golden inputs --> the variant's own outputs --> again, on each emulated processor: the same
                                            --> from every damaged copy: others
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from wherry import codec
from wherry.manifest import MODEL_FILE, Manifest
from wherry_controller.builder.data.rows import Rows, Tensors
from wherry_controller.builder.explore import final_outputs
from wherry_controller.builder.faults import refuse, refuse_if
from wherry_controller.builder.judging import proof
from wherry_controller.builder.judging.damage import damages_of
from wherry_controller.builder.judging.distribution import reference_of
from wherry_controller.builder.judging.golden import Golden, golden_of
from wherry_controller.builder.running.place import Place, places_of
from wherry_controller.builder.running.server import RunFailed
from wherry_controller.builder.variant import Variant
from wherry_controller.builder.workshop import Workshop
from wherry_controller.core.build import BLOBS, PREVIOUS_MANIFEST
from wherry_controller.core.choice import Candidate
from wherry_controller.core.fault import BuildReason

ORDINARY_ROWS = 64


@dataclass(frozen=True, slots=True)
class Proved:
    """A golden set that was proved; `not_emulated` says why a processor was left out."""

    golden: Golden
    reference: bytes
    emulated_on: tuple[str, ...]
    not_emulated: tuple[str, ...]


def prove(shop: Workshop, candidate: Candidate, variant: Variant) -> Proved:
    """Return the candidate's golden set; refuses one that proves nothing, or fails somewhere."""
    run = _Runs(shop, variant)
    inputs = {name: array.copy() for name, array in shop.loaded.golden.inputs.items()}
    outputs = run.on(shop.place)
    golden = golden_of(inputs, outputs, shop.profile, candidate.recipe.precision, variant.outputs)
    emulated, missing = run.emulated()
    with tempfile.TemporaryDirectory(dir=shop.task.request.output, prefix=".damage-") as folder:
        found = proof.prove(
            golden,
            again=run.on(shop.place),
            emulated=emulated,
            sides=damages_of(variant.file, shop.profile.runtime),
            run=run.of_file,
            scratch=Path(folder) / variant.file.name,
            previous=_previous(shop, run, golden),
        )
    refuse_if(found.fault)
    return Proved(golden, _reference(shop, run, candidate), tuple(emulated), missing)


@dataclass(frozen=True, slots=True)
class _Runs:
    """Runs of a variant over the golden inputs and other rows."""

    shop: Workshop
    variant: Variant

    def on(self, place: Place) -> Tensors:
        return self._run(self.variant, place, self.shop.loaded.golden)

    def of_variant(self, variant: Variant) -> Tensors:
        """Return what another variant of the same signature answers to the golden inputs."""
        return self._run(variant, self.shop.place, self.shop.loaded.golden)

    def emulated(self) -> tuple[dict[str, Tensors], tuple[str, ...]]:
        """Return the golden outputs of each emulated processor, and why some have none."""
        found, missing = {}, []
        for place in places_of(self.shop.profile).emulated:
            obstacle = self.shop.runners.can_emulate(place)
            if obstacle:
                missing.append(f"{place.cpu}: {obstacle}")
            else:
                found[f"{place.cpu} (emulated)"] = self._emulated(place)
        return found, tuple(missing)

    def _emulated(self, place: Place) -> Tensors:
        try:
            return self.on(place)
        except RunFailed as error:
            problem = f"on {place.cpu} (emulated) the variant does not run ({error.problem})"
            refuse(BuildReason.DIFFERS_ON_CPU, problem)

    def of_file(self, file: Path) -> Tensors | None:
        """Return the golden outputs of a damaged copy; None where the runtime refuses it."""
        try:
            return self.of_variant(replace(self.variant, file=file))
        except RunFailed:
            return None

    def ordinary(self, variant: Variant, rows: int) -> Tensors:
        """Return a variant's outputs for some of the final rows."""
        final = self.shop.loaded.data.final
        return self._run(variant, self.shop.place, final, range(min(len(final), rows)))

    def _run(
        self, variant: Variant, place: Place, rows: Rows, span: range | None = None
    ) -> Tensors:
        shop = self.shop
        with tempfile.TemporaryDirectory(dir=shop.task.request.output, prefix=".run-") as folder:
            ran = shop.runners.run(place, variant, shop.profile, rows, Path(folder), span=span)
            return {name: array.copy() for name, array in ran.outputs.items()}


def _previous(shop: Workshop, run: _Runs, golden: Golden) -> proof.Previous | None:
    """Return what the version before answers, where one with the same signature is known."""
    place = shop.task.request.previous.get(shop.profile.name)
    if place is None:
        return None
    document = codec.decode(Manifest, (Path(place) / PREVIOUS_MANIFEST).read_bytes())
    if document.signature != shop.task.request.card.signature:
        return None
    file = Path(place) / BLOBS / document.files[MODEL_FILE].digest
    before = Variant(
        file, document.signature, document.inputs, document.outputs, document.static_batch
    )
    mine = run.ordinary(run.variant, ORDINARY_ROWS)
    try:
        others, outputs = run.ordinary(before, ORDINARY_ROWS), run.of_variant(before)
    except RunFailed:  # It was made for what the profile had then: another runtime, an older floor.
        return None
    return proof.Previous(outputs, proof.strays(golden, mine, others))


def _reference(shop: Workshop, run: _Runs, candidate: Candidate) -> bytes:
    """Return what inputs and outputs look like on the final rows, to see drift by."""
    outputs = final_outputs(shop, run.variant, candidate.recipe)
    card = shop.task.request.card
    return reference_of(shop.loaded.data.final, outputs, card.signature, card.task.class_output)
