"""An engine with its local API in a process of its own, which orders are said to line by line.

    python -m tests.bench.agent.hosting FOLDER

    load DIGEST | serve DIGEST | retire      on standard input
    {"event": "Loaded", "bundle": …}         on standard output, each with the machine's time

It imports what a supervisor imports and no more, so that its memory is the supervisor's. Bundles
stand in FOLDER as `nets.write` leaves them; the socket is FOLDER/api.sock.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from wherry.manifest import open_manifest
from wherry.messages import SwapPolicy
from wherry.names import AliasName, DeploymentId, parse_digest
from wherry_agent import host
from wherry_agent.asking import BundlePlace
from wherry_agent.engine import Engine, EngineEvent, EngineSettings
from wherry_agent.serving import ListenSettings, Server
from wherry_agent.telemetry import Recorder

ALIAS = AliasName("default")
SOCKET = "api.sock"


def main(folder: Path) -> None:
    recorder = Recorder()
    engine = Engine(
        on_event=_tell,
        settings=EngineSettings(),
        recorder=recorder,
        memory_available_bytes=host.memory_available_bytes,
        temperature_c=lambda: None,
    )
    server = Server(engine, recorder, ListenSettings(socket_path=folder / SOCKET))
    engine.start()
    server.start()
    try:
        for number, line in enumerate(sys.stdin):
            _follow(engine, folder, line.split(), number)
    finally:
        server.close()
        engine.close()


def _follow(engine: Engine, folder: Path, words: list[str], number: int) -> None:
    match words:
        case ["load", bundle]:
            deployment = DeploymentId(f"d-{number}")
            engine.load(ALIAS, deployment, _place(folder, bundle), SwapPolicy.AVAILABILITY)
        case ["serve", bundle]:
            engine.serve(ALIAS, _place(folder, bundle))
        case ["retire"]:
            engine.retire(ALIAS)
        case _:
            raise ValueError(words)


def _place(folder: Path, bundle: str) -> BundlePlace:
    digest = parse_digest(bundle)
    path = folder / f"{digest}.json"
    manifest = open_manifest(path.read_bytes(), digest)
    return BundlePlace(digest, path, blobs_folder=folder / "blobs", manifest=manifest)


def _tell(event: EngineEvent) -> None:
    told = {"event": type(event).__name__, "bundle": event.bundle, "at_ns": time.monotonic_ns()}
    sys.stdout.write(json.dumps({**told, "detail": getattr(event, "detail", "")}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
