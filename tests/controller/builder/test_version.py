"""What a version's stage keeps: outputs of any name, states that begin at zero or as rows say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from onnx import helper

from tests.controller.builder.judging.cards import a_card
from tests.controller.builder.running.nets import save
from tests.controller.builder.workshops import SIGNATURE, WEIGHTS, a_task, here
from wherry.signature import BATCH, Datatype, Signature, StatePair, Tensor
from wherry_controller.builder.version import initial_states, load_version, open_version
from wherry_controller.core.card import Task
from wherry_controller.core.fault import BuildReason, BuildRefused


def with_state(*axes: int | str) -> Signature:
    state = Tensor("state", Datatype.FP32, (BATCH, *axes))
    sound = Tensor("sound", Datatype.FP32, (BATCH, 2))
    following = Tensor("next", Datatype.FP32, (BATCH, *axes))
    return Signature((sound, state), (following,), states=(StatePair("next", "state"),))


SOUND = np.ones((5, 3, 2), np.float32)


def test_a_state_begins_at_zero_or_as_its_rows_say() -> None:
    zeros = initial_states(with_state(2, 4), {"sound": SOUND})["state"]
    assert (zeros.shape, zeros.dtype) == ((5, 2, 4), np.dtype(np.float32))
    assert not zeros.any()
    given = np.full((5, 2, 7), 3, np.float32)
    begun = initial_states(with_state(2, "past"), {"sound": SOUND, "state": given})
    assert begun["state"] is given


def test_a_state_of_no_known_length_needs_rows() -> None:
    with pytest.raises(BuildRefused, match="how long 'past' of the state 'state' is") as refusal:
        initial_states(with_state("past"), {"sound": SOUND})
    assert refusal.value.fault.reason is BuildReason.MALFORMED_DATA


def test_outputs_are_kept_whatever_they_are_called(tmp_path: Path) -> None:
    name = "../layer/Softmax:0"
    given: list[int | str] = [BATCH, 4]
    node = helper.make_node("MatMul", ["image", "w"], [name], name="product")
    save(tmp_path / "net.onnx", [node], {"image": given}, {name: given}, {"w": WEIGHTS})
    images = np.random.default_rng(2).random((100, 4), np.float32)
    np.savez(tmp_path / "evaluation.npz", image=images, labels=np.argmax(images @ WEIGHTS, 1))
    signature = replace(SIGNATURE, outputs=(Tensor(name, Datatype.FP32, (BATCH, 4)),))
    card = a_card(Task(output=name), signature)
    request = replace(a_task(tmp_path, here()).request, card=card)
    load_version(request, tmp_path / "loaded", lambda _: None)
    loaded = open_version(tmp_path / "loaded", card)
    final = np.asarray(loaded.data.final.inputs["image"], np.float32)
    assert np.allclose(loaded.reference("final")[name].astype(np.float32), final @ WEIGHTS)
