"""The builder's process: `python -m wherry_controller.builder REQUEST.json`.

Stdout carries one JSON message a line and nothing else. Exit status 0 says that the build ended,
with refusals among its messages or without; anything else is a crash. Before any of the version's
own code is loaded, the process and all its children are kept from everything but the build's own
folders (`confine`).
"""

from __future__ import annotations

import multiprocessing.util
import os
import sys
from pathlib import Path
from typing import BinaryIO

from wherry import codec
from wherry.files import make_folder
from wherry_controller.builder.confine import confine
from wherry_controller.core.build import BuildRequest

LARGEST_REQUEST_BYTES = 4 << 20
# Jobs are forked, which keeps one thread only: onnxruntime's telemetry would start others.
SINGLE = {"ORT_DISABLE_TELEMETRY": "1"}


def main() -> int:
    answers = _keep_stdout_apart()
    sys.dont_write_bytecode = True  # The version's folder stays as it is.
    os.environ.update(SINGLE)
    data = Path(sys.argv[1]).read_bytes()
    request = codec.decode(BuildRequest, data, limit_bytes=LARGEST_REQUEST_BYTES)
    _confine(request)
    from wherry_controller.builder.build import build  # Its stages load torch and the runtimes.

    for message in build(request):
        answers.write(codec.encode(message) + b"\n")
    return 0


def _confine(request: BuildRequest) -> None:
    written = [Path(folder) for folder in (request.output, request.cache, request.runtimes)]
    for folder in written:
        make_folder(folder)
    # Jobs are asked for through a socket, whose path may have 107 bytes: it lies in no deep folder.
    written.append(Path(multiprocessing.util.get_temp_dir()))
    read = [Path(request.folder), *(Path(folder) for folder in request.previous.values())]
    if not confine(readable=read, writable=written):
        sys.stderr.write("this kernel has no Landlock: the version's code is not confined\n")


def _keep_stdout_apart() -> BinaryIO:
    """Send all that torch, converters and the user's net print to stderr; return stdout."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    sys.exit(main())
