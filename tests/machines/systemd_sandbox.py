"""What the agent's service cannot do though it tried: another program runs in its place.

A unit like the agent's, whose program is `probe`, is written beside it, so that what confines the
agent confines the probe: its user, its view of files, its system calls.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.machines import probe
from tests.machines.homes import HOME
from tests.machines.nspawn import Machine, Wrong
from tests.machines.systemd_service import SERVICE, main_process
from tests.machines.systemd_units import FOLDER

PROBE = "wherry-probe.service"
PROGRAM = "/usr/lib/wherry-agent/probe.py"
LIMIT_MIB, TAKEN_MIB = 64, 256
UNCOUNTED = "[not set]"  # What systemd says without the kernel's memory controller.
CONFINED = {"NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0" * 16, "CapBnd": "0" * 16}


def the_home_is_the_service_s(machine: Machine) -> str:
    """Have systemd hand what root enrolled to the service's user."""
    user = machine.run("id", "--user", "wherry-agent")
    strangers = machine.run("find", HOME, "!", "-uid", user)
    if strangers:
        raise Wrong(f"not the service's own: {strangers.splitlines()[0]}")
    mode = machine.run("stat", "--format=%A %U", HOME)
    if mode != "drwx------ wherry-agent":
        raise Wrong(f"{HOME} is {mode}")
    return f"what root enrolled is the service's: {HOME} is {mode}"


def the_agent_is_confined(machine: Machine) -> str:
    """Look at the agent itself: no rights, a filter of system calls, a user of its own."""
    rows = machine.run("cat", f"/proc/{main_process(machine)}/status").splitlines()
    found = {name: value.strip() for name, _, value in (row.partition(":") for row in rows)}
    for name, wanted in CONFINED.items():
        if found[name] != wanted:
            raise Wrong(f"the agent's {name} is {found[name]}, not {wanted}")
    if found["Uid"].split()[0] == "0":
        raise Wrong("the agent runs as root")
    return "the agent has no capability, no way to more rights, and a filter of system calls"


def the_sandbox_holds(machine: Machine) -> str:
    """Try in the agent's place what it may not do, and what it may."""
    said = json.loads(_run_probe(machine, ""))
    if broken := [name for name, why in said["held"].items() if not why]:
        raise Wrong(f"the sandbox lets it {', '.join(broken)}")
    if kept := [f"{name}: {why}" for name, why in said["may"].items() if why]:
        raise Wrong(f"the sandbox keeps it from what it may: {'; '.join(kept)}")
    return f"it cannot {', '.join(said['held'])}; it can {', '.join(said['may'])}"


def memory_is_limited(machine: Machine) -> str:
    """End who takes more memory than MemoryMax=, where the kernel lets systemd limit it."""
    controllers = machine.run(
        "systemctl", "show", "--value", "--property", "MemoryCurrent", "-.slice"
    )
    try:
        _run_probe(machine, f"MemoryMax={LIMIT_MIB}M\nMemorySwapMax=0\n", str(TAKEN_MIB))
    except Wrong:
        result = machine.show(PROBE, "Result")
        if result != "oom-kill":
            raise Wrong(f"who takes too much memory ends with {result}, not oom-kill") from None
        return f"MemoryMax={LIMIT_MIB}M ends who takes {TAKEN_MIB} MiB"
    if machine.show(SERVICE, "MemoryCurrent") != UNCOUNTED:
        raise Wrong(f"MemoryMax={LIMIT_MIB}M let it take {TAKEN_MIB} MiB")
    return "memory limits were NOT seen: this kernel gives a container no memory controller"


def _run_probe(machine: Machine, more: str, *words: str) -> str:
    """Run the probe in the agent's place; return what it wrote."""
    shutil.copy(str(probe.__file__), machine.place(PROGRAM))
    command = " ".join(("/usr/bin/python3", PROGRAM, *words))
    unit = machine.place(f"/run/systemd/system/{PROBE}")
    unit.write_text(_unit_of(machine.place(f"{FOLDER}/{SERVICE}"), command, more))
    machine.run("systemctl", "daemon-reload")
    try:
        machine.run("systemctl", "start", PROBE)
        options = ("--boot", "--unit", PROBE, "--output=cat", "--identifier=python3")
        return machine.run("journalctl", *options).splitlines()[-1:][0] if not words else ""
    finally:
        unit.unlink()


def _unit_of(agent: Path, command: str, more: str) -> str:
    """Return the agent's unit with another program, which ends."""
    replaced = ("Type=", "ExecStart=", "WatchdogSec=", "Restart=", "ConditionPathExists=", "Also=")
    lines = agent.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(replaced)]
    place = kept.index("[Service]") + 1
    return "\n".join([*kept[:place], "Type=oneshot", f"ExecStart={command}", more, *kept[place:]])
