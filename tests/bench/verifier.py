"""The verifier's bars: what a device must read, and what it costs, at 10,000 bundles.

A device that knows the first root and the timestamp is offered its order with all other metadata.
Of all bundles the one whose message is the longest counts.
"""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from msgspec.structs import replace

from tests.builders import A_TIME, a_wanted, an_order
from tests.trusted import ONLINE, a_repository, desired_of
from wherry.names import (
    Digest,
    parse_alias_name,
    parse_digest,
    parse_model_name,
    parse_profile_name,
    parse_version_name,
)
from wherry.trust.making import Listing
from wherry.trust.repository import Repository, bin_of, changed_bins, sign_bins, with_bins
from wherry.trust.target import Target

BUNDLES = 10_000
DEVICE = "line-7-camera-0123"
MODELS = ("digits", "detector", "defects", "vibration", "keywords", "anomaly")
PROFILES = (
    "pi5-onnx-int8",
    "pi4-onnx-int8",
    "jetson-orin-fp16",
    "x86-onnx-fp32",
    "pi-zero2-tflite-int8",
    "armv7-litert-int8",
)
BARS = {"rss_mb": 4.0, "packet_ms": 10.0, "packet_bytes": 6144.0}


def listings(count: int = BUNDLES, *, seed: int = 4) -> dict[Digest, Listing]:
    """Return that many bundles of versions that have one for each profile, all released."""
    chance = random.Random(seed)
    return {
        parse_digest(hashlib.sha256(str(number).encode()).hexdigest()): Listing(
            chance.randint(6_000, 12_000), _target(number)
        )
        for number in range(count)
    }


def repository_of(listed: dict[Digest, Listing], *, seed: int = 4) -> Repository:
    """Return a repository as it is after each bundle has changed its bin twice."""
    chance = random.Random(seed)
    repository = a_repository()
    bins = {
        role: replace(document, version=chance.randint(60, 120))
        for role, document in changed_bins(repository, listed, A_TIME).items()
    }
    return with_bins(repository, sign_bins(bins, ONLINE), ONLINE, A_TIME)


def _target(number: int) -> Target:
    """Return the bundle of that number: six profiles to a version, the models in turn."""
    version, profile = divmod(number, len(PROFILES))
    release, model = divmod(version, len(MODELS))
    return Target(
        model=parse_model_name(MODELS[model]),
        version=parse_version_name(f"v{release + 1}"),
        profile=parse_profile_name(PROFILES[profile]),
        releases={parse_alias_name(MODELS[model]): release + 1},
    )


def _desired(repository: Repository, digest: Digest, listed: dict[Digest, Listing]) -> bytes:
    """Return the whole message of a device that misses everything but the first root."""
    (alias,) = listed[digest].target.releases
    deployment = f"{alias}-v1700:canary:{DEVICE}"
    wanted = {alias: a_wanted(deployment, bundle=digest)}
    return desired_of(repository, an_order(device=DEVICE, generation=42, aliases=wanted))


def measure() -> dict[str, float]:
    """Return `rss_mb`, `packet_ms` and `packet_bytes`."""
    listed = listings()
    repository = repository_of(listed)
    digest, message = max(
        (
            (digest, _desired(repository, digest, listed))
            for digest in {bin_of(digest): digest for digest in listed}.values()
        ),
        key=lambda found: len(found[1]),
    )
    with TemporaryDirectory() as folder:
        for name, data in {
            "root": repository.roots[0].data,
            "timestamp": repository.timestamp.data,
            "desired": message,
            "device": DEVICE.encode(),
            "profile": listed[digest].target.profile.encode(),
            "clock": str(A_TIME).encode(),
        }.items():
            (Path(folder) / name).write_bytes(data)
        command = [sys.executable, "-m", "tests.bench.verifying", folder]
        answer = subprocess.run(command, check=True, capture_output=True, timeout=120)
    figures: dict[str, float] = json.loads(answer.stdout)
    return {**figures, "packet_bytes": len(message)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(), indent=2) + "\n")
