"""Another program in a service's place: what confines the service confines it as well."""

from __future__ import annotations

from pathlib import Path

from tests.machines.nspawn import Machine
from tests.machines.systemd_units import FOLDER

NAME = "wherry-in-its-place"
UNIT = f"{NAME}.service"
_OWN = (
    *("Type=", "ExecStart=", "WatchdogSec=", "Restart=", "Also=", "WantedBy="),
    *("ConditionPathExists=", "Wants=", "After="),
)


def run_in_place_of(machine: Machine, service: str, command: str, more: str = "") -> str:
    """Run a command to its end as a service would run; return the last line it wrote.

    `more` are lines for the section [Service]. Raise `Wrong` where it fails.
    """
    unit = machine.place(f"/run/systemd/system/{UNIT}")
    unit.write_text(_unit_like(machine.place(f"{FOLDER}/{service}"), command, more))
    machine.run("systemctl", "daemon-reload")
    try:
        machine.run("systemctl", "start", UNIT)
    finally:
        unit.unlink()
    machine.run("journalctl", "--sync")
    said = machine.run("journalctl", "--boot", f"--identifier={NAME}", "--output=cat", "--lines=1")
    return said.strip()


def _unit_like(service: Path, command: str, more: str) -> str:
    """Return a service's unit with another program, which ends."""
    lines = [line for line in service.read_text().splitlines() if not line.startswith(_OWN)]
    place = lines.index("[Service]") + 1
    own = [f"SyslogIdentifier={NAME}", "Type=oneshot", f"ExecStart={command}", more]
    return "\n".join([*lines[:place], *own, *lines[place:], ""])
