"""Tests of the proof of golden sets, on nets that the real runtime runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.controller.builder.judging.cards import a_profile
from tests.controller.builder.judging.nets import IMAGES, a_branching_net, a_net, run_onnx
from wherry.profile import Precision, Runtime
from wherry_controller.builder.data.rows import Tensors
from wherry_controller.builder.judging.damage import Damage, Side, damages_of
from wherry_controller.builder.judging.golden import Golden, golden_of
from wherry_controller.builder.judging.proof import Previous, Proof, Run, prove, strays
from wherry_controller.core.fault import BuildReason


def a_golden(file: Path, *, tolerance: float | None = None) -> Golden:
    outputs = run_onnx(file)
    golden = golden_of({"image": IMAGES}, outputs, a_profile(), Precision.FP32, ())
    return golden if tolerance is None else Golden(golden.inputs, outputs, {"scores": tolerance})


def proof_of(
    golden: Golden,
    file: Path,
    *,
    again: Tensors | None = None,
    emulated: dict[str, Tensors] | None = None,
    previous: Previous | None = None,
    run: Run = run_onnx,
) -> Proof:
    return prove(
        golden,
        again=run_onnx(file) if again is None else again,
        emulated=emulated or {},
        sides=damages_of(file, Runtime.ONNXRUNTIME),
        run=run,
        scratch=file.with_name("damaged.onnx"),
        previous=previous,
    )


def shifted(outputs: Tensors, by: float) -> Tensors:
    return {"scores": outputs["scores"].astype(np.float32) + np.float32(by)}


def test_a_golden_set_is_accepted_that_shows_one_channel(tmp_path: Path) -> None:
    file = a_net(tmp_path / "net.onnx")
    proof = proof_of(a_golden(file), file)
    assert proof.fault is None
    # The convolution's strongest channel is dead, so a quarter of them has to go.
    assert proof.seen == (
        "2 of the 8 channels of 'conv' zeroed",
        "1 of the 4 channels of 'head' zeroed",
    )
    assert not (tmp_path / "damaged.onnx").exists()


def test_layers_in_a_branch_that_is_not_taken_give_way_to_the_next(tmp_path: Path) -> None:
    file = a_branching_net(tmp_path / "if.onnx")
    proof = proof_of(a_golden(file), file)
    assert proof.fault is None
    assert not any("never" in what for what in proof.seen)


def test_a_tolerance_that_lets_damage_through_is_refused(tmp_path: Path) -> None:
    file = a_net(tmp_path / "net.onnx")
    fault = proof_of(a_golden(file, tolerance=1e9), file).fault
    assert fault is not None
    assert fault.reason is BuildReason.GOLDEN_BLIND
    assert fault.problem == "the golden outputs do not show damage to the first layers"


def test_golden_inputs_by_which_all_layers_are_dead_are_refused(tmp_path: Path) -> None:
    file = a_net(tmp_path / "net.onnx")
    golden = a_golden(file)
    fault = proof_of(golden, file, run=lambda _: golden.outputs).fault
    assert fault is not None
    assert fault.reason is BuildReason.GOLDEN_BLIND


def test_a_file_that_the_runtime_refuses_is_seen(tmp_path: Path) -> None:
    file = a_net(tmp_path / "net.onnx")
    assert proof_of(a_golden(file), file, run=lambda _: None).fault is None


def test_a_variant_that_answers_otherwise_the_second_time_is_refused(tmp_path: Path) -> None:
    file = a_net(tmp_path / "net.onnx")
    golden = a_golden(file)
    fault = proof_of(golden, file, again=shifted(golden.outputs, 0.1)).fault
    assert fault is not None
    assert "does not give its own golden outputs again" in fault.problem


def test_a_processor_with_other_answers_is_named(tmp_path: Path) -> None:
    file = a_net(tmp_path / "net.onnx")
    golden = a_golden(file)
    emulated = {"Nehalem": golden.outputs, "Haswell": shifted(golden.outputs, 0.1)}
    fault = proof_of(golden, file, emulated=emulated).fault
    assert fault is not None
    assert fault.reason is BuildReason.DIFFERS_ON_CPU
    assert "on Haswell the variant gives other golden outputs" in fault.problem


@pytest.mark.parametrize(
    ("by", "differs", "blind"), [(0.0, True, True), (0.0, False, False), (0.1, True, False)]
)
def test_the_version_before_must_be_told_apart_where_it_differs(
    tmp_path: Path, by: float, differs: bool, blind: bool
) -> None:
    file = a_net(tmp_path / "net.onnx")
    golden = a_golden(file)
    previous = Previous(shifted(golden.outputs, by), differs)
    fault = proof_of(golden, file, previous=previous).fault
    assert (fault is not None) is blind


def test_versions_stray_by_more_than_the_tolerance(tmp_path: Path) -> None:
    golden = a_golden(a_net(tmp_path / "net.onnx"), tolerance=0.2)
    assert not strays(golden, golden.outputs, shifted(golden.outputs, 0.1))
    assert strays(golden, golden.outputs, shifted(golden.outputs, 0.3))


def test_a_live_layer_that_is_not_seen_is_no_excuse_for_the_next(tmp_path: Path) -> None:
    file = a_net(tmp_path / "net.onnx")
    golden = a_golden(file, tolerance=0.5)
    answers = iter([shifted(golden.outputs, 0.1), shifted(golden.outputs, 9)])
    damages = tuple((Damage(name, Path.touch),) for name in ("live", "stronger"))
    found = prove(
        golden,
        again=golden.outputs,
        emulated={},
        sides=(Side("the first layers", damages),),
        run=lambda _: next(answers),
        scratch=tmp_path / "damaged",
    )
    assert found.fault is not None
