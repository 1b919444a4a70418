"""What a worker answers, and how it comes up by itself."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.bundles import (
    a_bundle,
    write_bundle,
)
from wherry.bundle import Bundle
from wherry_agent import frames
from wherry_agent.arena import create_arena
from wherry_agent.bringup import Place


def a_place(bundle: Bundle, folder: Path) -> Place:
    manifest, blobs = write_bundle(bundle, folder)
    return Place(bundle.digest, manifest, blobs)


def read(frame: bytes) -> tuple[frames.Head, bytes]:
    ((head, body),) = frames.Reader().feed(frame)
    return head, body


@pytest.mark.system
def test_a_worker_says_that_it_is_ready_and_ends_with_its_stream(tmp_path: Path) -> None:
    place = a_place(a_bundle(), tmp_path)
    ours, theirs = socket.socketpair()
    arenas = [create_arena(), create_arena()]
    command = [
        *(sys.executable, "-m", "wherry_agent.worker", "--bundle", place.bundle),
        *("--manifest", str(place.manifest), "--blobs", str(place.blobs)),
        *("--socket", str(theirs.fileno()), "--arenas", ",".join(map(str, arenas))),
    ]
    with subprocess.Popen(command, pass_fds=[theirs.fileno(), *arenas]) as process, ours:
        theirs.close()
        ours.settimeout(30)
        head, _ = read(ours.recv(1 << 16))
        assert isinstance(head, frames.Ready)
        ours.close()
        assert process.wait(timeout=30) == 0
