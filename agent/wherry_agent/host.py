"""What the machine says of itself: through psutil where that is, from /proc and /sys where not."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from wherry.measures import HostFacts
from wherry.profile import Runtime

ROOT = Path("/")

_HAS_PSUTIL = find_spec("psutil") is not None
_DISTRIBUTIONS = {
    "onnxruntime": Runtime.ONNXRUNTIME,
    "onnxruntime-gpu": Runtime.ONNXRUNTIME,  # As it is called on a Jetson.
    "ai-edge-litert": Runtime.LITERT,
    "tflite-runtime": Runtime.TFLITE,
}
# A Raspberry Pi's firmware: bits 0 to 3 are of now (too low a voltage, capped, throttled, soft
# limit), bits 16 to 19 are of some time since the start.
_FIRMWARE = "sys/devices/platform/soc/soc:firmware/get_throttled"
_FIRMWARE_NOW = 0xF
# How cooling devices that slow processors down are called: since Linux 5.12, before, and by ACPI.
_BRAKES = ("cpufreq-", "thermal-cpufreq-", "Processor")


class Host:
    """A machine that is looked at again and again; load and throttling are since the last look.

    `folder` lies on the disk that is told of; /proc and /sys are those below `root`.
    """

    def __init__(self, folder: Path, *, root: Path = ROOT, has_psutil: bool = _HAS_PSUTIL) -> None:
        self._folder, self._root = folder, root
        self._busy_percent = _psutil_meter() if has_psutil else _proc_meter(root)
        self._throttles = _count_throttles(root)

    def facts(self) -> HostFacts:
        """Return the machine's load, memory, temperature, and disk; what it cannot tell is None."""
        memory = _meminfo(self._root)
        return HostFacts(
            cpu_percent=self._busy_percent(),
            memory_available_bytes=memory.get("MemAvailable"),
            memory_total_bytes=memory.get("MemTotal"),
            disk_free_bytes=_free_bytes(self._folder),
            temperature_c=temperature_c(self._root),
            uptime_s=time.clock_gettime(time.CLOCK_BOOTTIME),
            agent_rss_bytes=_rss_bytes(),
            load_1m=os.getloadavg()[0],
            throttled=self._is_throttled(),
        )

    def _is_throttled(self) -> bool | None:
        before, self._throttles = self._throttles, _count_throttles(self._root)
        grew = None
        if before is not None and self._throttles is not None:
            grew = self._throttles > before
        signs = (_firmware_brakes(self._root), _kernel_brakes(self._root), grew)
        known = [sign for sign in signs if sign is not None]
        return any(known) if known else None


def facts(folder: Path) -> HostFacts:
    """Return what one look tells; `folder` lies on the disk that is told of."""
    return Host(folder).facts()


def runtimes() -> dict[str, str]:
    """Return the versions of the installed runtimes, without importing any."""
    from importlib import metadata  # A tenth of what a worker imports, and it asks for none.

    found: dict[str, str] = {}
    for distribution, runtime in _DISTRIBUTIONS.items():
        try:
            found[runtime.value] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return found


def memory_available_bytes() -> int | None:
    """Return what programs may still take without swapping, by the kernel's estimate."""
    return _meminfo(ROOT).get("MemAvailable")


def temperature_c(root: Path = ROOT) -> float | None:
    """Return the hottest thermal zone, or the hottest sensor where there is no zone."""
    zones = _celsius(root, "sys/class/thermal/thermal_zone*/temp")
    return max(zones or _celsius(root, "sys/class/hwmon/hwmon*/temp*_input"), default=None)


def _celsius(root: Path, pattern: str) -> list[float]:
    readings = (_number(place) for place in root.glob(pattern))
    return [reading / 1000 for reading in readings if reading is not None]


def _psutil_meter() -> Callable[[], float | None]:
    import psutil

    psutil.cpu_percent(None)
    return lambda: psutil.cpu_percent(None)


def _proc_meter(root: Path) -> Callable[[], float | None]:
    """Return what tells the load since it was asked last, of all cores together."""
    last_busy, last_all = _ticks(root)

    def percent() -> float | None:
        nonlocal last_busy, last_all
        busy, everything = _ticks(root)
        more_busy, more = busy - last_busy, everything - last_all
        last_busy, last_all = busy, everything
        return min(max(100 * more_busy / more, 0.0), 100.0) if more > 0 else None

    return percent


def _ticks(root: Path) -> tuple[int, int]:
    """Return the clock ticks in which a core was busy, and all of them (proc(5), /proc/stat)."""
    try:
        first, _, _ = (root / "proc/stat").read_text().partition("\n")
    except OSError:
        return 0, 0
    # Guests' time stands in user and nice already, idle and iowait are the fourth and the fifth.
    ticks = [int(word) for word in first.split()[1:9]]
    return sum(ticks) - sum(ticks[3:5]), sum(ticks)


def _firmware_brakes(root: Path) -> bool | None:
    try:
        return bool(int((root / _FIRMWARE).read_text(), 16) & _FIRMWARE_NOW)
    except (OSError, ValueError):
        return None


def _kernel_brakes(root: Path) -> bool | None:
    states = [
        _number(place / "cur_state")
        for place in root.glob("sys/class/thermal/cooling_device*")
        if _text(place / "type").startswith(_BRAKES)
    ]
    return any(states) if states else None


def _count_throttles(root: Path) -> int | None:
    """Return how often x86 cores were slowed down since the start."""
    counts = [
        _number(place)
        for place in root.glob(
            "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"
        )
    ]
    return sum(count or 0 for count in counts) if counts else None


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _meminfo(root: Path) -> dict[str, int]:
    rows = (root / "proc/meminfo").read_text().splitlines()
    return {row.split(":")[0]: int(row.split()[1]) * 1024 for row in rows if row.endswith("kB")}


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _number(place: Path) -> int | None:
    try:
        return int(_text(place))
    except ValueError:
        return None


def _text(place: Path) -> str:
    try:
        return place.read_text()
    except OSError:
        return ""
