"""A log line is one line, whatever its fields hold."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.laws import tried
from wherry.logs import EventFormatter, JsonFormatter


def a_line(event: str = "bundle.reverted", **fields: object) -> str:
    """Return how an event is rendered, without its time."""
    record = logging.makeLogRecord({"levelno": logging.INFO, "levelname": "INFO", "msg": event})
    vars(record).update(fields)
    return EventFormatter().format(record).split(" ", 2)[2]


def test_a_line_says_the_level_the_event_and_its_fields_in_order() -> None:
    assert a_line(bundle="ab12", in_flight=3) == "info bundle.reverted bundle=ab12 in_flight=3"
    assert a_line() == "info bundle.reverted"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("two words", "'two words'"),
        ("a=b", "'a=b'"),
        ("", "''"),
        ("line\nbreak", "'line\\nbreak'"),
        ("\x1b[31mred", "'\\x1b[31mred'"),
        ("it's", '"it\'s"'),
        (None, "None"),
        ("größe", "größe"),
    ],
)
def test_a_value_that_could_be_misread_is_quoted(value: object, shown: str) -> None:
    assert a_line(why=value) == f"info bundle.reverted why={shown}"


@given(st.text())
@tried
def test_no_value_breaks_the_line_or_speaks_to_the_terminal(value: str) -> None:
    assert a_line(why=value).isprintable()


def test_an_exception_follows_its_line() -> None:
    try:
        raise ValueError("a reason")
    except ValueError:
        text = a_line("agent.failed", exc_info=sys.exc_info())
    assert text.startswith("info agent.failed\nTraceback")
    assert text.endswith("ValueError: a reason")


def a_json_line(name: str = "bundle.reverted", /, **fields: object) -> str:
    record = logging.makeLogRecord({"levelno": logging.INFO, "levelname": "INFO", "msg": name})
    vars(record).update(created=12.5, **fields)
    return JsonFormatter().format(record)


def test_json_keeps_the_types_of_fields_and_says_when() -> None:
    line = json.loads(a_json_line(bundle="ab12", in_flight=3, replaced=None))
    assert line == {
        "at": 12.5,
        "level": "info",
        "event": "bundle.reverted",
        "bundle": "ab12",
        "in_flight": 3,
        "replaced": None,
    }


def test_a_field_with_a_name_that_is_taken_hides_nothing() -> None:
    line = json.loads(a_json_line(level="high", event="other"))
    assert (line["level"], line["event"]) == ("info", "bundle.reverted")
    assert (line["_level"], line["_event"]) == ("high", "other")


def test_json_has_the_traceback_of_an_exception() -> None:
    try:
        raise ValueError("a reason")
    except ValueError:
        line = json.loads(a_json_line("agent.failed", exc_info=sys.exc_info()))
    assert line["traceback"].endswith("ValueError: a reason")


@given(st.text() | st.floats() | st.binary())
@tried
def test_no_value_breaks_a_json_line(value: object) -> None:
    line = a_json_line(why=value)
    assert line.isprintable()
    assert "why" in json.loads(line)


def test_every_logger_goes_to_standard_error() -> None:
    program = (
        "import logging; from wherry.logs import log_to_stderr; log_to_stderr();"
        "logging.getLogger('any').info('it.happened', extra={'how': 'so'});"
        "logging.getLogger('any').debug('too.much')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == ""
    assert done.stderr.rstrip().endswith("info it.happened how=so")
