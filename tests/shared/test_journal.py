"""An entry of the journal has an event's fields, on a real socket and as its protocol says."""

from __future__ import annotations

import array
import logging
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.laws import tried
from wherry.journal import JournalHandler, entry_of, is_listening


def a_record(
    event: str = "bundle.flipped", level: int = logging.INFO, **fields: object
) -> logging.LogRecord:
    record = logging.makeLogRecord({"levelno": level, "msg": event, "name": "wherry_agent"})
    vars(record).update(fields)
    return record


def read(entry: bytes) -> dict[str, str]:
    """Return an entry's fields, as the journal reads them."""
    found = {}
    while entry:
        name, _, rest = entry.partition(b"\n")
        (length,) = struct.unpack("<Q", rest[:8])
        found[name.decode()] = rest[8 : 8 + length].decode()
        assert rest[8 + length : 9 + length] == b"\n"
        entry = rest[9 + length :]
    return found


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(tmp_path / "socket"))
        one.settimeout(5)
        yield one


def test_an_entry_has_the_event_its_fields_and_a_text_for_people() -> None:
    assert read(entry_of(a_record(bundle="ab12", in_flight=3), "wherry-agent")) == {
        "MESSAGE": "bundle.flipped bundle=ab12 in_flight=3",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "wherry-agent",
        "WHERRY_EVENT": "bundle.flipped",
        "WHERRY_LOGGER": "wherry_agent",
        "WHERRY_BUNDLE": "ab12",
        "WHERRY_IN_FLIGHT": "3",
    }


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.CRITICAL, "2"),
        (logging.ERROR, "3"),
        (logging.WARNING, "4"),
        (logging.INFO, "6"),
        (logging.DEBUG, "7"),
    ],
)
def test_a_level_becomes_a_priority(level: int, priority: str) -> None:
    assert read(entry_of(a_record(level=level), "x"))["PRIORITY"] == priority


def test_an_exception_s_traceback_follows_the_event() -> None:
    try:
        raise ValueError("a reason")
    except ValueError:
        record = a_record("agent.failed", exc_info=sys.exc_info())
    text = read(entry_of(record, "x"))["MESSAGE"]
    assert text.startswith("agent.failed\nTraceback")
    assert text.endswith("ValueError: a reason")


@given(st.text())
@tried
def test_whatever_a_field_holds_no_other_field_comes_of_it(value: str) -> None:
    found = read(entry_of(a_record(why=value), "x"))
    assert len(found) == len(read(entry_of(a_record(), "x"))) + 1


def test_the_handler_sends_to_the_journal(journal: socket.socket, tmp_path: Path) -> None:
    handler = JournalHandler("wherry-agent", tmp_path / "socket")
    handler.handle(a_record(bundle="ab12"))
    handler.close()
    assert read(journal.recv(65536))["WHERRY_BUNDLE"] == "ab12"


def test_what_no_datagram_holds_is_passed_in_a_file(journal: socket.socket, tmp_path: Path) -> None:
    handler = JournalHandler("wherry-agent", tmp_path / "socket")
    handler.handle(a_record(why="x" * 1_000_000))
    handler.close()
    _, passed, _, _ = journal.recvmsg(16, socket.CMSG_SPACE(4))
    (file,) = array.array("i", passed[0][2])
    try:
        assert read(os.pread(file, 4_000_000, 0))["WHERRY_WHY"] == "x" * 1_000_000
    finally:
        os.close(file)


def test_without_a_journal_a_record_goes_to_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = JournalHandler("wherry-agent", tmp_path / "nobody")
    handler.handle(a_record(bundle="ab12"))
    handler.close()
    assert capsys.readouterr().err == "bundle.flipped bundle=ab12\n"


def test_the_journal_is_used_only_where_standard_error_goes_to_it() -> None:
    seen = os.fstat(2)
    assert is_listening({"JOURNAL_STREAM": f"{seen.st_dev}:{seen.st_ino}"})
    assert not is_listening({"JOURNAL_STREAM": "1:1"})
    assert not is_listening({})
