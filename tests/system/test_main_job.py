"""One bundle, one agent, one right answer."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from tests.system.trained import Trained, agent_program, answers_offline
from wherry_agent.client import decode_answer

pytestmark = pytest.mark.system


def test_an_agent_answers_as_the_model_does_offline(trained: Trained) -> None:
    images = trained.images()
    rows = msgspec.json.encode({"image": images.tolist()}).decode()
    answer = decode_answer(agent_program(trained.agent, "infer", "default", text=rows).encode())
    offline = answers_offline(trained.files, images)
    np.testing.assert_allclose(
        np.reshape(answer.values("scores"), (3, 10)), offline, rtol=1e-4, atol=1e-4
    )
    assert answer.version == trained.bundle


def test_device_and_controller_tell_the_same_story(trained: Trained) -> None:
    told = agent_program(trained.agent, "status", "--json")
    alias = msgspec.json.decode(told)["aliases"]["default"]
    assert alias["slots"]["active"] == trained.bundle
    assert (alias["deployment"]["status"], alias["deployment"]["reason"]) == (
        "succeeded",
        "confirmed",
    )
    shown = trained.site.wherry("device", "show", "pi-1").out
    assert "online" in shown
    assert trained.bundle[:12] in shown
    assert "v1:pi-1" in shown
