"""Two network namespaces with one bad link between them: slow, lossy, torn, and at times down.

    controller's end  10.99.0.1 ==== veth, a token bucket at each end ==== 10.99.0.2  devices' end

What arrives at either end passes its weather: a share of the packets is lost, a smaller share is
answered with a TCP reset. Segments are as long as on a wire, since one loss would otherwise take
64 KiB with it. The kernel here may have no netem, so delay is the proxy's (`badnet_delay`).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

CONTROLLER_ADDRESS, DEVICES_ADDRESS = "10.99.0.1", "10.99.0.2"
FRAME_BYTES = 1514
_NAME = "badnet-"
_NEW_NETWORK = 0x40000000
_BURST_BYTES = 2 * FRAME_BYTES + 100
_QUEUE_MS = 1000
_WEATHER = """\
table inet weather {{
  counter lost {{}}
  counter torn {{}}
  chain arriving {{
    type filter hook input priority 0;
    iifname "{end}" numgen random mod 1000 < {lost} counter name lost drop
    iifname "{end}" meta l4proto tcp numgen random mod {tear_one_in} == 0 \
counter name torn reject with tcp reset
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad the link is, in both directions."""

    bytes_per_s: int = 50_000
    lost_per_mille: int = 50
    tear_one_in: int = 400


@dataclass(frozen=True, slots=True)
class Carried:
    """What a link has carried and swallowed since it was laid, both ends taken together."""

    to_devices_bytes: int
    to_controller_bytes: int
    lost_packets: int
    torn_packets: int

    def since(self, before: Carried) -> Carried:
        return Carried(
            self.to_devices_bytes - before.to_devices_bytes,
            self.to_controller_bytes - before.to_controller_bytes,
            self.lost_packets - before.lost_packets,
            self.torn_packets - before.torn_packets,
        )


@dataclass(frozen=True, slots=True)
class Link:
    """The names of the namespaces and of the ends of the link between them."""

    controller: str
    devices: str
    controller_end: str
    devices_end: str

    @property
    def ends(self) -> tuple[tuple[str, str], tuple[str, str]]:
        return (self.controller, self.controller_end), (self.devices, self.devices_end)

    def among_devices(self, *words: str) -> list[str]:
        """Return the command that runs another one in the devices' namespace, in its own place."""
        return ["nsenter", f"--net={_place(self.devices)}", *words]

    def enter_controllers(self) -> None:
        """Move this process, and what it starts from now on, into the controller's namespace."""
        libc = ctypes.CDLL(None, use_errno=True)
        with _place(self.controller).open() as namespace:
            if libc.setns(namespace.fileno(), _NEW_NETWORK):
                raise OSError(ctypes.get_errno(), f"cannot enter {self.controller}")

    def worsen(self, weather: Weather) -> None:
        """Make the link slow, lossy and torn from now on."""
        for namespace, end in self.ends:
            rate = ["rate", f"{weather.bytes_per_s * 8}bit", "burst", str(_BURST_BYTES)]
            bucket = ["tbf", *rate, "latency", f"{_QUEUE_MS}ms"]
            _run("tc", "-n", namespace, "qdisc", "replace", "dev", end, "root", *bucket)
            rules = _WEATHER.format(
                end=end, lost=weather.lost_per_mille, tear_one_in=weather.tear_one_in
            )
            _run("ip", "netns", "exec", namespace, "nft", "-f", "-", text=rules)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Take the link down for the length of the block."""
        _run("ip", "-n", self.devices, "link", "set", self.devices_end, "down")
        try:
            yield
        finally:
            _run("ip", "-n", self.devices, "link", "set", self.devices_end, "up")

    def carried(self) -> Carried:
        told = _run("ip", "-n", self.controller, "-s", "-j", "link", "show", self.controller_end)
        (shown,) = msgspec.json.decode(told, type=list[_Shown])
        counters = [_counters(namespace) for namespace, _ in self.ends]
        return Carried(
            to_devices_bytes=shown.stats64.tx.bytes,
            to_controller_bytes=shown.stats64.rx.bytes,
            lost_packets=sum(one.get("lost", 0) for one in counters),
            torn_packets=sum(one.get("torn", 0) for one in counters),
        )


class _Way(msgspec.Struct, frozen=True):
    bytes: int


class _Ways(msgspec.Struct, frozen=True):
    rx: _Way
    tx: _Way


class _Shown(msgspec.Struct, frozen=True):
    """What `ip -s -j link show` says of an end."""

    stats64: _Ways


class _Counter(msgspec.Struct, frozen=True):
    name: str
    packets: int


class _Item(msgspec.Struct, frozen=True):
    counter: _Counter | None = None


class _Listed(msgspec.Struct, frozen=True):
    """What `nft -j list counters` says."""

    nftables: list[_Item]


@contextmanager
def a_link() -> Iterator[Link]:
    """Lay a good link between two new namespaces; take all of it away after the block."""
    _take_away_what_was_left()
    tag = os.getpid()
    link = Link(f"{_NAME}c-{tag}", f"{_NAME}d-{tag}", f"bnc{tag}", f"bnd{tag}")
    try:
        for namespace, _ in link.ends:
            _run("ip", "netns", "add", namespace)
            _run("ip", "-n", namespace, "link", "set", "lo", "up")
        _lay(link)
        yield link
    finally:
        for namespace, _ in link.ends:
            subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)


def _take_away_what_was_left() -> None:
    """Delete the namespaces of runs that were killed."""
    for place in Path("/run/netns").glob(f"{_NAME}?-*"):
        if not Path("/proc", place.name.rpartition("-")[2]).exists():
            _run("ip", "netns", "del", place.name)


def _lay(link: Link) -> None:
    (one, its_end), (other, other_end) = link.ends
    peer = ["peer", "name", other_end, "netns", other]
    _run("ip", "link", "add", its_end, "netns", one, "type", "veth", *peer)
    addresses = (CONTROLLER_ADDRESS, DEVICES_ADDRESS)
    for (namespace, end), address in zip(link.ends, addresses, strict=True):
        _run("ip", "-n", namespace, "addr", "add", f"{address}/30", "dev", end)
        _run("ip", "-n", namespace, "link", "set", end, "gso_max_segs", "1")
        _run("ip", "-n", namespace, "link", "set", end, "up")


def _counters(namespace: str) -> dict[str, int]:
    told = _run("ip", "netns", "exec", namespace, "nft", "-j", "list", "counters")
    listed = msgspec.json.decode(told, type=_Listed)
    found = (item.counter for item in listed.nftables)
    return {one.name: one.packets for one in found if one is not None}


def _place(namespace: str) -> Path:
    return Path("/run/netns") / namespace


def _run(*words: str, text: str = "") -> str:
    done = subprocess.run(words, check=False, capture_output=True, text=True, input=text)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(words)}` failed: {done.stderr.strip()}")
    return done.stdout
