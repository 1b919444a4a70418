"""A program that answers for one bundle on a socket: `python -m tests.agent.answering`.

It imports what an agent does and nothing of the tests, so it runs in an environment that has one
runtime and no test tools. It ends when its standard input does.
"""

from __future__ import annotations

import argparse
import queue
import sys
from pathlib import Path

from wherry.manifest import open_manifest
from wherry.names import AliasName, parse_digest
from wherry_agent.asking import BundlePlace
from wherry_agent.engine import Engine, EngineEvent, EngineSettings, Flipped
from wherry_agent.host import memory_available_bytes, temperature_c
from wherry_agent.serving import ListenSettings, Server
from wherry_agent.telemetry import Recorder

PATIENCE_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("manifest", "blobs", "socket"):
        parser.add_argument(name, type=Path)
    parser.add_argument("bundle")
    asked = parser.parse_args()
    digest = parse_digest(asked.bundle)
    place = BundlePlace(
        digest,
        asked.manifest,
        blobs_folder=asked.blobs,
        manifest=open_manifest(asked.manifest.read_bytes(), digest),
    )
    recorder, events = Recorder(), queue.Queue[EngineEvent]()
    engine = Engine(
        on_event=events.put,
        settings=EngineSettings(),
        recorder=recorder,
        memory_available_bytes=memory_available_bytes,
        temperature_c=temperature_c,
    )
    server = Server(engine, recorder, ListenSettings(socket_path=asked.socket))
    engine.start()
    server.start()
    engine.serve(AliasName("default"), place)
    event = events.get(timeout=PATIENCE_S)
    assert isinstance(event, Flipped), event
    sys.stdout.write("answering\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.close()
    engine.close()


if __name__ == "__main__":
    main()
