"""What the machine says of itself in /proc and /sys, and of its load where psutil is there."""

from __future__ import annotations

import os
import shutil
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from wherry.measures import HostFacts
from wherry.profile import Runtime

_HAS_PSUTIL = find_spec("psutil") is not None
_DISTRIBUTIONS = {
    "onnxruntime": Runtime.ONNXRUNTIME,
    "onnxruntime-gpu": Runtime.ONNXRUNTIME,  # As it is called on a Jetson.
    "ai-edge-litert": Runtime.LITERT,
    "tflite-runtime": Runtime.TFLITE,
}


def runtimes() -> dict[str, str]:
    """Return the versions of the installed runtimes, without importing any."""
    found: dict[str, str] = {}
    for distribution, runtime in _DISTRIBUTIONS.items():
        try:
            found[runtime.value] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return found


def facts(folder: Path) -> HostFacts:
    """Return the machine's load, memory, temperature, and the disk that `folder` lies on."""
    memory = _meminfo()
    return HostFacts(
        cpu_percent=_cpu_percent(),
        memory_available_bytes=memory.get("MemAvailable"),
        memory_total_bytes=memory.get("MemTotal"),
        disk_free_bytes=shutil.disk_usage(folder).free,
        temperature_c=temperature_c(),
        uptime_s=time.clock_gettime(time.CLOCK_BOOTTIME),
        agent_rss_bytes=_rss_bytes(),
    )


def memory_available_bytes() -> int | None:
    """Return what programs may still take without swapping, by the kernel's estimate."""
    return _meminfo().get("MemAvailable")


def _cpu_percent() -> float | None:
    """Return the load since the last call, of all cores together."""
    if not _HAS_PSUTIL:
        return None
    import psutil

    return psutil.cpu_percent(None)


def _meminfo() -> dict[str, int]:
    rows = Path("/proc/meminfo").read_text().splitlines()
    return {row.split(":")[0]: int(row.split()[1]) * 1024 for row in rows if row.endswith("kB")}


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def temperature_c() -> float | None:
    """Return the hottest thermal zone."""
    readings: list[float] = []
    for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        try:
            readings.append(int(zone.read_text()) / 1000)
        except (OSError, ValueError):
            continue
    return max(readings, default=None)
