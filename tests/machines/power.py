"""Cuts a device's power again and again and looks at what it is afterwards.

    python -m tests.machines.power [--cuts 60] [--seed 1] [--plant files]

One virtual machine follows orders for one bundle after the other. At an instant that the seed
draws in one part of a deployment it is killed, and its disk loses what was not flushed. Then

    the disk      is whole: every blob and chunk is what it is called, what is confirmed is there,
                  the database passes SQLite's own check
    the boot      answers within the budget, with the bundle that the disk says is confirmed; once
                  the controller has heard that the new one was confirmed, with that one
    the rest      the cut deployment ends well, and no event is lost or told differently

With `--plant` a bug is planted in the machine, and the run is good when a cut finds it.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from tests.agent.agents import a_controller
from tests.brokers import a_mosquitto
from tests.machines import vm_image
from tests.machines.power_disk import Disk
from tests.machines.power_script import DEVICE, KIB, Script, write_home
from tests.machines.power_store import Found, examine
from tests.machines.vm import Died, Machine, a_machine
from wherry.errors import Unavailable

CUTS, PLANTED_CUTS = 60, 10
START_BUDGET_S = 60.0  # Emulated: a device is some twenty times as fast.
DEPLOYMENT_S = 120.0
DISK_MIB = 96
BY_REQUEST = 0.75  # Of the cuts come between two requests of the disk, the others at any instant.


class Part(Enum):
    """A part of a deployment: what begins it, how long it lasts, how many requests of the disk."""

    FETCH = ("chunk.stored", 1, 1.2, 300)
    INSTALL = ("chunk.stored", KIB - 2, 2.0, 60)
    SWITCH = ("bundle.flipped", 1, 0.6, 12)
    CONFIRM = ("bundle.flipped", 1, 2.5, 40)
    COLLECT = ("receipt.signed", 1, 2.0, 40)


@dataclass(slots=True)
class Trial:
    """One device whose power is cut, and all that was found wrong with it."""

    folder: Path
    script: Script
    disk: Disk
    seed: int
    words: tuple[str, ...]
    faults: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    confirmed: int = 0

    def cut(self, number: int, machine: Machine, part: Part) -> None:
        """Order the next bundle and take the power away while it is in that part."""
        chance = random.Random(f"{self.seed}/{number}")
        event, times, window_s, requests = part.value
        had = sum(f'"event": "{event}"' in line for line in machine.lines())
        wanted = self.script.order_next()
        machine.until_logged(event, DEPLOYMENT_S, times=had + times)
        instant_s = chance.random() * window_s
        if chance.random() < BY_REQUEST:
            self.disk.fail_after(chance.randrange(requests))
            self.disk.dead.wait(2 * window_s)
        else:
            time.sleep(instant_s)
        machine.cut()
        if self.script.has_succeeded(wanted):
            self.confirmed = wanted

    def lose(self, number: int) -> Found:
        """Lose what was not flushed, and look at the disk as the next boot finds it."""
        lost = self.disk.cut(random.Random(f"{self.seed}/{number}/disk"))
        found = examine(bytes(self.disk.durable), self.folder / "examined")
        self._say(f"  {lost.unflushed} sectors not flushed, {lost.kept} of them kept")
        for fault in found.faults:
            self.blame(number, fault)
        return found

    def blame(self, number: int, fault: str) -> None:
        self.faults.append(f"cut {number}: {fault}")
        self._say(f"  BAD: {fault}")

    def recover(self, number: int, machine: Machine, found: Found) -> None:
        """See that the right bundle serves soon after the boot, and the deployment ends."""
        wanted, served = len(self.script.bundles), self.script.number_of(found.active)
        if served is None or served < max(self.confirmed, wanted - 1):
            self.blame(number, f"bundle {self.confirmed} was confirmed, on disk is {served}")
        answered: list[int] = []
        took_s = machine.until(lambda: _hear(machine, answered), "answer", START_BUDGET_S)
        self.slowest_s = max(self.slowest_s, took_s)
        flipped = any("bundle.flipped" in line for line in machine.lines())
        if answered[0] != served and not (flipped and answered[0] == wanted):
            self.blame(number, f"bundle {answered[0]} serves, confirmed is {served}")
        machine.until(lambda: self.script.has_succeeded(wanted), "success", DEPLOYMENT_S)
        self.confirmed = wanted
        self.script.acknowledge()
        for fault in self.script.faults_of_events():
            self.blame(number, fault)
        self._say(f"  bundle {served} served after {took_s:.1f} s, then {wanted} was confirmed")

    def _say(self, text: str) -> None:
        print(text, flush=True)


def _hear(machine: Machine, answered: list[int]) -> bool:
    """Ask once; note the number of the bundle that answers."""
    if logits := machine.infer():
        answered.append(round(logits[0]))
    return bool(answered)


@contextmanager
def _a_trial(folder: Path, seed: int, plant: str | None) -> Iterator[Trial]:
    """Give a device with an empty store, its broker and its controller."""
    with a_mosquitto(folder) as broker, a_controller(broker.port) as controller:
        home = write_home(folder / "home", broker.port)
        vm_image.make_ext4(folder / "disk.img", home, mib=DISK_MIB)
        disk = Disk(bytearray((folder / "disk.img").read_bytes()))
        words = (f"plant={plant}",) if plant else ()
        yield Trial(folder, Script(controller), disk, seed, words)


def run(trial: Trial, cuts: int) -> None:
    """Cut so many times, in each part of a deployment by turns; stop at a device that is lost."""
    with a_machine(trial.folder, trial.disk, *trial.words) as machine:
        first = trial.script.order_next()
        took_s = machine.until(
            lambda: trial.script.has_succeeded(first), "first bundle", 2 * DEPLOYMENT_S
        )
        trial.confirmed = first
        print(f"{DEVICE} has confirmed its first bundle after {took_s:.1f} s", flush=True)
        _cut(trial, 1, machine)
    found = trial.lose(1)
    for number in range(1, cuts + 1):
        with a_machine(trial.folder, trial.disk, *trial.words) as machine:
            trial.recover(number, machine, found)
            if number == cuts or (trial.faults and trial.words):
                return
            _cut(trial, number + 1, machine)
        found = trial.lose(number + 1)


def _cut(trial: Trial, number: int, machine: Machine) -> None:
    part = list(Part)[(number - 1) % len(Part)]
    print(f"cut {number}, in {part.name.lower()}", flush=True)
    trial.cut(number, machine, part)


def main() -> int:
    options = _options()
    print("making what the machine boots", flush=True)
    vm_image.make()
    cuts = min(options.cuts, PLANTED_CUTS) if options.plant else options.cuts
    began_s = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        _a_trial(Path(folder), options.seed, options.plant) as trial,
    ):
        try:
            run(trial, cuts)
        except (Died, Unavailable) as error:
            trial.faults.append(f"the device is lost: {error}")
            print(f"  BAD: {error}", flush=True)
            print((Path(folder) / "console.log").read_text()[-3000:], file=sys.stderr)
        return _judge(trial, cuts, options, time.monotonic() - began_s)


def _judge(trial: Trial, cuts: int, options: argparse.Namespace, took_s: float) -> int:
    """Say what was seen; return 0 where it is what was to be seen."""
    print(
        f"{cuts} cuts, seed {options.seed}, {took_s:.0f} s: {len(trial.faults)} faults, "
        f"{trial.script.count_events()} events, slowest start {trial.slowest_s:.1f} s (emulated)"
    )
    if options.plant:
        print("the planted bug was " + ("found" if trial.faults else "NOT found"))
        return 0 if trial.faults else 1
    return 1 if trial.faults else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Cut a device's power and look at it afterwards.")
    parser.add_argument("--cuts", type=int, default=CUTS, help="how often")
    parser.add_argument("--seed", type=int, default=1, help="the same seed cuts alike")
    parser.add_argument("--plant", choices=sorted(vm_image.PLANTS), help="a bug to plant")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
