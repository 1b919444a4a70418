"""The main job where everybody shows a certificate: enrol, roll out, revoke, come back."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.brokers import free_port
from tests.controller.guarded import Process
from tests.system.sites import Controller, Site, a_site_of, logged, run_program, until
from tests.system.tiny import add_version, answers_as
from wherry_controller.core.rights import CONTROLLER

pytestmark = pytest.mark.system


@contextmanager
def a_guarded_site(folder: Path) -> Iterator[Site]:
    """Run mosquitto on what `wherry broker config` wrote, and a controller that dials it."""
    port, fetch_port = free_port(), free_port()
    controller = Controller(folder / "controller", f"mqtts://127.0.0.1:{port}")
    controller.found()
    settings = controller.folder / "wherry.toml"
    fetch_url = f'fetch_url = "mqtts://127.0.0.1:{fetch_port}"\n\n[gates]'
    settings.write_text(settings.read_text().replace("\n[gates]", fetch_url))
    command = ("broker", "config", "mosquitto", controller.folder, "--user", getpass.getuser())
    said = run_program("wherry", *command, "--fetch-port", str(fetch_port), "--listen", "127.0.0.1")
    assert said.status == 0, said.err
    broker = Process(controller.folder / "broker", (port, fetch_port))
    broker.start()
    try:
        with a_site_of(Site(folder, broker, controller)) as site:
            yield site
    finally:
        broker.kill()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with a_guarded_site(tmp_path) as site:
        yield site


def test_a_version_is_rolled_out_over_connections_that_all_show_certificates(site: Site) -> None:
    v1 = add_version(site, "v1", shift=1.0, size_bytes=600_000)
    agents = [site.add_agent(name) for name in ("one", "two")]
    for agent in agents:
        agent.start()
    site.set_group("both", *agents)
    site.start_rollout("v1", ["both"])
    assert site.until_over("v1").status == "succeeded"
    for agent in agents:
        assert answers_as(agent, v1, shift=1.0)
        assert site.serving(agent) == v1.digest
    said = broker_log(site)
    for bound in (CONTROLLER, "one", "CN=one", "two", "CN=two"):
        assert f" as {bound} (p5, c1, k30, u'{bound}')" in said
    assert "Not authorized" not in said
    assert "Denied" not in said


def test_a_device_that_is_revoked_is_cut_off_and_serves_on_until_it_enrols_again(
    site: Site,
) -> None:
    v1 = add_version(site, "v1", shift=1.0)
    one, two = agents = [site.add_agent(name) for name in ("one", "two")]
    for agent in agents:
        agent.start()
    site.set_group("both", *agents)
    site.start_rollout("v1", ["both"])
    assert site.until_over("v1").status == "succeeded"
    assert site.wherry("device", "revoke", "one").status == 0
    until(lambda: "certificate verify failed" in broker_log(site))
    why = [line.fields["why"] for line in logged(one, "broker.lost")]
    assert "Administrative action" in why[0]
    assert answers_as(one, v1, shift=1.0)
    add_version(site, "v2", shift=2.0)
    site.set_group("rest", two)
    site.start_rollout("v2", ["rest"])
    assert site.until_over("v2").status == "succeeded"
    assert not logged(two, "broker.lost")


def test_a_broker_that_was_set_up_anew_is_filled_again_with_rights_and_orders(site: Site) -> None:
    v1 = add_version(site, "v1", shift=1.0)
    one = site.add_agent("one")
    one.start()
    site.set_group("one", one)
    site.broker.kill()
    for path in (site.controller.folder / "broker/state").iterdir():
        path.unlink()
    said = run_program(
        "wherry",
        "broker",
        "config",
        "mosquitto",
        site.controller.folder,
        "--listen",
        "127.0.0.1",
        "--fetch-port",
        site.controller.settings.fetch_url.rpartition(":")[2],
        "--user",
        getpass.getuser(),
    )
    assert said.status == 0, said.err
    site.broker.start()
    site.start_rollout("v1", ["one"])
    assert site.until_over("v1").status == "succeeded"
    assert answers_as(one, v1, shift=1.0)


def broker_log(site: Site) -> str:
    return (site.controller.folder / "broker/mosquitto.log").read_text()
