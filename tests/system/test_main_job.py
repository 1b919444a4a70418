"""One bundle, one agent, one right answer."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from tests.agent.bundles import a_litert_bundle, a_profile
from tests.system.sites import Site
from tests.system.tiny import add_version, answers_as, keep, key_of
from tests.system.trained import Trained, agent_program, answers_offline
from wherry.names import parse_profile_name
from wherry.profile import Runtime
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


def test_devices_of_two_runtimes_answer_one_request_alike(site: Site) -> None:
    onnx = add_version(site, "v1", shift=1.0)
    profile = replace(a_profile(runtime=Runtime.LITERT), name=parse_profile_name("lite"))
    lite = a_litert_bundle(version="v1", shift=1.0, profile=profile, key=key_of(site))
    keep(site, lite)
    agents = [site.add_agent("one"), site.add_agent("two", profile="lite")]
    for agent in agents:
        agent.start()
    site.set_group("both", *agents)
    site.start_rollout("v1", ["both"])
    assert site.until_over("v1").status == "succeeded"
    assert answers_as(agents[0], onnx, shift=1.0)
    assert answers_as(agents[1], lite, shift=1.0)
