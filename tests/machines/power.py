"""Cuts a device's power again and again and looks at what it is afterwards.

    python -m tests.machines.power [--cuts 60] [--seed 1] [--parts package,fetch] [--plant files]

One virtual machine follows orders for one bundle after the other. At an instant that the seed
draws in one part of a deployment it is killed, and its disk loses what was not flushed. Then

    the disk      is whole: every blob and chunk is what it is called, what is confirmed is there,
                  the database passes SQLite's own check
    the boot      answers within the budget, with the bundle that the disk says is confirmed; once
                  the controller has heard that the new one was confirmed, with that one
    the rest      the cut deployment ends well, and no event is lost or told differently
    the package   is the old version or the new one, and whole, once its repair has ended: a cut in
                  its upgrade happens to a root that loses what was not flushed, too

A run in which no sector was lost shows nothing. With `--plant` a bug is planted in the machine, and
the run is good when a cut finds it: in the files, the package or the events, since a start that is
slow or a machine that died may be this host's doing.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.agent.agents import a_controller
from tests.brokers import a_mosquitto
from tests.machines import vm_image, vm_package
from tests.machines.deb_builds import next_version, version_of_this
from tests.machines.nspawn import say
from tests.machines.power_disk import Disk, Lost, a_disk
from tests.machines.power_package import until_repaired
from tests.machines.power_parts import PACKAGED, Part, parts_of, wait_for_the_instant
from tests.machines.power_script import DEVICE, Script, a_door, write_home
from tests.machines.power_store import Found, examine
from tests.machines.vm import Died, Machine, a_machine, end_in_order
from wherry.errors import Unavailable

CUTS, PLANTED_CUTS = 60, 10
START_BUDGET_S = 45.0  # Emulated on one core: a device is some ten times as fast.
PATIENCE_S, ATTEMPTS = 300.0, 3
DISK_MIB = 96
LATER_S = 25 * 86_400.0  # By then a certificate of 30 days is renewed.


@dataclass(slots=True)
class Trial:
    """One device whose power is cut, and all that was found wrong with it.

    `faults` are of what was examined; `troubles` are what a busy host may bring about as well.
    """

    folder: Path
    script: Script
    disk: Disk
    seed: int
    words: tuple[str, ...]
    parts: Sequence[Part]
    root: Disk | None
    faults: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
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

    def cut_upgrade(self, number: int, machine: Machine, part: Part) -> None:
        """Begin an upgrade of the package and take the power away while it is in that part."""
        machine.begin_upgrade()
        self.cut_in(number, machine, part)

    def cut_in(self, number: int, machine: Machine, part: Part, had: int = 0) -> None:
        """Take the power away in that part, whose event was logged `had` times before."""
        chance = random.Random(f"{self.seed}/{number}")
        event, times, _, _ = part.value
        machine.until_logged(event, PATIENCE_S, times=had + times)
        disk = self.root if part in PACKAGED else self.disk
        assert disk is not None
        wait_for_the_instant(part, chance, disk)
        machine.cut()

    def lose(self, number: int) -> Found:
        """Lose what was not flushed, and look at the disk as the next boot finds it."""
        lost = self.lose_unflushed(f"{number}/disk")
        self.cuts += 1
        found = examine(bytes(self.disk.durable), self.folder / "examined")
        say(f"  {lost.unflushed} sectors not flushed, {lost.kept} of them kept")
        for fault in found.faults:
            self.blame(number, fault)
        return found

    def lose_unflushed(self, draw: str) -> Lost:
        """Lose what was not flushed, of each disk; return what that was of both."""
        chance, unflushed, kept = random.Random(f"{self.seed}/{draw}"), 0, 0
        for disk in (self.disk, self.root):
            if disk is not None:
                lost = disk.cut(chance)
                unflushed, kept = unflushed + lost.unflushed, kept + lost.kept
        self.lost_sectors += unflushed - kept
        return Lost(unflushed, kept)

    def blame(self, number: int, fault: str) -> None:
        self.faults.append(f"cut {number}: {fault}")
        say(f"  BAD: {fault}")

    def trouble(self, trouble: str) -> None:
        self.troubles.append(trouble)
        say(f"  BAD: {trouble}")

    def recover(self, number: int, machine: Machine, found: Found) -> None:
        """See that the right bundle serves soon after the boot, and the deployment ends."""
        wanted, served = len(self.script.bundles), self.script.number_of(found.confirmed)
        if served is None or served < max(self.confirmed, wanted - 1):
            self.blame(number, f"bundle {self.confirmed} was confirmed, on disk is {served}")
        took_s, logits = machine.until_answered(PATIENCE_S)
        answered = round(logits[0])
        self.slowest_s = max(self.slowest_s, took_s)
        if took_s > START_BUDGET_S:
            self.trouble(f"cut {number}: the start took {took_s:.0f} s")
        flipped = any("bundle.flipped" in line for line in machine.lines())
        if answered != served and not (flipped and answered == wanted):
            self.blame(number, f"bundle {answered} serves, confirmed is {served}")
        self.confirmed = self.end(number, machine, wanted)
        self.script.acknowledge()
        for fault in self.script.faults_of_events():
            self.blame(number, fault)
        say(f"  bundle {served} served after {took_s:.1f} s, then {self.confirmed} was confirmed")

    def end(self, number: int, machine: Machine, wanted: int) -> int:
        """See that the deployment ends well; return the number of the bundle that was confirmed.

        Where this host has no time for the machine, a new bundle may be too slow to load: it is
        given up, as it shall be, and another one is ordered.
        """
        for attempt in range(ATTEMPTS):
            machine.until(partial(self.script.is_over, wanted), f"end of {wanted}", PATIENCE_S)
            if attempt == ATTEMPTS - 1 or not self.script.was_too_slow(wanted):
                break
            say(f"  bundle {wanted} was too slow to load for a host that is busy")
            wanted = self.script.order_next()
        if not self.script.has_succeeded(wanted):
            told = self.script.deployment(wanted)
            self.trouble(f"cut {number}: the deployment ended as {told}")
        return wanted

    def see_package(self, number: int, machine: Machine) -> None:
        """See that the package was repaired to a version that is whole."""
        repair = until_repaired(machine, PATIENCE_S)
        for fault in repair.told.faults((version_of_this(), next_version())):
            self.blame(number, fault)
        say(
            f"  found {repair.told.found}; {repair.told.status}, and whole, "
            f"{repair.after_s:.0f} s after the boot began"
        )


@contextmanager
def _a_trial(folder: Path, seed: int, plant: str | None, parts: Sequence[Part]) -> Iterator[Trial]:
    """Give a device with an empty store, its broker and its controller."""
    with (
        a_mosquitto(folder) as broker,
        a_controller(broker.port) as controller,
        a_door(folder / "door") as door,
    ):
        home = write_home(folder / "home", broker.port, door)
        vm_image.make_ext4(folder / "disk.img", home, mib=DISK_MIB)
        disk = a_disk(folder / "disk.img")
        root = a_disk(vm_package.IMAGE) if set(PACKAGED) & set(parts) else None
        words = (f"plant={plant}",) if plant else ()
        yield Trial(folder, Script(controller), disk, seed, words, parts, root)


def run(trial: Trial, cuts: int) -> None:
    """Cut so many times, in each of the parts by turns; with a plant, until it is found."""
    found: Found | None = None
    before = part = trial.parts[0]
    for number in range(1, cuts + 1):
        before, part = part, trial.parts[(number - 1) % len(trial.parts)]
        with _boot(trial, before, part) as machine:
            _come_up(trial, number - 1, machine, found, before)
            if trial.faults and trial.words:
                return
            say(f"cut {number}, in {part.name.lower()}")
            match part:
                case Part.RENEWAL:
                    pass  # Its machine is another, whose clock is ahead.
                case Part.UNPACK | Part.CONFIGURE:
                    trial.cut_upgrade(number, machine, part)
                case _:
                    trial.cut(number, machine, part)
        if part is Part.RENEWAL:
            trial.lose_unflushed(f"{number}/idle")
            with _boot(trial, part, later_s=LATER_S) as machine:
                trial.cut_in(number, machine, part)
        found = trial.lose(number)
        if trial.faults and trial.words:
            return
    with _boot(trial, part) as machine:
        _come_up(trial, cuts, machine, found, part)


def _boot(trial: Trial, *parts: Part, later_s: float = 0.0) -> AbstractContextManager[Machine]:
    """Boot for what is seen or cut of those parts, with the root that the package needs."""
    root = trial.root if set(PACKAGED) & set(parts) else None
    return a_machine(trial.folder, trial.disk, *trial.words, root=root, later_s=later_s)


def _come_up(trial: Trial, number: int, machine: Machine, found: Found | None, part: Part) -> None:
    """Recover from the last cut, in `part`; a device that is new takes its first bundle."""
    if found is not None:
        trial.recover(number, machine, found)
        if part in PACKAGED:
            trial.see_package(number, machine)
        return
    trial.confirmed = trial.end(number, machine, trial.script.order_next())
    took_s = time.monotonic() - machine.began_s
    say(f"{DEVICE} has confirmed its first bundle after {took_s:.1f} s")


def main() -> int:
    options = _options()
    end_in_order()
    say("making what the machine boots")
    try:
        parts = parts_of(options.parts, options.plant)
        vm_image.make()
        if set(PACKAGED) & set(parts):
            vm_package.make(vm_image.FOLDER / "debs")
    except Unavailable as error:
        say(str(error))
        return 1
    cuts = min(options.cuts, PLANTED_CUTS) if options.plant else options.cuts
    began_s = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        _a_trial(Path(folder), options.seed, options.plant, parts) as trial,
    ):
        try:
            run(trial, cuts)
        except (Died, Unavailable) as error:
            trial.trouble(f"the device is lost: {error}")
            say((Path(folder) / "console.log").read_text()[-3000:])
        return _judge(trial, options, time.monotonic() - began_s)


def _judge(trial: Trial, options: argparse.Namespace, took_s: float) -> int:
    """Say what was seen; return 0 where it is what was to be seen."""
    if not trial.lost_sectors and not options.plant:
        trial.trouble("no sector was lost: every cut came when all was flushed")
    bad = [*trial.faults, *trial.troubles]
    say(
        f"{trial.cuts} cuts, seed {options.seed}, {took_s:.0f} s: {len(bad)} faults, "
        f"{trial.lost_sectors} sectors lost, "
        f"{trial.script.count_events()} events, "
        f"slowest start {trial.slowest_s:.1f} s (emulated)"
    )
    if options.plant:
        say(
            "the planted bug was " + (f"found at cut {trial.cuts}" if trial.faults else "NOT found")
        )
        return 0 if trial.faults else 1
    return 1 if bad else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Cut a device's power and look at it afterwards.")
    parser.add_argument("--cuts", type=int, default=CUTS, help="how often")
    parser.add_argument("--seed", type=int, default=1, help="the same seed cuts alike")
    parser.add_argument("--parts", default="", help="in which parts of its work, by turns: all")
    parser.add_argument("--plant", choices=vm_image.CAUGHT_BY_CUTS, help="a bug to plant")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
