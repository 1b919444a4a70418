"""Log lines: the name of an event, then its fields as `key=value`."""

from __future__ import annotations

import logging
import sys

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class EventFormatter(logging.Formatter):
    """Renders `log.info("bundle.reverted", extra={"digest": …})` as one line."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(
            f"{name}={_quoted(value)}"
            for name, value in vars(record).items()
            if name not in _STANDARD
        )
        line = f"{self.formatTime(record)} {record.levelname.lower()} {record.getMessage()}"
        line = f"{line} {fields}" if fields else line
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send every logger's lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # It tells of every key that did not sign, though enough others did.
    logging.getLogger("tuf").setLevel(max(level, logging.WARNING))


def _quoted(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and not any(c in " =\"'" for c in text)
    return text if text and plain else repr(text)
