"""The builder's process: `python -m wherry_controller.builder REQUEST.json`.

    install missing runtimes --> fork --> confine --> build
                                   `- wait, clean up

Stdout carries one JSON message a line and nothing else. Exit status 0 says that the build ended,
with refusals among its messages or without; anything else is a crash. The version's own code runs
only in the fork, which is kept with all its children from everything but the build's own folders
(`confine`); the first process runs none of it.
"""

from __future__ import annotations

import importlib.util
import multiprocessing.util
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

from wherry import codec
from wherry.files import make_folder
from wherry_controller.builder.confine import confine
from wherry_controller.builder.preparing import prepare
from wherry_controller.core.build import BuildRequest, Refused
from wherry_controller.core.fault import BuildReason

LARGEST_REQUEST_BYTES = 4 << 20
# Jobs are forked, which keeps one thread only: onnxruntime's telemetry would start others.
SINGLE = {"ORT_DISABLE_TELEMETRY": "1"}
EVERY_BUILD_NEEDS = "onnx"
NO_BUILDERS = Refused(
    BuildReason.RUNTIME_MISSING,
    f"this controller has no builders ({EVERY_BUILD_NEEDS} is not installed): build where "
    "`pip install 'wherry-controller[builder]'` was run, and carry the bundle here with "
    "`wherry bundle export` and `wherry bundle import`.",
)


def main() -> int:
    answers = _keep_stdout_apart()
    sys.dont_write_bytecode = True  # The version's folder stays as it is.
    os.environ.update(SINGLE)
    data = Path(sys.argv[1]).read_bytes()
    request = codec.decode(BuildRequest, data, limit_bytes=LARGEST_REQUEST_BYTES)
    if importlib.util.find_spec(EVERY_BUILD_NEEDS) is None:
        answers.write(codec.encode(NO_BUILDERS) + b"\n")
        return 0
    request, refused = prepare(request)
    for refusal in refused:
        answers.write(codec.encode(refusal) + b"\n")
    return _build_apart(request, answers) if request.profiles else 0


def _build_apart(request: BuildRequest, answers: BinaryIO) -> int:
    """Build in a fork; return its exit status."""
    # Jobs are asked for through a socket, whose path may have 107 bytes: it lies in no deep folder.
    first, sockets = os.getpid(), Path(tempfile.mkdtemp(prefix="wherry-"))
    try:
        child = os.fork()
        if child == 0:
            # Ends with `SystemExit`, so that what multiprocessing left is cleaned up here too.
            sys.exit(_build(request, sockets, answers))
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        if os.getpid() == first:
            shutil.rmtree(sockets, ignore_errors=True)


def _build(request: BuildRequest, sockets: Path, answers: BinaryIO) -> int:
    _confine(request, sockets)
    from wherry_controller.builder.build import build  # Its stages load torch and the runtimes.

    answers.writelines(codec.encode(message) + b"\n" for message in build(request))
    return 0


def _confine(request: BuildRequest, sockets: Path) -> None:
    written = [Path(request.output), Path(request.cache)]
    read = [Path(request.folder), Path(request.runtimes), *map(Path, request.previous.values())]
    for folder in (*written, Path(request.runtimes)):
        make_folder(folder)
    tempfile.tempdir = str(sockets)
    multiprocessing.util.get_temp_dir()
    tempfile.tempdir = None
    if not confine(readable=read, writable=[*written, sockets]):
        sys.stderr.write("this kernel has no Landlock: the version's code is not confined\n")


def _keep_stdout_apart() -> BinaryIO:
    """Send all that torch, converters and the user's net print to stderr; return stdout."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    sys.exit(main())
