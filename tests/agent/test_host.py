"""The machine says what is true of it, and only what it can tell."""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from wherry_agent import host


def test_the_facts_are_of_this_machine_and_this_process(tmp_path: Path) -> None:
    facts = host.Host(tmp_path).facts()
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    assert facts.memory_total_bytes is not None
    assert facts.memory_available_bytes is not None
    assert facts.disk_free_bytes is not None
    assert facts.agent_rss_bytes is not None
    assert facts.uptime_s is not None
    total = os.sysconf("SC_PHYS_PAGES") * page_bytes
    assert facts.memory_total_bytes == pytest.approx(total, rel=0.2)
    assert 0 < facts.memory_available_bytes <= facts.memory_total_bytes
    assert 0 < facts.disk_free_bytes <= shutil.disk_usage(tmp_path).total
    assert 1 << 20 < facts.agent_rss_bytes < facts.memory_total_bytes
    assert facts.uptime_s == pytest.approx(float(Path("/proc/uptime").read_text().split()[0]), 1)


@pytest.mark.parametrize("has_psutil", [True, False])
def test_load_is_a_share_of_all_cores_and_temperature_that_of_a_living_machine(
    tmp_path: Path, *, has_psutil: bool
) -> None:
    looked = host.Host(tmp_path, has_psutil=has_psutil)
    facts = looked.facts()
    assert facts.cpu_percent is None or 0 <= facts.cpu_percent <= 100
    assert facts.temperature_c is None or -60 < facts.temperature_c < 150
    assert facts.load_1m is not None
    assert 0 <= facts.load_1m < 10_000


def a_machine(root: Path, *, busy: int = 10, idle: int = 90, throttles: int | None = None) -> Path:
    """Write the files of a machine whose cores have been busy for so many ticks."""
    (root / "proc").mkdir(exist_ok=True)
    # user nice system idle iowait irq softirq steal guest guest_nice
    ticks = f"cpu  {busy - 3} 1 1 {idle - idle // 2} {idle // 2} 1 0 0 {busy - 9} 7"
    (root / "proc/stat").write_text(f"{ticks}\ncpu0 1 1 1 1 1 1 1 1 1 1\n")
    (root / "proc/meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 40 kB\n")
    if throttles is not None:
        write(root, "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", throttles)
    return root


def write(root: Path, place: str, content: object) -> None:
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text(f"{content}\n")


def a_host(root: Path) -> host.Host:
    return host.Host(root, root=root, has_psutil=False)


def test_load_is_of_the_time_since_the_last_look(tmp_path: Path) -> None:
    looked = a_host(a_machine(tmp_path, busy=10, idle=90))
    a_machine(tmp_path, busy=40, idle=160)
    assert looked.facts().cpu_percent == pytest.approx(30.0)
    assert looked.facts().cpu_percent is None
    a_machine(tmp_path, busy=40, idle=260)
    assert looked.facts().cpu_percent == 0.0


def test_what_a_machine_cannot_tell_is_none(tmp_path: Path) -> None:
    a_machine(tmp_path)
    (tmp_path / "proc/stat").unlink()
    facts = host.Host(tmp_path / "gone", root=tmp_path, has_psutil=False).facts()
    assert (facts.cpu_percent, facts.temperature_c, facts.throttled) == (None, None, None)
    assert facts.disk_free_bytes is None
    assert (facts.memory_total_bytes, facts.memory_available_bytes) == (102_400, 40_960)


def test_the_hottest_zone_is_told_and_a_sensor_where_there_is_no_zone(tmp_path: Path) -> None:
    looked = a_host(a_machine(tmp_path))
    write(tmp_path, "sys/class/hwmon/hwmon0/temp1_input", 71_000)
    assert looked.facts().temperature_c == 71.0
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", 45_500)
    write(tmp_path, "sys/class/thermal/thermal_zone1/temp", 52_250)
    write(tmp_path, "sys/class/thermal/thermal_zone2/temp", "")
    assert looked.facts().temperature_c == 52.25


FIRMWARE = "sys/devices/platform/soc/soc:firmware/get_throttled"


@pytest.mark.parametrize(
    ("said", "throttled"), [("0", False), ("50000", False), ("50005", True), ("4", True)]
)
def test_a_raspberry_pi_is_throttled_by_what_its_firmware_says_of_now(
    tmp_path: Path, said: str, *, throttled: bool
) -> None:
    looked = a_host(a_machine(tmp_path))
    write(tmp_path, FIRMWARE, said)
    assert looked.facts().throttled is throttled


@pytest.mark.parametrize("kind", ["cpufreq-cpu0", "thermal-cpufreq-0", "Processor"])
def test_a_processor_that_the_kernel_slows_down_is_throttled(tmp_path: Path, kind: str) -> None:
    looked = a_host(a_machine(tmp_path))
    write(tmp_path, "sys/class/thermal/cooling_device0/type", "pwm-fan")
    write(tmp_path, "sys/class/thermal/cooling_device0/cur_state", 3)
    assert looked.facts().throttled is None
    write(tmp_path, "sys/class/thermal/cooling_device1/type", kind)
    write(tmp_path, "sys/class/thermal/cooling_device1/cur_state", 0)
    assert looked.facts().throttled is False
    write(tmp_path, "sys/class/thermal/cooling_device1/cur_state", 1)
    assert looked.facts().throttled is True


def test_an_x86_core_that_was_throttled_since_the_last_look_is_told(tmp_path: Path) -> None:
    looked = a_host(a_machine(tmp_path, throttles=7))
    assert looked.facts().throttled is False
    a_machine(tmp_path, throttles=8)
    assert looked.facts().throttled is True
    assert looked.facts().throttled is False


def test_a_jetsons_onnxruntime_is_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "onnxruntime_gpu-1.23.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.23.0\n"
    )
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert host.runtimes() == {"onnxruntime": "1.23.0"}


def test_the_installed_runtimes_are_named_with_their_versions() -> None:
    found = host.runtimes()
    assert found["onnxruntime"] == metadata.version("onnxruntime")
    assert found["litert"] == metadata.version("ai-edge-litert")
