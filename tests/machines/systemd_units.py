"""What systemd says of our units before they run: whether they are sound, and what they expose."""

from __future__ import annotations

from tests.machines.nspawn import Machine, Wrong

UNITS = (
    *("wherry-agent.service", "wherry-agent.socket", "wherry-agent-repair.service"),
    "wherry-controller.service",
)
SERVICES = ("wherry-agent.service", "wherry-controller.service")
FOLDER = "/lib/systemd/system"
THRESHOLD = 20  # Tenths: an exposure of 2.0.


def units_are_sound(machine: Machine) -> str:
    """Have systemd find nothing to say about a unit."""
    places = [f"{FOLDER}/{unit}" for unit in UNITS]
    done = machine.tried("systemd-analyze", "verify", "--recursive-errors=yes", *places)
    said = [line for line in done.stderr.splitlines() if "wherry" in line]
    if done.returncode or said:
        raise Wrong("; ".join(said) or done.stderr)
    return f"units are sound: {', '.join(UNITS)}"


def exposure_is_low(machine: Machine) -> str:
    """Have `systemd-analyze security` give each service less than the threshold."""
    found = {service: _exposure_of(machine, service) for service in SERVICES}
    return "exposure: " + ", ".join(f"{service} {value}" for service, value in found.items())


def _exposure_of(machine: Machine, service: str) -> str:
    options = ("--no-pager", "--offline=yes", f"--threshold={THRESHOLD}")
    done = machine.tried("systemd-analyze", "security", *options, f"{FOLDER}/{service}")
    said = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()
    if done.returncode:
        raise Wrong(f"{service}: {said}")
    return said.rpartition(": ")[2].split()[0]
