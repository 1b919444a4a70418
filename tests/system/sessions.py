"""A shell that an operator types into: commands one after another, jobs in the background too."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.controller.cli.conftest import Ran
from tests.system.sites import PROGRAMS

_END = "--- ended with"
_REPLY = "reply"
LONGEST_S = 60


class Session:
    """A bash in a folder of its own; what a job prints without a redirection goes to nobody."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        path = f"{PROGRAMS}:{_path_of_an_ordinary_user()}"
        self._shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "HOME": str(folder), "PATH": path, "COLUMNS": "300", **environment},
        )
        self.run("set -m")

    def run(self, command: str, reply: str = "") -> Ran:
        """Type a command and return what came of it; `reply` is on its standard input."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        (self._folder / _REPLY).write_text(reply)
        self._shell.stdin.write(f"{{ {command}\n}} < {_REPLY}; printf '\\n%s %s\\n' '{_END}' $?\n")
        self._shell.stdin.flush()
        said: list[str] = []
        for line in self._shell.stdout:
            if line.startswith(_END):
                return Ran(int(line.split()[-1]), "".join(said), "")
            said.append(line)
        raise AssertionError(f"the shell ended in: {command}\n{''.join(said)}")

    def close(self) -> None:
        """End the jobs, then the shell."""
        self.run("kill $(jobs -p) 2> /dev/null; wait")
        assert self._shell.stdin is not None
        self._shell.stdin.close()
        try:
            self._shell.wait(LONGEST_S)
        finally:
            if self._shell.poll() is None:
                os.killpg(self._shell.pid, signal.SIGKILL)
            assert self._shell.stdout is not None
            self._shell.stdout.close()


def _path_of_an_ordinary_user() -> str:
    """Return where programs are looked for here, less what Debian leaves to root."""
    places = os.environ["PATH"].split(":")
    return ":".join(place for place in places if Path(place).name != "sbin")


@contextmanager
def a_session(folder: Path, environment: Mapping[str, str]) -> Iterator[Session]:
    session = Session(folder, environment)
    try:
        yield session
    finally:
        session.close()
