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
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from tests.agent.agents import a_controller
from tests.brokers import a_mosquitto
from tests.machines import vm_image
from tests.machines.power_disk import Disk
from tests.machines.power_script import DEVICE, KIB, Script, a_door, write_home
from tests.machines.power_store import Found, examine
from tests.machines.vm import Died, Machine, a_machine, end_in_order
from wherry.errors import Unavailable

CUTS, PLANTED_CUTS = 60, 10
START_BUDGET_S = 45.0  # Emulated on one core: a device is some ten times as fast.
PATIENCE_S = 300.0
DISK_MIB = 96
LATER_S = 25 * 86_400.0  # By then a certificate of 30 days is renewed.


def say(text: str) -> None:
    """Tell an operator, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Part(Enum):
    """A part of a deployment: what begins it, how long it lasts, how many requests of the disk."""

    FETCH = ("chunk.stored", 1, 1.2, 300)
    INSTALL = ("chunk.stored", KIB - 2, 2.0, 60)
    SWITCH = ("bundle.flipped", 1, 0.6, 12)
    CONFIRM = ("bundle.flipped", 1, 2.5, 40)
    COLLECT = ("receipt.signed", 1, 2.0, 40)
    RENEWAL = ("certificate.renews", 1, 12.0, 60)


class Way(Enum):
    """How the instant of a cut is drawn: by the clock, or by what the disk was asked."""

    INSTANT = "instant"
    REQUEST = "request"
    FLUSH = "flush"


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
    cuts: int = 0
    lost_sectors: int = 0

    def cut(self, number: int, machine: Machine, part: Part) -> None:
        """Order the next bundle and take the power away while it is in that part."""
        had = machine.count(part.value[0])
        wanted = self.script.order_next()
        self.cut_in(number, machine, part, had)
        if self.script.has_succeeded(wanted):
            self.confirmed = wanted

    def cut_in(self, number: int, machine: Machine, part: Part, had: int = 0) -> None:
        """Take the power away in that part, whose event was logged `had` times before."""
        chance = random.Random(f"{self.seed}/{number}")
        event, times, window_s, requests = part.value
        machine.until_logged(event, PATIENCE_S, times=had + times)
        match chance.choice(list(Way)):
            case Way.INSTANT:
                time.sleep(chance.random() * window_s)
            case Way.REQUEST:
                self.disk.fail_after(chance.randrange(requests))
            case Way.FLUSH:
                self.disk.fail_at_flush(chance.randrange(requests // 4))
        if self.disk.remaining is not None:
            self.disk.dead.wait(2 * window_s)
        machine.cut()

    def lose(self, number: int) -> Found:
        """Lose what was not flushed, and look at the disk as the next boot finds it."""
        lost = self.disk.cut(random.Random(f"{self.seed}/{number}/disk"))
        self.cuts += 1
        self.lost_sectors += lost.unflushed - lost.kept
        found = examine(bytes(self.disk.durable), self.folder / "examined")
        say(f"  {lost.unflushed} sectors not flushed, {lost.kept} of them kept")
        for fault in found.faults:
            self.blame(number, fault)
        return found

    def blame(self, number: int, fault: str) -> None:
        self.faults.append(f"cut {number}: {fault}")
        say(f"  BAD: {fault}")

    def recover(self, number: int, machine: Machine, found: Found) -> None:
        """See that the right bundle serves soon after the boot, and the deployment ends."""
        wanted, served = len(self.script.bundles), self.script.number_of(found.confirmed)
        if served is None or served < max(self.confirmed, wanted - 1):
            self.blame(number, f"bundle {self.confirmed} was confirmed, on disk is {served}")
        took_s, logits = machine.until_answered(PATIENCE_S)
        answered = round(logits[0])
        self.slowest_s = max(self.slowest_s, took_s)
        if took_s > START_BUDGET_S:
            self.blame(number, f"the start took {took_s:.0f} s")
        flipped = any("bundle.flipped" in line for line in machine.lines())
        if answered != served and not (flipped and answered == wanted):
            self.blame(number, f"bundle {answered} serves, confirmed is {served}")
        machine.until(lambda: self.script.has_succeeded(wanted), "success", PATIENCE_S)
        self.confirmed = wanted
        self.script.acknowledge()
        for fault in self.script.faults_of_events():
            self.blame(number, fault)
        say(f"  bundle {served} served after {took_s:.1f} s, then {wanted} was confirmed")


@contextmanager
def _a_trial(folder: Path, seed: int, plant: str | None) -> Iterator[Trial]:
    """Give a device with an empty store, its broker and its controller."""
    with (
        a_mosquitto(folder) as broker,
        a_controller(broker.port) as controller,
        a_door(folder / "door") as door,
    ):
        home = write_home(folder / "home", broker.port, door)
        vm_image.make_ext4(folder / "disk.img", home, mib=DISK_MIB)
        disk = Disk(bytearray((folder / "disk.img").read_bytes()))
        words = (f"plant={plant}",) if plant else ()
        yield Trial(folder, Script(controller), disk, seed, words)


def run(trial: Trial, cuts: int) -> None:
    """Cut so many times, in each part of a deployment by turns; with a plant, until it is found."""
    found: Found | None = None
    for number in range(1, cuts + 1):
        part = list(Part)[(number - 1) % len(Part)]
        with _boot(trial) as machine:
            _come_up(trial, number - 1, machine, found)
            if trial.faults and trial.words:
                return
            say(f"cut {number}, in {part.name.lower()}")
            if part is not Part.RENEWAL:
                trial.cut(number, machine, part)
        if part is Part.RENEWAL:
            trial.disk.cut(random.Random(f"{trial.seed}/{number}/idle"))
            with _boot(trial, later_s=LATER_S) as machine:
                trial.cut_in(number, machine, part)
        found = trial.lose(number)
        if trial.faults and trial.words:
            return
    with _boot(trial) as machine:
        _come_up(trial, cuts, machine, found)


def _boot(trial: Trial, *, later_s: float = 0.0) -> AbstractContextManager[Machine]:
    return a_machine(trial.folder, trial.disk, *trial.words, later_s=later_s)


def _come_up(trial: Trial, number: int, machine: Machine, found: Found | None) -> None:
    """Recover from the last cut; a device that is new takes its first bundle."""
    if found is not None:
        trial.recover(number, machine, found)
        return
    first = trial.script.order_next()
    took_s = machine.until(lambda: trial.script.has_succeeded(first), "first bundle", PATIENCE_S)
    trial.confirmed = first
    say(f"{DEVICE} has confirmed its first bundle after {took_s:.1f} s")


def main() -> int:
    options = _options()
    end_in_order()
    say("making what the machine boots")
    try:
        vm_image.make()
    except Unavailable as error:
        say(str(error))
        return 1
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
            say(f"  BAD: {error}")
            say((Path(folder) / "console.log").read_text()[-3000:])
        return _judge(trial, options, time.monotonic() - began_s)


def _judge(trial: Trial, options: argparse.Namespace, took_s: float) -> int:
    """Say what was seen; return 0 where it is what was to be seen."""
    say(
        f"{trial.cuts} cuts, seed {options.seed}, {took_s:.0f} s: {len(trial.faults)} faults, "
        f"{trial.lost_sectors} sectors lost, "
        f"{trial.script.count_events()} events, "
        f"slowest start {trial.slowest_s:.1f} s (emulated)"
    )
    if options.plant:
        say(
            "the planted bug was " + (f"found at cut {trial.cuts}" if trial.faults else "NOT found")
        )
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
