"""What the agent's service cannot do though it tried: another program runs in its place.

`probe` is run as systemd runs the agent, so that what confines the agent confines it too: its user,
its view of files, its system calls.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping

from tests.machines import probe
from tests.machines.homes import HOME, SOCKET
from tests.machines.nspawn import Machine, Unjudged, Wrong
from tests.machines.systemd_places import UNIT, run_in_place_of
from tests.machines.systemd_service import SERVICE, main_process

CONTROLLER = "wherry-controller.service"
PROGRAM = "/usr/lib/wherry-agent/probe.py"
CONTROLLER_LIB = "/usr/lib/wherry-controller/current"
CONFINING = "/usr/lib/wherry-controller/confining.py"
LIMIT_MIB, TAKEN_MIB = 64, 256
UNCOUNTED = "[not set]"  # What systemd says without the kernel's memory controller.
FILTERS = "Seccomp_filters"
CONFINED = {"NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0" * 16, "CapBnd": "0" * 16}

_CONFINING = """\
from pathlib import Path
from wherry_controller.builder.confine import confine
home = Path("/var/lib/wherry-controller")
(home / "key").write_text("secret")
(home / "build").mkdir(exist_ok=True)
found = confine(readable=[], writable=[home / "build"])
try:
    (home / "key").read_text()
    print("reads keys" if found else "reads keys: it finds no Landlock")
except PermissionError:
    print("confined")
"""


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
    found = _fields_of(machine.run("cat", f"/proc/{main_process(machine)}/status"))
    for name, wanted in CONFINED.items():
        if found[name] != wanted:
            raise Wrong(f"the agent's {name} is {found[name]}, not {wanted}")
    if found["Uid"].split()[0] == "0":
        raise Wrong("the agent runs as root")
    _check_filters(machine, found)
    return "the agent has no capability, no way to more rights, and a filter of system calls"


def only_members_may_ask(machine: Machine) -> str:
    """Let a user of the group `wherry` connect to the socket, and no other."""
    connecting = f"import socket; socket.socket(socket.AF_UNIX).connect({SOCKET!r})"
    program = ("/usr/bin/python3", "-c", connecting)
    nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup")
    machine.run(*nobody, "--groups=wherry", *program)
    refused = machine.tried(*nobody, "--clear-groups", *program)
    if "PermissionError" not in refused.stderr:
        raise Wrong("who is not of the group wherry connects too")
    return f"members of the group wherry connect to {SOCKET}, others do not"


def the_sandbox_holds(machine: Machine) -> str:
    """Try in the agent's place what it may not do, and what it may."""
    said = json.loads(_probe(machine, ""))
    if broken := [name for name, why in said["held"].items() if not why]:
        raise Wrong(f"the sandbox lets it {', '.join(broken)}")
    if other := [name for name, why in probe.REASONS.items() if said["held"][name] != why]:
        raise Wrong(
            "; ".join(f"{name}: {said['held'][name]}, not by the sandbox" for name in other)
        )
    _check_filters(machine, _fields_of(said["status"]))
    if kept := [f"{name}: {why}" for name, why in said["may"].items() if why]:
        raise Wrong(f"the sandbox keeps it from what it may: {'; '.join(kept)}")
    return f"it cannot {', '.join(said['held'])}; it can {', '.join(said['may'])}"


def memory_is_limited(machine: Machine) -> str:
    """End who takes more memory than MemoryMax=, where the kernel lets systemd limit it."""
    limit = f"MemoryMax={LIMIT_MIB}M\nMemorySwapMax=0"
    try:
        _probe(machine, limit, str(TAKEN_MIB))
    except Wrong:
        result = machine.show(UNIT, "Result")
        if result != "oom-kill":
            raise Wrong(f"who takes too much memory ends with {result}, not oom-kill") from None
        return f"MemoryMax={LIMIT_MIB}M ends who takes {TAKEN_MIB} MiB"
    if machine.show(SERVICE, "MemoryCurrent") != UNCOUNTED:
        raise Wrong(f"MemoryMax={LIMIT_MIB}M let it take {TAKEN_MIB} MiB")
    raise Unjudged(
        "memory limits were NOT seen: this kernel gives a container no memory controller"
    )


def builds_are_confined(machine: Machine) -> str:
    """Let the controller confine what builds a version's code, which no filter may keep it from."""
    program = machine.place(CONFINING)
    program.write_text(_CONFINING)
    more = f"Environment=PYTHONPATH={CONTROLLER_LIB}/app:{CONTROLLER_LIB}/cp311"
    said = run_in_place_of(machine, CONTROLLER, f"/usr/bin/python3 {CONFINING}", more)
    if said != "confined":
        raise Wrong(f"a build confines itself and then {said}")
    return "in the controller's place a build confines itself with Landlock"


def _check_filters(machine: Machine, found: Mapping[str, str]) -> None:
    """Raise `Wrong` unless a process has more filters than the machine gives to all."""
    shared = int(_fields_of(machine.run("cat", "/proc/1/status"))[FILTERS])
    if int(found[FILTERS]) <= shared:
        raise Wrong(f"it has {found[FILTERS]} filters of system calls, its machine {shared}")


def _fields_of(status: str) -> dict[str, str]:
    """Return what a process's `status` says, by name."""
    rows = (row.partition(":") for row in status.splitlines())
    return {name: value.strip() for name, _, value in rows}


def _probe(machine: Machine, more: str, *words: str) -> str:
    """Run the probe in the agent's place; return what it wrote."""
    shutil.copy(str(probe.__file__), machine.place(PROGRAM))
    return run_in_place_of(machine, SERVICE, " ".join(("/usr/bin/python3", PROGRAM, *words)), more)
