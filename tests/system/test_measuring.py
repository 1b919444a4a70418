"""Devices judge a build: its candidates are measured beside what they serve."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.agent.bundles import a_bundle
from tests.controller.cli.test_serving import PROFILES, a_card
from tests.system.sites import Site, logged, until
from tests.system.test_swaps import an_application
from tests.system.tiny import answers_as, keep, key_of
from tests.system.trained import INT8, done, register
from wherry.names import parse_profile_name
from wherry.profile import Precision
from wherry_controller.core.written import parse_profile

pytestmark = pytest.mark.system


def test_devices_measure_a_versions_candidates_and_no_request_to_what_they_serve_fails(
    site: Site, files: Path
) -> None:
    profile = replace(
        parse_profile((PROFILES / f"{INT8}.toml").read_bytes()),
        name=parse_profile_name("x86"),
        precisions=(Precision.FP32, Precision.INT8),
    )
    served = a_bundle(version="v1", shift=1.0, profile=profile, key=key_of(site))
    keep(site, served)
    agents = [site.add_agent(name, profile=profile.name) for name in ("one", "two")]
    for agent in agents:
        agent.start()
    site.set_group("lab", *agents)
    site.start_rollout("v1", ["lab"])
    assert site.until_over("v1").status == "succeeded"
    register(site, files, a_card("v1"))
    with an_application(agents[0], {served.digest: 1.0}) as seen:
        done(site, "build", "digits:v1", "-p", profile.name, "--measure-on", "lab")
        measured = until(lambda: logged(agents[0], "trial.answered"))
    assert (seen.failed, seen.wrong) == ([], [])
    assert seen.answers[served.digest] > 100
    assert {line.fields.get("reason") for line in measured} == {None}
    report = json.loads(site.controller.remote.get("/models/digits/versions/v1/report"))
    (part,) = report["profiles"]
    latencies = {one["name"]: one["latency"] for one in part["report"]["candidates"]}
    timed = {name: one for name, one in latencies.items() if one is not None}
    assert "fp32" in timed
    assert len(timed) > 1
    assert {one["measured_on"] for one in timed.values()} == {"2 devices of x86"}
    assert part["report"]["chosen"] in timed
    for agent in agents:
        assert answers_as(agent, served, shift=1.0)
        assert site.serving(agent) == served.digest
