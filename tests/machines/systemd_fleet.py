"""A controller, its broker and an agent as services of one machine, who all show certificates.

Everything is done as an operator does it: root founds, enrols and starts, and the services' users
own what comes of it.
"""

from __future__ import annotations

import json

from tests.brokers import Mosquitto
from tests.machines.homes import HOME, SOCKET
from tests.machines.nspawn import Machine, Wrong, until
from tests.machines.systemd_service import SERVICE, SOCKET_UNIT
from tests.system.sites import Controller, Site
from tests.system.tiny import add_version
from wherry.bundle import Bundle
from wherry_controller.core.rights import CONTROLLER as NAME

CONTROLLER, BROKER = "wherry-controller.service", "wherry-broker.service"
FOLDER, USER = "/var/lib/wherry-controller", "wherry-controller"
BROKER_URL = "mqtts://localhost:8883"
API, DOOR = "http://127.0.0.1:8321", "https://localhost:8322"
DEVICE = "one"
SETTINGS = '\n[door]\nnames = ["localhost"]\n'
GATE = "min_labels = 0\nsoak_s = 0\ndeadline_s = 60\n\n[latency]\nwindow_requests = 0\n"


def controller_and_agent_show_certificates(machine: Machine) -> str:
    """Found, enrol and roll out, each part in its own unit."""
    token = _found(machine)
    bundle = _add_version(machine)
    _start_controller(machine)
    _enrol(machine, token)
    _roll_out(machine, token)
    _has_served(machine, bundle)
    _showed_certificates(machine)
    _is_cut_off_once_revoked(machine, token)
    return f"by TLS and certificates {bundle.digest[:12]} was rolled out, the device then revoked"


def _found(machine: Machine) -> str:
    """Found the controller and its broker; return the operator's token."""
    said = machine.run("wherry", "init", FOLDER, "--broker", BROKER_URL).splitlines()
    settings = machine.place(f"{FOLDER}/wherry.toml")
    settings.write_text(settings.read_text() + SETTINGS)
    options = ("--host", "localhost", "--listen", "127.0.0.1", "--user", USER)
    machine.run("wherry", "broker", "config", "mosquitto", FOLDER, *options)
    return said[1].strip()


def _add_version(machine: Machine) -> Bundle:
    """Give the controller a version, as a build leaves it."""
    folder = machine.root / FOLDER.lstrip("/")
    nobody = Mosquitto(machine.root / "tmp")
    return add_version(Site(folder, nobody, Controller(folder, BROKER_URL)), "v1", shift=1.0)


def _start_controller(machine: Machine) -> None:
    machine.run("chown", "--recursive", f"{USER}:{USER}", FOLDER)
    machine.run("systemctl", "enable", "--now", f"{FOLDER}/broker/{BROKER}")
    machine.run("systemctl", "start", CONTROLLER)


def _enrol(machine: Machine, token: str) -> None:
    """Enrol the machine as a device, as root; then its service runs."""
    machine.run("systemctl", "stop", SERVICE, SOCKET_UNIT)
    machine.run("mv", HOME, f"{HOME}.before")
    given = _wherry(machine, token, "token", "create", DEVICE, "--profile", "test", "--json")
    options = ("--controller", DOOR, "--token", "-", "--socket", SOCKET, "--window-s", "1")
    machine.run("wherry-agent", "enrol", *options, text=json.loads(given)["token"] + "\n")
    machine.run("systemctl", "start", SOCKET_UNIT, SERVICE)
    strangers = machine.run("find", HOME, "!", "-user", "wherry-agent")
    if strangers:
        raise Wrong(f"after the start not the service's own: {strangers.splitlines()[0]}")


def _roll_out(machine: Machine, token: str) -> None:
    machine.place("/tmp/gate.toml").write_text(GATE)
    _wherry(machine, token, "group", "set", "all", DEVICE)
    options = ("--stage", "all", "--gate", "/tmp/gate.toml", "--probation-s", "0.5", "--start")
    _wherry(machine, token, "rollout", "create", "r1", "tiny:v1", *options)
    _wherry(machine, token, "rollout", "watch", "r1")


def _has_served(machine: Machine, bundle: Bundle) -> None:
    until(
        lambda: bundle.digest[:12] in machine.run("systemctl", "status", "--no-pager", SERVICE),
        "the agent does not say that it serves the version",
    )


def _showed_certificates(machine: Machine) -> None:
    """Find in the broker's log whom it knew by their certificates."""
    said = machine.run("journalctl", "--boot", "--unit", BROKER, "--output=cat")
    for name in (NAME, DEVICE, f"CN={DEVICE}"):
        if f"u'{name}'" not in said:
            raise Wrong(f"the broker never knew {name} by its certificate")


def _is_cut_off_once_revoked(machine: Machine, token: str) -> None:
    """Let the confined controller have the broker read whom it no longer knows."""
    _wherry(machine, token, "device", "revoke", DEVICE)
    options = ("--boot", "--unit", BROKER, "--output=cat", "--grep=certificate verify failed")
    until(
        lambda: bool(machine.tried("journalctl", *options).stdout),
        "the broker still lets in a device whose certificate was revoked",
    )


def _wherry(machine: Machine, token: str, *words: str) -> str:
    login = (f"WHERRY_URL={API}", f"WHERRY_TOKEN={token}")
    return machine.run("env", *login, "wherry", *words)
