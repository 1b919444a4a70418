"""The page says what was measured, in the words and units that Prometheus knows."""

from __future__ import annotations

import re

import pytest

from tests.builders import a_digest
from wherry.histogram import from_durations
from wherry.measures import Feedback, HostFacts, ShadowCounts
from wherry.names import AliasName
from wherry_agent.metrics import Snapshot, render
from wherry_agent.telemetry import WindowCounts

DEFAULT = AliasName("default")
BUNDLE = a_digest("bundle")
OF = f'alias="default",bundle="{BUNDLE}"'

# The text exposition format 0.0.4, line by line.
_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
_VALUE = r"[-+]?(?:[0-9.]+(?:e[-+]?[0-9]+)?|Inf|NaN)"
_SAMPLE = re.compile(rf"({_NAME})(\{{(?:{_LABEL})(?:,{_LABEL})*\}})? ({_VALUE})")
_HEAD = re.compile(rf"# (?:HELP {_NAME} .+|TYPE {_NAME} (?:counter|gauge|histogram))")


def samples(page: str) -> dict[str, float]:
    """Return the samples of a page, each line of which must be one or a head."""
    found: dict[str, float] = {}
    assert page.endswith("\n")
    for line in page.splitlines():
        sample = _SAMPLE.fullmatch(line)
        assert sample or _HEAD.fullmatch(line), line
        if sample:
            name = f"{sample[1]}{sample[2] or ''}"
            assert name not in found
            found[name] = float(sample[3])
    return found


def a_window() -> WindowCounts:
    durations = from_durations([40_000, 2_000_000, 1 << 21, 30_000_000_000])
    return WindowCounts(
        DEFAULT,
        BUNDLE,
        requests=6,
        errors={"timed_out": 2},
        latency=durations,
        compute=durations,
        latency_ns=30_004_137_152,
        compute_ns=1_500_000_000,
        feedback=Feedback(5, 4),
        restarts=1,
        shadow=ShadowCounts(requests=3, rows=6, agreed=5, skipped={"busy": 2}),
    )


def test_requests_errors_and_labels_are_counted_by_alias_and_bundle() -> None:
    found = samples(render(Snapshot(version="1.2.3", totals=(a_window(),))))
    assert found['wherry_agent_info{version="1.2.3"}'] == 1
    assert found[f"wherry_requests_total{{{OF}}}"] == 6
    assert found[f'wherry_request_errors_total{{{OF},error="timed_out"}}'] == 2
    assert found[f"wherry_labels_total{{{OF}}}"] == 5
    assert found[f"wherry_labels_right_total{{{OF}}}"] == 4
    assert found[f"wherry_worker_restarts_total{{{OF}}}"] == 1
    assert found[f"wherry_shadow_rows_total{{{OF}}}"] == 6
    assert found[f"wherry_shadow_rows_agreed_total{{{OF}}}"] == 5
    assert found[f'wherry_shadow_skipped_total{{{OF},cause="busy"}}'] == 2


def test_a_histograms_buckets_are_exact_cumulative_and_in_seconds() -> None:
    found = samples(render(Snapshot(version="1", totals=(a_window(),))))
    name = "wherry_request_duration_seconds"
    below = {
        float(bound): count
        for line, count in found.items()
        if (bound := _bound(line, f"{name}_bucket")) is not None
    }
    assert sorted(below.values()) == list(below.values())
    assert below[(1 << 15) / 1e9] == 0
    assert below[(1 << 16) / 1e9] == 1
    assert below[(1 << 21) / 1e9] == 2
    assert below[(1 << 22) / 1e9] == below[(1 << 34) / 1e9] == 3
    assert below[float("inf")] == found[f"{name}_count{{{OF}}}"] == 4
    assert found[f"{name}_sum{{{OF}}}"] == pytest.approx(30.004137152)
    assert found[f"wherry_compute_duration_seconds_sum{{{OF}}}"] == 1.5


def _bound(line: str, name: str) -> str | None:
    found = re.fullmatch(rf'{name}\{{.*,le="(.+)"\}}', line)
    return found[1].replace("+Inf", "inf") if found else None


def test_the_host_is_told_in_base_units_and_what_it_cannot_tell_is_left_out() -> None:
    host = HostFacts(cpu_percent=12.5, temperature_c=48.5, throttled=False, load_1m=0.75)
    page = render(Snapshot(version="1", host=host, workers={(DEFAULT, BUNDLE): 9}))
    found = samples(page)
    assert found["wherry_host_cpu_usage_ratio"] == 0.125
    assert found["wherry_host_temperature_celsius"] == 48.5
    assert found["wherry_host_throttled"] == 0
    assert found["wherry_host_load1"] == 0.75
    assert found[f"wherry_worker_memory_bytes{{{OF}}}"] == 9
    assert "disk" not in page
    assert found["wherry_telemetry_windows_dropped_total"] == 0


def test_each_family_has_one_head_with_its_samples_below() -> None:
    page = render(Snapshot(version="1", totals=(a_window(), _other())))
    names = re.findall(r"^# TYPE (\S+) ", page, re.MULTILINE)
    assert len(names) == len(set(names))
    assert "wherry_worker_memory_bytes" not in names


def _other() -> WindowCounts:
    return WindowCounts(AliasName("other"), BUNDLE, requests=1)


def test_what_a_label_must_not_hold_is_escaped() -> None:
    version = 'a"b\\c\nd'
    assert 'version="a\\"b\\\\c\\nd"' in render(Snapshot(version=version))
    samples(render(Snapshot(version=version)))
