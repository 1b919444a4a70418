"""The operator of the demo: everything that is asked of the controller, over its HTTP API."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from wherry.errors import Unavailable
from wherry.manifest import Report
from wherry.profile import Precision
from wherry_controller.cli.remote import Remote
from wherry_controller.core.choice import Latency
from wherry_controller.core.rollout import RolloutStatus
from wherry_controller.store.records import BuildStatus
from wherry_sim.demo.plan import (
    GATE,
    MODEL,
    PROBATION_S,
    PROFILES,
    SHADOW,
    SHADOWED_VERSION,
)

T = TypeVar("T")

POLL_S = 0.2
PATIENCE_S = 240.0


class TooLong(Unavailable):
    """Something the demo waits for that does not come."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what} took over {PATIENCE_S:.0f} s: look into the logs in the demo's folder."


class Variant(msgspec.Struct, frozen=True):
    version: str
    profile: str
    runtime: str
    precision: Precision
    bundle: str
    size_bytes: int
    report: Report
    latency: Latency


class Progress(msgspec.Struct, frozen=True):
    step: str
    done: int
    total: int


class Build(msgspec.Struct, frozen=True):
    id: str
    version: str
    status: BuildStatus
    reason: str
    detail: str
    progress: Progress
    variants: list[Variant]


class Journey(msgspec.Struct, frozen=True):
    device: str
    bundle: str
    status: str | None
    reason: str | None
    detail: str
    receipt: dict[str, object] | None = None


class Stage(msgspec.Struct, frozen=True):
    name: str
    status: str
    began_at: float | None
    ended_at: float | None
    verdict: dict[str, object] | None
    devices: list[Journey]


class Rollout(msgspec.Struct, frozen=True):
    name: str
    version: str
    status: RolloutStatus
    stopped_by: str | None
    why: str
    stages: list[Stage]
    ways_back: list[Journey]


class Shadowed(msgspec.Struct, frozen=True):
    """What came of a candidate's copies of requests; the agreement is a share of `rows`."""

    rows: int
    agreement: float | None


class _Compared(msgspec.Struct, frozen=True):
    shadowing: Shadowed | None


class Side(msgspec.Struct, frozen=True):
    device: str
    sides: _Compared


class _Sides(msgspec.Struct, frozen=True):
    devices: list[Side]


class Broker(msgspec.Struct, frozen=True):
    url: str
    sent_bytes: int


class Operator:
    """Speaks to one controller; each wait ends with `TooLong` rather than never."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def put_profiles(self, folder: Path) -> None:
        for name in PROFILES:
            self._remote.put_toml(f"/profiles/{name}", (folder / f"{name}.toml").read_bytes())

    def register(self, folder: Path) -> None:
        files = [path for path in sorted(folder.iterdir()) if path.name != "model.toml"]
        self._remote.upload("/versions", folder / "model.toml", files, opened=_opened)

    def build(self, version: str, watch: Callable[[Progress], None]) -> Build:
        """Build a version for every profile, and return the build when it has ended."""
        wish = {"model": MODEL, "version": version, "profiles": list(PROFILES)}
        ordered = msgspec.json.decode(self._remote.post("/builds", wish), type=Build)

        def ended() -> Build | None:
            build = msgspec.json.decode(self._remote.get(f"/builds/{ordered.id}"), type=Build)
            watch(build.progress)
            return None if build.status.is_open else build

        return wait_for(f"the build of {version}", ended)

    def give_token(self, device: str, profile: str) -> str:
        """Add a device, and return the token that it enrols with once."""
        told = self._remote.post("/tokens", {"device": device, "profile": profile})
        return msgspec.json.decode(told, type=_Given).token

    def is_online(self, device: str) -> bool:
        return msgspec.json.decode(self._remote.get(f"/devices/{device}"), type=_Present).online

    def put_group(self, group: str, devices: Sequence[str]) -> None:
        self._remote.put(f"/groups/{group}", {"devices": list(devices)})

    def start_rollout(self, version: str) -> None:
        wish = {
            "name": f"{MODEL}-{version}",
            "model": MODEL,
            "version": version,
            "stages": [{"name": name, "group": name} for name in ("canary", "field")],
            "gate": GATE,
            "probation_s": PROBATION_S,
            "deadline_s": 60.0,
        }
        if version == SHADOWED_VERSION:
            wish["shadow"] = SHADOW
        self._remote.post("/rollouts", wish)
        self._remote.post(f"/rollouts/{MODEL}-{version}/start")

    def rollout(self, version: str) -> Rollout:
        data = self._remote.get(f"/rollouts/{MODEL}-{version}")
        return msgspec.json.decode(data, type=Rollout)

    def sides(self, version: str) -> list[Side]:
        """Return what each device's candidate and incumbent showed beside one another."""
        told = self._remote.get(f"/rollouts/{MODEL}-{version}/sides")
        return msgspec.json.decode(told, type=_Sides).devices

    def manifest(self, bundle: str) -> bytes:
        return self._remote.get(f"/bundles/{bundle}/manifest")

    def broker(self) -> Broker:
        return msgspec.json.decode(self._remote.get("/broker"), type=Broker)

    def received_bytes(self, device: str) -> int:
        """Return what the device last said it received, since its store was made."""
        told = self._remote.get(f"/devices/{device}/telemetry")
        return msgspec.json.decode(told, type=_Received).received_bytes or 0


def _opened(file: Path) -> IO[bytes]:
    return file.open("rb")


class _Given(msgspec.Struct, frozen=True):
    token: str


class _Present(msgspec.Struct, frozen=True):
    online: bool


class _Received(msgspec.Struct, frozen=True):
    received_bytes: int | None


def wait_for(what: str, look: Callable[[], T | None]) -> T:
    """Return what `look` finds, once it finds something."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        found = look()
        if found is not None:
            return found
        time.sleep(POLL_S)
    raise TooLong(what)
