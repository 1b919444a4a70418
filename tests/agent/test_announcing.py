"""`reported` waits for a flip that is on its way, and says what is wrong with the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.agent.stores import a_full_disk
from tests.agent.test_performing import NEW, a_flip, an_installer, perform
from tests.builders import A_TIME, a_device_id, an_alias
from tests.enrolled import an_enrolled_home
from tests.trusted import a_repository
from wherry import codec
from wherry.messages import Presence, Reported
from wherry.names import ProfileName
from wherry.reasons import Reason
from wherry.topics import PresenceTopic, ReportedTopic, Topic
from wherry_agent.announcing import PRESENCE_S, Announcer
from wherry_agent.core import install, session
from wherry_agent.core.dates import Verdict
from wherry_agent.parts import Parts, put_together
from wherry_agent.performing import LONGEST_FLIP_S, Installer
from wherry_agent.settings import read_settings
from wherry_agent.store import REPORTS_IN_ADVANCE

ME = a_device_id("pi-1")


@dataclass
class Line:
    """Notes what is published on it, all of which is retained."""

    said: list[tuple[Topic, bytes]] = field(default_factory=list)

    def publish(self, topic: Topic, payload: bytes, *, retain: bool) -> int | None:
        assert retain
        self.said.append((topic, payload))
        return len(self.said)

    def reported(self) -> list[Reported]:
        own = ReportedTopic(ME)
        return [codec.decode(Reported, payload) for topic, payload in self.said if topic == own]

    def presence(self) -> list[Presence]:
        own = PresenceTopic(ME)
        return [codec.decode(Presence, payload) for topic, payload in self.said if topic == own]


@dataclass
class Bench:
    """An agent's real parts on a line that only notes; the installer has an engine of its own."""

    parts: Parts
    installer: Installer
    line: Line
    announcer: Announcer


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Give a bench that is connected."""
    root = a_repository(now=A_TIME).roots[0].data
    an_enrolled_home(tmp_path, "mqtt://127.0.0.1:1", ME, ProfileName("test"), root)
    parts = put_together(tmp_path, read_settings(tmp_path), lambda _item: None)
    parts.engine.start()
    installer, _ = an_installer()
    parts, line = replace(parts, installer=installer), Line()
    parts.memory.step(session.Connected(time.monotonic()))
    try:
        yield Bench(parts, installer, line, Announcer(ME, parts, line.publish))
    finally:
        parts.delivery.close()
        parts.engine.close()
        parts.verifier.close()
        parts.store.close()


def test_without_a_connection_nothing_is_said(bench: Bench) -> None:
    bench.parts.memory.step(session.Lost(time.monotonic(), 0.5))
    bench.announcer.announce()
    assert bench.line.said == []


def test_each_announcement_says_that_the_device_is_there_and_what_it_has(bench: Bench) -> None:
    bench.announcer.announce()
    bench.announcer.announce()
    assert [one.online for one in bench.line.presence()] == [True, True]
    assert [one.report_seq for one in bench.line.reported()] == [1, 2]
    assert bench.line.reported()[0].store_id == bench.parts.store.store_id


def test_while_a_flip_is_on_its_way_only_the_presence_is_said(bench: Bench) -> None:
    perform(bench.installer, install.Serve(NEW), time.monotonic())
    bench.announcer.announce()
    assert len(bench.line.presence()) == 1
    assert bench.line.reported() == []
    bench.installer.note_flip(a_flip(NEW))
    bench.announcer.catch_up()
    assert len(bench.line.reported()) == 1
    bench.announcer.catch_up()  # It owes nothing any more.
    assert len(bench.line.reported()) == 1


def test_a_flip_that_never_comes_is_not_waited_for_for_ever(bench: Bench) -> None:
    now_s = time.monotonic()
    perform(bench.installer, install.Serve(NEW), now_s)
    bench.announcer.announce()
    assert bench.line.reported() == []
    perform(bench.installer, install.Serve(NEW), now_s - LONGEST_FLIP_S)  # As if it were long ago.
    bench.announcer.tick(now_s)
    assert len(bench.line.reported()) == 1


def test_what_becomes_wrong_is_said_once_and_so_is_that_it_is_over(bench: Bench) -> None:
    bench.announcer.announce()
    for verdict in (Verdict.CLOCK_AHEAD, Verdict.CLOCK_AHEAD, Verdict.SOUND, Verdict.SOUND):
        bench.announcer.note_broker(verdict)
        bench.announcer.tick(time.monotonic())
    told = [one.degraded for one in bench.line.reported()]
    assert told == [(), (Reason.CLOCK_AHEAD,), ()]


def test_a_bundle_that_shall_answer_and_does_not_come_up_is_said(bench: Bench) -> None:
    bench.installer.missed[an_alias()] = Reason.LOAD_TIMEOUT
    bench.announcer.announce()
    assert [one.degraded for one in bench.line.reported()] == [(Reason.LOAD_TIMEOUT,)]


def test_a_report_that_finds_no_number_is_owed(bench: Bench) -> None:
    for _ in range(REPORTS_IN_ADVANCE):
        bench.parts.store.next_report_seq()
    with a_full_disk():
        bench.announcer.announce()
        assert bench.line.reported() == []
    bench.announcer.tick(time.monotonic())
    assert [one.report_seq for one in bench.line.reported()] == [REPORTS_IN_ADVANCE + 1]


def test_a_store_that_keeps_nothing_is_reported(bench: Bench) -> None:
    bench.parts.store.fault = Reason.DISK_READ_ONLY
    bench.announcer.announce()
    assert [one.degraded for one in bench.line.reported()] == [(Reason.DISK_READ_ONLY,)]


def test_a_device_that_nobody_asks_says_now_and_then_that_it_is_there(bench: Bench) -> None:
    bench.announcer.announce()
    began_s = time.monotonic()
    bench.announcer.tick(began_s + PRESENCE_S - 1)
    assert len(bench.line.presence()) == 1
    for beat in (1, 2):
        bench.announcer.tick(began_s + beat * PRESENCE_S + 1)
        bench.announcer.tick(began_s + beat * PRESENCE_S + 2)
        assert len(bench.line.presence()) == 1 + beat
    assert len(bench.line.reported()) == 1
    bench.parts.memory.step(session.Lost(began_s, 0.5))
    bench.announcer.tick(began_s + 10 * PRESENCE_S)
    assert len(bench.line.presence()) == 3
