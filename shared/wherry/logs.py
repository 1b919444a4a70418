"""Log lines: the name of an event with its fields, as JSON for machines or as text for people."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class EventFormatter(logging.Formatter):
    """Renders `log.info("bundle.reverted", extra={"digest": …})` as one line of text."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{self.formatTime(record)} {record.levelname.lower()} {text_of(record)}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """Renders the same as one JSON object a line: `at` (UNIX seconds), `level`, `event`, fields.

    A field that has one of these names gets an underscore before it.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": round(record.created, 6),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        for name, value in fields_of(record):
            line[f"_{name}" if name in line else name] = value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr(level: int = logging.INFO, formatter: logging.Formatter | None = None) -> None:
    """Send every logger's lines to standard error, as text where no formatter is given."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter or EventFormatter())
    log_to(handler, level)


def log_to(handler: logging.Handler, level: int = logging.INFO) -> None:
    """Give every logger's records to a handler, and to no other."""
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # It tells of every key that did not sign, though enough others did.
    logging.getLogger("tuf").setLevel(max(level, logging.WARNING))


def text_of(record: logging.LogRecord) -> str:
    """Return an event's name and its fields as one line of text."""
    fields = (f"{name}={_quoted(value)}" for name, value in fields_of(record))
    return " ".join((record.getMessage(), *fields))


def fields_of(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """Return the fields that were given with an event, in order."""
    return ((name, value) for name, value in vars(record).items() if name not in _STANDARD)


def _quoted(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and not any(c in " =\"'" for c in text)
    return text if text and plain else repr(text)
