"""Dials a broker with TLS as the device of a home does, and prints what came of it as JSON.

A process of its own, so that a test may move its clock: HOME HOST PORT FLOOR.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import time
from pathlib import Path

from wherry_agent.core.dates import Dates, Verdict
from wherry_agent.mqtt import Callbacks, Connection, Will
from wherry_agent.settings import Broker
from wherry_agent.tls import Secured, context_of


def main(home: Path, host: str, port: int, floor: float) -> dict[str, object]:
    """Connect, say something to oneself, and hear it."""
    news: queue.Queue[str] = queue.Queue()
    whys: list[str] = []

    def keep_why(record: logging.LogRecord) -> bool:
        whys.append(record.__dict__["why"])
        return False

    logging.getLogger("wherry_agent").addFilter(keep_why)
    shown: list[tuple[Dates, Verdict]] = []
    connection = Connection(
        Broker(host, port, tls=True),
        "whatever",
        Callbacks(
            on_up=lambda: news.put("up"),
            on_down=lambda: news.put("down"),
            on_message=lambda topic, payload: news.put(f"{topic} {payload.decode()}"),
            on_puback=lambda _: None,
        ),
        window=8,
        will=Will("gone", b"", delay_s=0),
        secured=Secured(
            context=lambda: context_of(home),
            floor=lambda: floor,
            on_peer=lambda dates, verdict: shown.append((dates, verdict)),
        ),
    )
    connection.connect()
    said = [news.get()]
    if said == ["up"]:
        connection.subscribe(["talk"])
        connection.publish("talk", b"hello")
        said.append(news.get())
    connection.close()
    return {
        "year": time.gmtime().tm_year,
        "news": said,
        "why": whys,
        "verdicts": [verdict.value for _, verdict in shown],
        "ends": [dates.ends for dates, _ in shown],
    }


if __name__ == "__main__":
    home, host, port, floor = sys.argv[1:]
    print(json.dumps(main(Path(home), host, int(port), float(floor))))  # noqa: T201
