"""When a device's power is cut: in which part of its work, and at which instant of that."""

from __future__ import annotations

import random
import time
from enum import Enum

from tests.machines import vm_package
from tests.machines.power_disk import Disk
from tests.machines.power_script import KIB


class Part(Enum):
    """A part of its work: what begins it, how long it lasts, how many requests of the disk."""

    FETCH = ("chunk.stored", 1, 1.2, 300)
    INSTALL = ("chunk.stored", KIB - 2, 2.0, 60)
    SWITCH = ("bundle.flipped", 1, 0.6, 12)
    CONFIRM = ("bundle.flipped", 1, 2.5, 40)
    COLLECT = ("receipt.signed", 1, 2.0, 40)
    RENEWAL = ("certificate.renews", 1, 12.0, 60)
    UNPACK = (vm_package.BEGUN, 1, 12.0, 1100)
    CONFIGURE = (vm_package.UNPACKED, 1, 6.0, 200)


# In these the agent is a package, which is upgraded.
PACKAGED = (Part.UNPACK, Part.CONFIGURE)


class Way(Enum):
    """How the instant of a cut is drawn: by the clock, or by what the disk was asked."""

    INSTANT = "instant"
    REQUEST = "request"
    FLUSH = "flush"


def parts_of(names: str, plant: str | None) -> list[Part]:
    """Return the parts that were asked for, by default those in which the planted bug can show."""
    if names:
        return [part for name in names.split(",") for part in _called(name)]
    match plant:
        case None:
            return list(Part)
        case _:  # The package's agent is planted nothing.
            return [part for part in Part if part not in PACKAGED]


def wait_for_the_instant(part: Part, chance: random.Random, disk: Disk) -> None:
    """Wait in that part until the power is to go, or the disk has taken its last request."""
    _, _, window_s, requests = part.value
    match chance.choice(list(Way)):
        case Way.INSTANT:
            time.sleep(chance.random() * window_s)
        case Way.REQUEST:
            disk.fail_after(chance.randrange(requests))
        case Way.FLUSH:
            disk.fail_at_flush(chance.randrange(requests // 4))
    if disk.remaining is not None:
        disk.dead.wait(2 * window_s)


def _called(name: str) -> tuple[Part, ...]:
    return PACKAGED if name == "package" else (Part[name.upper()],)
