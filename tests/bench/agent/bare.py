"""A model run by onnxruntime alone: each number on standard input is how often, times come back.

python -m tests.bench.agent.bare NAME MODEL.onnx
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.bench.agent import nets


def main(name: str, model: Path) -> None:
    session, rows = nets.session_of(model), nets.rows_of(name)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            began = time.perf_counter_ns()
            session.run(["y"], {"x": rows})
            times.append(time.perf_counter_ns() - began)
        sys.stdout.write(" ".join(map(str, times)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
