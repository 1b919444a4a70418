"""A device with 512 MB runs the agent and a LiteRT model, and swaps it in the `resource` way.

    python -m tests.machines.vm_small

A virtual machine with so much memory takes one bundle, then another that is ordered to be loaded
only once the first is unloaded. Both have to serve, the swap has to be the ordered one, and the
kernel must not have ended anybody for want of memory. What was left at the least is printed.
"""

from __future__ import annotations

import random
import re
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from tests.agent import bundles
from tests.agent.agents import DEFAULT, Controller, a_controller, repository_at
from tests.brokers import a_mosquitto
from tests.builders import a_device_id
from tests.enrolled import an_enrolled_home
from tests.machines import vm_image
from tests.machines.power_disk import Disk
from tests.machines.vm import MEMORY_MIB, Died, Machine, a_machine, end_in_order
from wherry import codec
from wherry.blobs import describe
from wherry.bundle import Bundle, seal
from wherry.errors import Unavailable
from wherry.messages import Event, Flip, Reported, SwapPolicy
from wherry.names import ProfileName
from wherry.reasons import Status
from wherry.topics import EventsTopic, ReportedTopic

DEVICE = a_device_id("small-1")
MODEL_MIB, DISK_MIB, PATIENCE_S = 24, 192, 300.0


def a_large_bundle(version: str, shift: float) -> Bundle:
    """Return a LiteRT bundle whose file is as large as a real net's."""
    small = bundles.a_litert_bundle(version=version, shift=shift)
    known = small.manifest.files["model"]
    rest = (MODEL_MIB << 20) - known.size_bytes
    data = small.blobs[known.digest] + random.Random(version).randbytes(rest)
    blob = describe(data, 256 << 10)
    blobs = {digest: part for digest, part in small.blobs.items() if digest != known.digest}
    manifest = replace(small.manifest, files={"model": blob})
    return seal(manifest, {**blobs, blob.digest: data}, bundles.KEY)


def check(machine: Machine, controller: Controller) -> Iterator[str]:
    """Deploy two bundles, one after the other; yield what is wrong."""
    for generation, policy in ((1, SwapPolicy.AUTO), (2, SwapPolicy.RESOURCE)):
        bundle = a_large_bundle(f"v{generation}", float(generation))
        controller.publish_bundle(bundle)
        controller.order(DEVICE, bundle, generation=generation, policy=policy)
        name = f"d-{generation}"
        machine.until(partial(_is_over, controller, name), f"end of {name}", PATIENCE_S)
        status = _status(controller, name)
        if status is not Status.SUCCEEDED:
            yield f"deployment {name} ended as {status}"
        logits = machine.infer()
        if logits is None or round(logits[0]) != generation:
            yield f"bundle {generation} was to answer, and {logits} came"
    last = _flips(controller)[-1:]
    if not last or last[0].policy is not SwapPolicy.RESOURCE:
        yield f"the swap was {last}, not one that unloads first"
    if any("Out of memory" in line or "oom-kill" in line for line in machine.lines()):
        yield "the kernel ended a process for want of memory"


def _is_over(controller: Controller, deployment: str) -> bool:
    status = _status(controller, deployment)
    return status is not None and status.is_final


def _status(controller: Controller, deployment: str) -> Status | None:
    heard = controller.heard(ReportedTopic(DEVICE))
    known = codec.decode(Reported, heard[-1]).deployments.get(DEFAULT) if heard else None
    return known.status if known and known.deployment == deployment else None


def _flips(controller: Controller) -> list[Flip]:
    heard = controller.heard(EventsTopic(DEVICE))
    events = sorted((codec.decode(Event, body) for body in heard), key=lambda event: event.seq)
    return [event.flip for event in events if event.flip is not None]


def _least_mib(machine: Machine) -> int:
    """Return the least memory that was available while the agent ran."""
    found = (re.search(r"MemAvailable: +(\d+) kB", line) for line in machine.lines())
    return min(int(each[1]) for each in found if each) >> 10


def main() -> int:
    end_in_order()
    try:
        vm_image.make()
    except Unavailable as error:
        sys.stdout.write(f"{error}\n")
        return 1
    with (
        tempfile.TemporaryDirectory() as name,
        a_mosquitto(Path(name)) as broker,
        a_controller(broker.port) as controller,
    ):
        folder, url = Path(name), f"mqtt://10.0.2.2:{broker.port}"
        root = repository_at(broker.port).roots[0].data
        home = an_enrolled_home(folder / "home", url, DEVICE, ProfileName("test"), root)
        vm_image.make_ext4(folder / "disk.img", home, mib=DISK_MIB)
        disk = Disk(bytearray((folder / "disk.img").read_bytes()))
        with a_machine(folder, disk, "litert", "memory") as machine:
            try:
                faults = list(check(machine, controller))
            except Died as error:
                faults = [f"{error}; it said last:", *machine.lines()[-20:]]
            least = _least_mib(machine)
    for fault in faults:
        sys.stdout.write(f"BAD: {fault}\n")
    sys.stdout.write(
        f"{MEMORY_MIB} MB of memory, a LiteRT model of {MODEL_MIB} MB swapped by `resource`: "
        f"{len(faults)} faults, {least} MB were available at the least\n"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
