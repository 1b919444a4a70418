"""Tests of a confined process: what it and its children can still do, and where there is none."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from wherry_controller.builder import confine as confining
from wherry_controller.builder.confine import confine, handled_by, without_secrets

pytestmark = pytest.mark.system

# Each attempt answers "done" or what it was refused with.
CHILD = """
import json, os, signal, socket, subprocess, sys, tempfile
from pathlib import Path
from wherry_controller.builder.confine import confine

secret, folder, outside = map(Path, sys.argv[1:])
confined = confine(readable=[folder / "read"], writable=[folder / "write"])

def tried(attempt):
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return "done"

def in_a_child(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode

def compute():
    import torch
    net = torch.nn.Linear(4, 2)
    torch.save(net.state_dict(), folder / "write" / "net.pt")
    torch.nn.Linear(4, 2).load_state_dict(torch.load(folder / "write" / "net.pt"))

print(json.dumps({
    "confined": confined,
    "read a key": tried(lambda: secret.read_bytes()),
    "list the keys": tried(lambda: list(secret.parent.iterdir())),
    "read a key through proc": tried(lambda: Path(f"/proc/self/root{secret}").read_bytes()),
    "read the parent's environment": tried(
        lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes()),
    "kill the parent": tried(lambda: os.kill(os.getppid(), signal.SIGCONT)),
    "connect": tried(lambda: socket.create_connection(("127.0.0.1", 9), 1)),
    "listen": tried(lambda: socket.create_server(("127.0.0.1", 0))),
    "write outside": tried(lambda: (outside / "file").write_bytes(b"x")),
    "write what is only read": tried(lambda: (folder / "read" / "file").write_bytes(b"x")),
    "cut what is only read": tried(lambda: os.truncate(folder / "read" / "given", 0)),
    "read what is given": tried(lambda: (folder / "read" / "given").read_bytes()),
    "write its own": tried(lambda: (folder / "write" / "file").write_bytes(b"x")),
    "make a temporary file": tried(lambda: tempfile.NamedTemporaryFile().close()),
    "use torch": tried(compute),
    "a child reads a key": in_a_child(f"open({str(secret)!r})"),
    "a child writes outside": in_a_child(f"open({str(outside / 'file')!r}, 'w')"),
    "a child runs": in_a_child("import json, ssl, tempfile; tempfile.TemporaryFile().close()"),
    "secrets": [name for name in os.environ if name.startswith("WHERRY_")],
    "temporary folder": tempfile.gettempdir(),
}))
"""
REFUSED, FAILED = "PermissionError", 1


def test_a_confined_process_and_its_children_reach_no_key_and_write_nowhere_else(
    tmp_path: Path,
) -> None:
    folder, keys, outside = (tmp_path / name for name in ("build", "keys", "outside"))
    for path in (folder / "read", folder / "write", keys, outside):
        path.mkdir(parents=True)
    (keys / "key.pem").write_bytes(b"a key")
    (folder / "read" / "given").write_bytes(b"rows")
    command = [sys.executable, "-c", CHILD, str(keys / "key.pem"), str(folder), str(outside)]
    environment = {**os.environ, "WHERRY_DATABASE_URL": "postgresql://secret"}
    done = subprocess.run(command, check=False, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "confined": True,
        "read a key": REFUSED,
        "list the keys": REFUSED,
        "read a key through proc": REFUSED,
        "read the parent's environment": REFUSED,
        "kill the parent": REFUSED,
        "connect": REFUSED,
        "listen": REFUSED,
        "write outside": REFUSED,
        "write what is only read": REFUSED,
        "cut what is only read": REFUSED,
        "read what is given": "done",
        "write its own": "done",
        "make a temporary file": "done",
        "use torch": "done",
        "a child reads a key": FAILED,
        "a child writes outside": FAILED,
        "a child runs": 0,
        "secrets": [],
        "temporary folder": str(folder / "write" / "tmp"),
    }
    assert (folder / "read" / "given").read_bytes() == b"rows"
    assert not list(outside.iterdir())


def test_a_kernel_without_landlock_confines_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHERRY_TOKEN", "secret")
    asked: list[int] = []

    def missing(number: int, *arguments: object) -> int:
        asked.append(number)
        return -errno.ENOSYS

    assert confine(readable=[], writable=[tmp_path], syscall=missing) is False
    assert asked == [confining.CREATE_RULESET]
    assert "WHERRY_TOKEN" not in os.environ


@pytest.mark.parametrize(("version", "size"), [(1, 8), (3, 8), (4, 16), (5, 16), (6, 24), (7, 24)])
def test_an_older_kernel_is_asked_only_for_what_it_knows(version: int, size: int) -> None:
    given: list[bytes] = []

    def create(number: int, attributes: bytes, length: int, flags: int) -> int:
        given.append(attributes[:length])
        return 3

    assert confining._create_ruleset(create, version, handled_by(version)) == 3
    assert len(given[0]) == size
    handled, *more = struct.unpack(f"={size // 8}Q", given[0])
    assert handled == handled_by(version)
    assert more[:1] == [confining.BIND_TCP | confining.CONNECT_TCP][: len(more)]


def test_rights_are_withheld_from_the_version_that_knows_them() -> None:
    assert handled_by(1) == 0b1_1111_1111_1111
    assert handled_by(2) & confining.REFER
    assert not handled_by(2) & confining.TRUNCATE
    assert handled_by(3) == handled_by(7)


def test_an_environment_without_secrets_keeps_the_rest() -> None:
    given = {"WHERRY_TOKEN": "secret", "PATH": "/usr/bin", "LC_WHERRY_": "kept"}
    assert without_secrets(given) == {"PATH": "/usr/bin", "LC_WHERRY_": "kept"}
