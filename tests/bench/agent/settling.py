"""An agent brought to where it rests: one bundle confirmed, a thousand requests answered.

python -m tests.bench.agent.settling begin FOLDER    leaves it and its broker running
python -m tests.bench.agent.settling ask FOLDER      asks it a thousand times more
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.bench.agent import nets
from tests.bench.agent.clients import Wire, binary_request
from tests.bench.agent.lives import a_broker, a_home, deploy
from tests.bench.agent.said import say
from wherry_agent.settings import DEFAULT_SOCKET, ServingSettings

REQUESTS = 1000


def main(word: str, folder: Path) -> None:
    found: dict[str, int] = {}
    if word == "begin":
        folder.mkdir(parents=True)
        broker = a_broker(folder)
        life = a_home(folder, broker, ServingSettings())
        life.begin()
        try:
            deploy(broker, life, nets.a_bundle_of("stored"))
        except BaseException:
            life.end()
            broker.process.kill()
            raise
        found = {"supervisor": life.pid, "broker": broker.process.pid, "worker": life.worker}
    _ask(folder / "home" / DEFAULT_SOCKET)
    say(found)


def _ask(socket: Path) -> None:
    request = binary_request(nets.rows_of("stored"))
    with Wire(socket) as wire:
        for _ in range(REQUESTS):
            wire.ask(request)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
