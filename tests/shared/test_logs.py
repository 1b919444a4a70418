"""A log line is one line, whatever its fields hold."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.laws import tried
from wherry.logs import EventFormatter


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


def test_every_logger_goes_to_standard_error() -> None:
    program = (
        "import logging; from wherry.logs import log_to_stderr; log_to_stderr();"
        "logging.getLogger('any').info('it.happened', extra={'how': 'so'});"
        "logging.getLogger('any').debug('too.much')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == ""
    assert done.stderr.rstrip().endswith("info it.happened how=so")
