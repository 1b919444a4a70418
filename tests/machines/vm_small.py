"""A device with 512 MB: it swaps LiteRT models that do not fit together, and survives a greedy one.

    python -m tests.machines.vm_small

One machine, most of whose memory others hold, takes a LiteRT bundle, another that is ordered to be
loaded only once the first is unloaded, then one so large that the agent has to choose that by
itself, and a small one, for which it need not. Each has to serve, each swap has to be the right
one, and the kernel must not have ended anybody for want of memory; what was left at the least is
printed. Another machine limits the agent's memory as its unit does, and gets a model that eats it
(`vm_limit`).
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from tests.agent import bundles
from tests.machines import vm_image, vm_limit
from tests.machines.nspawn import say
from tests.machines.vm import MEMORY_MIB, Died, Machine, end_in_order
from tests.machines.vm_device import SmallDevice, a_small_device
from wherry.blobs import describe
from wherry.bundle import Bundle, seal
from wherry.errors import Unavailable
from wherry.messages import SwapPolicy

MODEL_MIB, LARGE_MIB = 24, 64
OTHERS_MIB = 220  # What other programs of the device hold.
# What is ordered by which policy, how large, and by which policy it is to be swapped.
SWAPS = (
    (SwapPolicy.AUTO, MODEL_MIB, SwapPolicy.AVAILABILITY),
    (SwapPolicy.RESOURCE, MODEL_MIB, SwapPolicy.RESOURCE),
    (SwapPolicy.AUTO, LARGE_MIB, SwapPolicy.RESOURCE),
    (SwapPolicy.AUTO, MODEL_MIB, SwapPolicy.AVAILABILITY),
)


def a_large_bundle(version: str, shift: float, mib: int) -> Bundle:
    """Return a LiteRT bundle whose file is as large as a real net's."""
    small = bundles.a_litert_bundle(version=version, shift=shift)
    known = small.manifest.files["model"]
    rest = (mib << 20) - known.size_bytes
    data = small.blobs[known.digest] + random.Random(version).randbytes(rest)
    blob = describe(data, 256 << 10)
    blobs = {digest: part for digest, part in small.blobs.items() if digest != known.digest}
    manifest = replace(small.manifest, files={"model": blob})
    return seal(manifest, {**blobs, blob.digest: data}, bundles.KEY)


def check_swaps(device: SmallDevice) -> Iterator[str]:
    """Deploy one bundle after the other; yield what is wrong."""
    for generation, (ordered, mib, wanted) in enumerate(SWAPS, start=1):
        bundle = a_large_bundle(f"v{generation}", float(generation), mib)
        yield from device.deploy(generation, bundle, ordered)
        seen = [flip.policy for flip in device.flips()[-1:]]
        say(f"{mib} MiB, ordered by {ordered.value}: swapped by {seen[0].value if seen else None}")
        if seen != [wanted]:
            yield f"swap {generation} was to be by {wanted.value}"
    if any("ut of memory" in line or "oom-kill" in line for line in device.machine.lines()):
        yield "the kernel ended a process for want of memory"
    least = _least_mib(device.machine)
    say(f"{MEMORY_MIB} MB, {OTHERS_MIB} of them others': {least} MB were available at the least")


def check_limit(device: SmallDevice) -> Iterator[str]:
    yield from vm_limit.check(device)
    said = [line for line in device.machine.lines() if vm_limit.KILLED in line]
    say(said[0][said[0].index(vm_limit.KILLED) :] if said else "nobody was killed")


def main() -> int:
    end_in_order()
    try:
        vm_image.make()
    except Unavailable as error:
        say(str(error))
        return 1
    faults = [
        *_seen(check_swaps, "litert", "memory", f"others={OTHERS_MIB}"),
        *_seen(check_limit, *vm_limit.the_words()),
    ]
    for fault in faults:
        say(f"BAD: {fault}")
    say(f"a device with {MEMORY_MIB} MB: {len(faults)} faults")
    return 1 if faults else 0


def _seen(check: Callable[[SmallDevice], Iterator[str]], *words: str) -> list[str]:
    """Return what a check finds wrong with a machine of its own."""
    faults: list[str] = []
    with a_small_device(*words) as device:
        try:
            faults.extend(check(device))
        except Died as error:
            faults += [f"{error}; it said last:", *device.machine.lines()[-20:]]
    return faults


def _least_mib(machine: Machine) -> int:
    """Return the least memory that was available while the agent ran."""
    found = (re.search(r"MemAvailable: +(\d+) kB", line) for line in machine.lines())
    return min(int(each[1]) for each in found if each) >> 10


if __name__ == "__main__":
    sys.exit(main())
