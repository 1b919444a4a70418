"""A process with a fork server and a worker, which says their pids and waits to be killed.

python -m tests.agent.forked MANIFEST BLOBS
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from pathlib import Path

from tests.agent.test_runners import ALIAS, Listener
from wherry.manifest import open_manifest
from wherry.names import parse_digest
from wherry_agent import link
from wherry_agent.asking import Bringing, BundlePlace
from wherry_agent.forks import Forks


async def main(manifest: Path, blobs: Path) -> None:
    forks, listener = Forks(), Listener()
    start = partial(link.start_runner, start_process=forks.start_process)
    digest = parse_digest(manifest.stem)
    opened = open_manifest(manifest.read_bytes(), digest)
    place = BundlePlace(digest, manifest, blobs_folder=blobs, manifest=opened)
    runner = start(ALIAS, place, listener, Bringing())
    await listener.next("ready")
    sys.stdout.write(f"{forks.pid} {runner.pid}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
