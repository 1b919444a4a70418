"""What an agent at rest takes: its memory after ten minutes, and the processor until then.

    python -m tests.bench.agent.resting [--quick]

The agent is connected by TLS, has verified its order and serves one model with 5 MB of weights; it
was asked a thousand times before, and is again after. A child (`settling`) brings that about and
ends, and this process imports nothing but the standard library: pages that other Pythons of the
bench hold too would lessen the supervisor's share.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

from tests.bench.agent.processes import (
    cpu_s,
    device_environment,
    fork_server_of,
    memory_of,
    tree_of,
    workers_of,
)
from tests.bench.agent.said import SCRATCH, is_quick, say

REST_S, QUICK_REST_S = 600.0, 30.0
_IMPORTS = "import wherry_agent.app, sys; print(flush=True); sys.stdin.read()"


def main() -> None:
    folder = SCRATCH / "resting"
    shutil.rmtree(folder, ignore_errors=True)
    settled = _settling("begin", str(folder))
    supervisor, broker = settled["supervisor"], settled["broker"]
    try:
        (worker,) = workers_of(supervisor)
        began_s, used_s = time.monotonic(), _used_s(supervisor)
        time.sleep(QUICK_REST_S if is_quick() else REST_S)
        used_s = _used_s(supervisor) - used_s
        idle_percent = 100 * used_s / (time.monotonic() - began_s)
        _settling("ask", str(folder))
        memory, of_worker = memory_of(supervisor), memory_of(worker)
        of_fork_server = memory_of(fork_server_of(supervisor))
    finally:
        for pid in (supervisor, broker):
            os.kill(pid, signal.SIGTERM)
    say(
        {
            "supervisor_rss": memory.rss_mb,
            "supervisor_pss": memory.pss_mb,
            "supervisor_imports_rss": _imports_mb(),
            "worker": of_worker.rss_mb,
            "worker_pss": of_worker.pss_mb,
            "fork_server_pss": of_fork_server.pss_mb,
            "idle_cpu_percent": idle_percent,
        }
    )


def _used_s(supervisor: int) -> float:
    return sum(map(cpu_s, tree_of(supervisor)))


def _settling(*words: str) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.bench.agent.settling", *words]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=120).stdout
    found: dict[str, int] = json.loads(said.splitlines()[-1])
    return found


def _imports_mb() -> float:
    """Return the memory of a Python that has imported what a supervisor imports, and no more."""
    command = [sys.executable, "-c", _IMPORTS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=device_environment()
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found_mb = memory_of(process.pid).rss_mb
        process.kill()
    return found_mb


if __name__ == "__main__":
    main()
