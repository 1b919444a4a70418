"""A controller, its broker and an agent as services of one machine, who all show certificates.

Everything is done as docs/install.md says, by its own commands, of which none is left out. The
services' users own what comes of it.
"""

from __future__ import annotations

import json

from tests.brokers import Mosquitto
from tests.machines import pages
from tests.machines.homes import HOME
from tests.machines.installed import AGENT, NEXT_PLACE, PLACE, status_of
from tests.machines.nspawn import Machine, Wrong, until
from tests.machines.systemd_install import nothing_is_left
from tests.machines.systemd_service import SERVICE, main_process
from tests.system.sites import Controller, Site
from tests.system.tiny import IMAGE, add_version
from wherry.bundle import Bundle
from wherry_controller.core.rights import CONTROLLER as NAME

CONTROLLER, BROKER = "wherry-controller.service", "wherry-broker.service"
FOLDER, USER = "/var/lib/wherry-controller", "wherry-controller"
BROKER_URL = "mqtts://localhost:8883"
API = "http://127.0.0.1:8321"
DEVICE, CLERK = "one", "clerk"
NAMES = {
    "HOST": "localhost",
    "DEVICE": DEVICE,
    "PROFILE": "test",
    "USER": CLERK,
    "ALIAS": "default",
}
GATE = "min_labels = 0\nsoak_s = 0\ndeadline_s = 60\n\n[latency]\nwindow_requests = 0\n"
CLOSED = ("Permission denied", "No such file")
# What one check leaves for the next ones.
TOKEN, BUNDLE = "/root/token", "/root/bundle"


def controller_serves_as_its_own_user(machine: Machine) -> str:
    """Install, found and start a controller and its broker; its home is closed to others."""
    machine.run("adduser", "--quiet", "--disabled-password", "--gecos", "", CLERK)
    pages.run(machine, "wherry-controller_*", NAMES, folder=PLACE)
    if machine.show(CONTROLLER, "ActiveState") != "inactive":
        raise Wrong("a controller that was never founded does not stay inactive")
    said = pages.run(machine, "wherry init", NAMES, folder=PLACE)
    machine.place(TOKEN).write_text(said.splitlines()[1].strip() + "\n")
    machine.place(BUNDLE).write_text(_add_version(machine).digest)
    pages.run(machine, "systemctl enable --now", NAMES, folder=PLACE)
    health = _health(machine)
    mode = machine.run("stat", "--format=%A %U", FOLDER)
    nosy = machine.tried("runuser", "-u", CLERK, "--", "ls", FOLDER)
    if mode != f"drwx------ {USER}" or "Permission denied" not in nosy.stderr:
        raise Wrong(f"{FOLDER} is {mode}, and another user sees {nosy.stdout or nosy.stderr}")
    strangers = machine.run("find", FOLDER, "!", "-user", USER)
    if strangers:
        raise Wrong(f"not the service's own: {strangers.splitlines()[0]}")
    return f"the controller serves ({health}); its home is {mode}"


def broker_sees_its_own_folder_alone(machine: Machine) -> str:
    """Look with the broker's eyes: of the controller's folder there is `broker`, and no key."""
    broker = machine.show(BROKER, "MainPID")
    there = machine.run("nsenter", "--target", broker, "--mount", "ls", "--almost-all", FOLDER)
    if there.split() != ["broker"]:
        raise Wrong(f"the broker sees {', '.join(there.split())} of {FOLDER}")
    around = f"/proc/{machine.show(CONTROLLER, 'MainPID')}/root{FOLDER}/wherry.toml"
    # By root: nobody else is let in. What the user of the broker is refused is then `cat`.
    entering = ("nsenter", "--target", broker, "--mount", "--user", "--preserve-credentials")
    user = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--keep-groups", "--bounding-set=-all")
    looking = f"ls --almost-all {FOLDER} && exec cat {around}"
    said = machine.tried(*entering, *user, "sh", "-c", looking)
    if said.stdout.split() != ["broker"]:
        raise Wrong(f"the broker's user sees {said.stdout or said.stderr} of {FOLDER}")
    if not said.stderr.startswith("cat: ") or not any(why in said.stderr for why in CLOSED):
        raise Wrong(f"the controller's files are not closed to the broker: {said.stderr}")
    return f"of {FOLDER} the broker sees the folder broker alone"


def agent_enrols_by_one_line(machine: Machine) -> str:
    """Install and enrol as root by the page's one line; the service's user then serves."""
    token = machine.place(TOKEN).read_text()
    said = pages.run(machine, "wherry login", NAMES, folder=PLACE, text=token)
    given = said.rpartition("--token ")[2].split()[0]
    pages.run(machine, "wherry-agent enrol", NAMES, folder=PLACE, text=f"{given}\n")
    strangers = machine.run("find", HOME, "!", "-user", AGENT)
    if strangers:
        raise Wrong(f"after enrolment not the service's own: {strangers.splitlines()[0]}")
    owner = machine.run("stat", "--format=%U", f"/proc/{main_process(machine)}")
    return f"root enrolled in one line of {pages.PAGE.name}; the agent runs as {owner}"


def controller_and_agent_show_certificates(machine: Machine) -> str:
    """Roll out what the controller has; a member of the group asks for it."""
    digest = machine.place(BUNDLE).read_text()[:12]
    _roll_out(machine)
    until(
        lambda: digest in machine.run("systemctl", "status", "--no-pager", SERVICE),
        "the agent does not say that it serves the version",
    )
    for name in (NAME, DEVICE, f"CN={DEVICE}"):
        if f"u'{name}'" not in _log_of_broker(machine):
            raise Wrong(f"the broker never knew {name} by its certificate")
    machine.place(f"{PLACE}/rows.json").write_text(json.dumps({"image": IMAGE.tolist()}))
    said = pages.run(machine, "usermod", NAMES, folder=PLACE)
    return f"by TLS and certificates {digest} was rolled out; a member asked: {said[:40]}…"


def page_upgrades(machine: Machine) -> str:
    """Upgrade by the page's commands."""
    pages.run(
        machine, "./wherry-agent_*_$(dpkg --print-architecture).deb\n", NAMES, folder=NEXT_PLACE
    )
    pages.run(machine, "journalctl", NAMES, folder=PLACE)
    return f"upgraded as the page says: {status_of(machine, AGENT)}"


def device_is_cut_off_once_revoked(machine: Machine) -> str:
    """Let the confined controller have the broker read whom it no longer knows."""
    before = _refusals(machine)
    machine.run("wherry", "device", "revoke", DEVICE)
    until(
        lambda: _refusals(machine) > before,
        "the broker still lets in a device whose certificate was revoked",
    )
    return "a device that was revoked is let in no more"


def page_removes_all(machine: Machine) -> str:
    """Purge by the page's commands, its last ones: nothing of ours stays."""
    pages.run(machine, "purge -y '^wherry-agent'", NAMES, folder=PLACE)
    pages.run(machine, "purge -y wherry-controller", NAMES, folder=PLACE)
    pages.check_all_were_run(machine)
    return f"each command of {pages.PAGE.name} was run; {nothing_is_left(machine)}"


def _add_version(machine: Machine) -> Bundle:
    """Give the controller a version, as a build leaves it."""
    folder = machine.root / FOLDER.lstrip("/")
    nobody = Mosquitto(machine.root / "tmp")
    bundle = add_version(Site(folder, nobody, Controller(folder, BROKER_URL)), "v1", shift=1.0)
    machine.run("chown", "--recursive", f"{USER}:{USER}", FOLDER)
    return bundle


def _health(machine: Machine) -> str:
    """Ask the controller, in the machine's own network, until it says how it is."""
    asking = f"import urllib.request as u; print(u.urlopen('{API}/api/v1/health').read().decode())"
    until(
        lambda: not machine.tried("python3", "-c", asking).returncode,
        "the controller does not answer",
    )
    health = json.loads(machine.run("python3", "-c", asking))
    return ", ".join(f"{name} {value}" for name, value in health.items())[:80]


def _roll_out(machine: Machine) -> None:
    machine.place("/tmp/gate.toml").write_text(GATE)
    machine.run("wherry", "group", "set", "all", DEVICE)
    options = ("--stage", "all", "--gate", "/tmp/gate.toml", "--probation-s", "0.5", "--start")
    machine.run("wherry", "rollout", "create", "r1", "tiny:v1", *options)
    machine.run("wherry", "rollout", "watch", "r1")


def _refusals(machine: Machine) -> int:
    """Return how often the broker has let nobody in by a certificate since the boot."""
    return _log_of_broker(machine).count("certificate verify failed")


def _log_of_broker(machine: Machine) -> str:
    machine.run("journalctl", "--sync")
    return machine.run("journalctl", "--boot", "--unit", BROKER, "--output=cat")
