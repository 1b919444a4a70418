"""The machine says what is true of it, and only what it can tell."""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from wherry_agent import host


def test_the_facts_are_of_this_machine_and_this_process(tmp_path: Path) -> None:
    facts = host.facts(tmp_path)
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


def test_load_is_a_share_of_all_cores_and_temperature_that_of_a_living_machine(
    tmp_path: Path,
) -> None:
    facts = host.facts(tmp_path)
    assert facts.cpu_percent is None or 0 <= facts.cpu_percent <= 100
    assert facts.temperature_c is None or -60 < facts.temperature_c < 150


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
