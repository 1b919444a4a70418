"""`make badnet`: a rollout to many devices over a link that is slow, lossy, torn and down at times.

    v1   over a good link, so that every device has something to lose
    v2   over the bad one; it is down while v2 is ordered, and again once some device has a chunk

In the first of these pauses the broker loses one chunk of v2 and lets another one rot: no device
may take the rotten one, and each must notice that the other one never comes.

All the while every device is asked, and must answer as v1 or v2 does. At the end all serve v2, the
controller has each device's events without a gap, and no deployment failed or went back.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which

from tests.machines.badnet_cache import spoil
from tests.machines.badnet_fleet import a_far_site, add_devices, start, wait_until
from tests.machines.badnet_link import Carried, Link, Weather, a_link
from tests.machines.badnet_seen import (
    lost_connections,
    problems_of,
    told_of,
    watching,
)
from tests.machines.nspawn import say
from tests.system.sites import Site, logged
from tests.system.tiny import add_version
from wherry.bundle import Bundle
from wherry.manifest import MODEL_FILE
from wherry.messages import EventKind
from wherry_sim.demo.processes import Agent

SCRATCH = Path(__file__).resolve().parents[2] / "build" / "badnet"
GROUP = "far"
# Of a copy for each device: what is lost is sent again, at both ends of the proxy.
MOST_COPIES = 2.5
_PACKAGES = "iproute2 nftables util-linux mosquitto"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is tried."""

    devices: int
    model_bytes: int
    delay_ms: int
    down_s: float
    within_s: float
    weather: Weather = field(default_factory=Weather)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the second rollout went over the bad link."""

    took_s: float
    down_at_s: float | None
    copy_bytes: int
    carried: Carried
    answers: int
    lost_connections: int
    told: Counter[EventKind]
    problems: list[str]


def main(words: Sequence[str] | None = None) -> int:
    plan = _plan(words)
    _need_root_and_tools()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(parents=True)
    try:
        outcome = _outcome(plan)
    except RuntimeError as error:
        say(f"badnet: {error}; the logs are in {SCRATCH}")
        return 1
    for line in lines_of(outcome, plan):
        say(line)
    if outcome.problems:
        say(f"badnet: failed; the logs are in {SCRATCH}")
        return 1
    shutil.rmtree(SCRATCH)
    say("badnet: ok")
    return 0


def _outcome(plan: Plan) -> Outcome:
    with a_link() as link:
        link.enter_controllers()
        with a_far_site(SCRATCH, link, delay_ms=plan.delay_ms) as site:
            return run(site, link, plan)


def run(site: Site, link: Link, plan: Plan) -> Outcome:
    """Roll out v1 in good weather and v2 in bad; return what came of v2."""
    say(f"{plan.devices} devices enrol, one process each, and get v1 over a good link")
    v1 = add_version(site, "v1", shift=1.0)
    agents = add_devices(site, link, plan.devices)
    site.set_group(GROUP, *agents)
    for agent in agents:
        start(agent, link)
    _roll_out(site, "v1", plan)
    if not wait_until(lambda: site.rollout("v1").is_over, 300.0):
        raise RuntimeError("v1 did not come through over the good link: the rest means nothing")
    v2 = add_version(site, "v2", shift=2.0, size_bytes=plan.model_bytes)
    say(f"the weather turns: {_told(plan)}")
    link.worsen(plan.weather)
    return _in_bad_weather(site, link, plan, agents, (v1, v2))


def _in_bad_weather(
    site: Site, link: Link, plan: Plan, agents: list[Agent], bundles: tuple[Bundle, Bundle]
) -> Outcome:
    before, lost_before, began_s = link.carried(), lost_connections(agents), time.monotonic()
    old, new = bundles
    down_at_s: float | None = None
    with watching(agents, {old.digest: 1.0, new.digest: 2.0}) as watch:
        with link.down():
            _roll_out(site, "v2", plan)
            time.sleep(plan.down_s)
            spoil(site, new)
        if wait_until(lambda: _is_under_way(agents, new), plan.within_s):
            down_at_s = time.monotonic() - began_s
            with link.down():
                time.sleep(plan.down_s)
        left_s = plan.within_s - (time.monotonic() - began_s)
        wait_until(lambda: site.rollout("v2").is_over, left_s)
        took_s, sent = time.monotonic() - began_s, link.carried().since(before)
    return Outcome(
        took_s=took_s,
        down_at_s=down_at_s,
        copy_bytes=_size_of(new),
        carried=sent,
        problems=[
            *problems_of(site, agents, new, watch),
            *_waste(sent, len(agents), new),
            *_fair_weather(sent, down_at_s),
        ],
        answers=watch.answers,
        lost_connections=lost_connections(agents) - lost_before,
        told=told_of(site, agents),
    )


def _roll_out(site: Site, version: str, plan: Plan) -> None:
    site.start_rollout(version, [GROUP], stage_deadline_s=plan.within_s)


def _is_under_way(agents: Sequence[Agent], bundle: Bundle) -> bool:
    """Say whether a chunk of a bundle's model has reached any device."""
    chunks = set(bundle.manifest.files[MODEL_FILE].chunks)
    return any(
        line.fields["chunk"] in chunks for agent in agents for line in logged(agent, "chunk.stored")
    )


def _waste(sent: Carried, devices: int, bundle: Bundle) -> Iterator[str]:
    """Yield that the link has carried far more than what was wanted, where it has."""
    copies = sent.to_devices_bytes / (devices * _size_of(bundle))
    if copies > MOST_COPIES:
        yield f"the link carried {copies:.1f} copies for each device, more than {MOST_COPIES:g}"


def _fair_weather(sent: Carried, down_at_s: float | None) -> Iterator[str]:
    """Yield what the weather did not do, so that the run shows nothing of it."""
    if not sent.lost_packets:
        yield "the link has lost no packet"
    if not sent.torn_packets:
        yield "the link has torn no connection"
    if down_at_s is None:
        yield "the link never went down while devices fetched"


def _size_of(bundle: Bundle) -> int:
    return len(bundle.envelope) + sum(map(len, bundle.blobs.values()))


def lines_of(outcome: Outcome, plan: Plan) -> Iterator[str]:
    """Yield the table, and then what was wrong."""
    carried, each = outcome.carried, plan.devices * outcome.copy_bytes
    down = "never" if outcome.down_at_s is None else f"{outcome.down_at_s:.0f} s after its start"
    rows = {
        "devices": f"{plan.devices}",
        "the rollout took": f"{outcome.took_s:.0f} s",
        "the link went down": f"{down}, for {plan.down_s:.0f} s",
        "packets lost, torn": f"{carried.lost_packets}, {carried.torn_packets}",
        "connections that agents lost": f"{outcome.lost_connections}",
        "answers looked at": f"{outcome.answers}",
        "events": ", ".join(f"{number} {kind.value}" for kind, number in outcome.told.items()),
        "one copy": f"{outcome.copy_bytes:,} bytes",
        "a copy for each device": f"{each:,} bytes",
        "to the devices": f"{carried.to_devices_bytes:,} bytes, "
        f"{carried.to_devices_bytes / each:.2f} of a copy for each",
        "to the controller": f"{carried.to_controller_bytes:,} bytes",
    }
    yield from (f"  {name:30} {value}" for name, value in rows.items())
    yield from (f"  WRONG {problem}" for problem in outcome.problems)


def _told(plan: Plan) -> str:
    weather = plan.weather
    return (
        f"{weather.bytes_per_s / 1000:.0f} kB/s, {weather.lost_per_mille / 10:.0f} % loss, "
        f"a reset every {weather.tear_one_in} packets, {plan.delay_ms} ms each way"
    )


def _plan(words: Sequence[str] | None) -> Plan:
    parser = argparse.ArgumentParser(prog="badnet")
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--model-bytes", type=int, default=200_000)
    parser.add_argument("--delay-ms", type=int, default=100)
    parser.add_argument("--down-s", type=float, default=8.0)
    parser.add_argument("--within-s", type=float, default=900.0)
    return Plan(**vars(parser.parse_args(words)))


def _need_root_and_tools() -> None:
    """End with what to do where namespaces cannot be made."""
    if os.geteuid():
        sys.exit("badnet makes network namespaces, so it needs root: sudo make badnet")
    missing = [name for name in ("ip", "tc", "nft", "nsenter", "mosquitto") if not which(name)]
    if missing:
        sys.exit(f"badnet needs {', '.join(missing)}: apt-get install {_PACKAGES}")


if __name__ == "__main__":
    sys.exit(main())
