"""What a worker measures: enough rows, within its time, and no more than its share of a core."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.laws import tried
from wherry_agent.measuring import Bounds, Clock, figures_of, memory_bytes, run_rows


class Time:
    """A clock that a run moves: `busy_s` counts what runs take, on `cores` at a time."""

    def __init__(self, row_s: float, *, cores: int = 1) -> None:
        self.row_s, self.cores = row_s, cores
        self.now_s = self.busy_s = 0.0

    def run(self, number: int) -> int:
        self.now_s += self.row_s
        self.busy_s += self.row_s * self.cores
        return number

    def pause(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now_s, lambda: self.busy_s, self.pause)


def bounds(*, runs: int = 100, within_s: float = 60.0, core_share: float = 0.25) -> Bounds:
    return Bounds(runs=runs, within_s=within_s, core_share=core_share, niceness=10)


@tried
@given(
    st.integers(1, 50),
    st.floats(1e-4, 2.0),
    st.floats(0.05, 1.0),
    st.integers(1, 4),
)
def test_it_takes_no_more_than_its_share_of_one_core(
    runs: int, row_s: float, share: float, cores: int
) -> None:
    time = Time(row_s, cores=cores)
    taken = run_rows(time.run, bounds(runs=runs, within_s=1e9, core_share=share), time.clock)
    assert taken == list(range(runs))
    assert time.busy_s <= share * time.now_s * (1 + 1e-9)


def test_it_ends_in_time_with_the_rows_that_were_run() -> None:
    time = Time(1.0)
    assert len(run_rows(time.run, bounds(within_s=10.0, core_share=0.5), time.clock)) == 5
    assert time.now_s == 10.0


def test_one_row_is_run_however_little_time_is_left() -> None:
    time = Time(1.0)
    assert run_rows(time.run, bounds(within_s=-1.0), time.clock) == [0]


@pytest.mark.parametrize(
    ("taken_ms", "p50_ms", "p99_ms"),
    [([7], 7, 7), (range(1, 101), 50, 99), (range(200, 0, -1), 100, 198), ([3, 1, 2], 2, 3)],
)
def test_percentiles_are_values_that_were_measured(
    taken_ms: list[int], p50_ms: float, p99_ms: float
) -> None:
    figures = figures_of(
        [ms * 1_000_000 for ms in taken_ms], runtime_version="1.0", load_ms=5.0, base_bytes=1
    )
    assert (figures.p50_ms, figures.p99_ms, figures.runs) == (p50_ms, p99_ms, len(taken_ms))
    assert figures.memory_bytes >= memory_bytes("VmRSS")


def test_a_process_that_is_gone_has_no_memory(tmp_path: Path) -> None:
    assert memory_bytes("VmHWM", tmp_path / "status") == 0
    assert memory_bytes("VmHWM", Path(f"/proc/{os.getpid()}/status")) > 1 << 20
