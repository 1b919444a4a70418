"""What the verifier costs a supervisor, measured in a process that holds nothing else.

Run as `python -m tests.bench.verifying FOLDER`, with the files that `verifier` writes; the answer
is JSON. First comes what a supervisor has imported anyway: what it speaks with, and the messages
and signatures that it had before there was any trust metadata. The rest is the verifier's.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import httptools
import msgspec
import paho.mqtt.client
import psutil
import zstandard

from wherry import codec, messages, signing

SUPERVISORS = (
    asyncio,
    httptools,
    msgspec,
    paho.mqtt.client,
    psutil,
    zstandard,
    codec,
    messages,
    signing,
)
RUNS = 100


def _verifier(folder: Path) -> Callable[[], None]:
    """Import the verifier, and return what follows the desired state in `folder` once."""
    from wherry.names import parse_device_id, parse_profile_name
    from wherry.trust import device, keeping, packet
    from wherry.trust.target import Target

    clock = float((folder / "clock").read_text())
    name = parse_device_id((folder / "device").read_text())
    profile = parse_profile_name((folder / "profile").read_text())
    message = (folder / "desired").read_bytes()
    trust = device.begin((folder / "root").read_bytes(), epoch=1)
    trust = device.take_timestamp(trust, (folder / "timestamp").read_bytes(), clock)

    def verify_one() -> None:
        desired = codec.decode(messages.Desired, message)
        pieces = packet.unpack(desired.packet)
        offer = keeping.Offer(bytes(desired.order), pieces, name, profile)
        outcome = device.follow(trust, offer, clock)
        assert isinstance(outcome, keeping.Followed)
        assert all(isinstance(verdict, Target) for verdict in outcome.verdicts.values())

    return verify_one


def measure(folder: Path) -> dict[str, float]:
    """Return the memory that importing the verifier and one packet add, and a packet's time.

    The time is the processor's: whatever else runs on the machine is not the verifier's.
    """
    before = psutil.Process().memory_info().rss
    verify_one = _verifier(folder)
    verify_one()
    added = psutil.Process().memory_info().rss - before
    times_ms = []
    for _ in range(RUNS):
        begun = time.process_time()
        verify_one()
        times_ms.append((time.process_time() - begun) * 1000)
    return {"rss_mb": added / (1 << 20), "packet_ms": median(times_ms)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(Path(sys.argv[1]))))
