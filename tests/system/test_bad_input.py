"""Bad input: one clear sentence with the next step, and a fleet that stays on what it had."""

from __future__ import annotations

import pytest

from tests.controller.cli.conftest import Ran
from tests.controller.cli.test_serving import a_card
from tests.system.fleets import a_fleet_on_v1, is_in_mid_download
from tests.system.sites import Site, is_up, logged, until
from tests.system.tiny import add_version, answers_as
from tests.system.trained import INT8, Trained, register, roll_out
from wherry_controller.cli.outcome import Exit

pytestmark = pytest.mark.system


def ends(ran: Ran, status: Exit, *words: str) -> None:
    """See to it that a command ended with a status and one sentence that holds the words."""
    assert ran.status == status, ran.err
    assert ran.err.count("\n") == 1
    assert ran.err.endswith(".\n")
    for word in words:
        assert word in ran.err


def stays_on_v1(trained: Trained) -> None:
    """See to it that the device serves v1, by its own word and by the controller's."""
    assert is_up(trained.agent, trained.bundle)
    assert trained.site.serving(trained.agent) == trained.bundle
    flips = [line.fields["bundle"] for line in logged(trained.agent, "bundle.flipped")]
    assert flips == [trained.bundle]


@pytest.mark.parametrize("words", [("build", "digits:v1"), ("device", "add", "pi-9")])
def test_an_unknown_profile_is_missing(trained: Trained, words: tuple[str, ...]) -> None:
    ran = trained.site.wherry(*words, "-p", "pi5-onnx-int4")
    ends(ran, Exit.MISSING, "no profile 'pi5-onnx-int4'", INT8, "wherry profile add")
    stays_on_v1(trained)


@pytest.mark.parametrize(
    ("version", "card", "reason"),
    [
        ("uncalibrated", a_card("uncalibrated", calibration=""), "calibration_missing"),
        ("lost", a_card("lost", factory="unimportable.py:f"), "factory_not_importable"),
        ("misfit", a_card("misfit", factory="net.py:make_other_net"), "state_dict_misfit"),
        ("nan", a_card("nan", state_dict="nan.pt"), "output_not_finite"),
    ],
)
def test_a_version_that_cannot_be_built_reaches_no_device(
    trained: Trained, version: str, card: str, reason: str
) -> None:
    site = trained.site
    register(site, trained.files, card)
    ends(site.wherry("build", f"digits:{version}", "-p", INT8), Exit.FAILED, reason)
    ends(roll_out(site, version), Exit.REFUSED, f"digits:{version}", "build")
    stays_on_v1(trained)


def test_a_second_rollout_on_a_group_is_refused(trained: Trained) -> None:
    site = trained.site
    words = ("rollout", "create", "second", "digits:v1", "--stage", "canary")
    assert site.wherry(*words).status == 0
    refused = roll_out(site, "v1", name="third")
    ends(refused, Exit.REFUSED, "pi-1", "second")
    assert site.wherry("rollout", "cancel", "second").status == 0
    stays_on_v1(trained)


def test_a_bundle_whose_answers_are_nan_is_refused_by_the_device(site: Site) -> None:
    (one, two), v1 = a_fleet_on_v1(site)
    nan = add_version(site, "nan", nan_above=-1.0)
    site.start_rollout("nan", ["one", "two"])
    rollout = site.until_over("nan")
    assert (rollout.status, rollout.stopped_by) == ("reverted", "device")
    assert "not_finite" in rollout.why
    (canary,) = rollout.stages[0].devices
    assert (canary.status, canary.reason) == ("failed", "not_finite")
    assert all(answers_as(agent, v1, shift=1.0) for agent in (one, two))
    flips = [line for agent in (one, two) for line in logged(agent, "bundle.flipped")]
    assert nan.digest not in {line.fields["bundle"] for line in flips}


def test_a_device_that_is_offline_halts_its_stage_at_the_deadline(site: Site) -> None:
    (one, two), v1 = a_fleet_on_v1(site)
    v2 = add_version(site, "v2", shift=2.0)
    site.set_group("both", one, two)
    two.kill()
    site.start_rollout("v2", ["both"], stage_deadline_s=6.0)
    until(lambda: site.serving(one) == v2.digest)
    waiting = site.rollout("v2")
    assert waiting.status == "running"
    assert {one.device: one.status for one in waiting.stages[0].devices}["two"] == "queued"

    until(lambda: site.rollout("v2").status == "reverting")
    assert "two" in site.rollout("v2").why
    until(lambda: not site.device(two).online)
    until(lambda: site.serving(one) == v1.digest)
    until(lambda: is_up(one, v1.digest))  # It says where it goes before it has come there.
    assert answers_as(one, v1, shift=1.0)

    two.start()
    assert site.until_over("v2").status == "reverted"
    until(lambda: is_up(two, v1.digest))
    assert answers_as(two, v1, shift=1.0)
    assert v2.digest not in [line.fields["bundle"] for line in logged(two, "bundle.flipped")]


def test_a_broker_that_loses_everything_in_a_rollout_is_filled_again(site: Site) -> None:
    (one, two), v1 = a_fleet_on_v1(site, slow=True)
    v2 = add_version(site, "v2", shift=2.0, size_bytes=2_000_000)
    site.start_rollout("v2", ["one", "two"])
    until(lambda: is_in_mid_download(one, v2))
    site.broker.kill()
    two.kill()
    two.start()
    until(lambda: is_up(two, v1.digest))
    assert all(answers_as(agent, v1, shift=1.0) for agent in (one, two))
    site.broker.start()
    assert site.until_over("v2").status == "succeeded"
    assert all(answers_as(agent, v2, shift=2.0) for agent in (one, two))
    stored = [line.fields["chunk"] for line in logged(one, "chunk.stored")]
    assert len(stored) == len(set(stored)), "a verified chunk was fetched again"
