"""Types each command of docs/containers.md, on images of this checkout, and looks in between."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.controller.cli.test_serving import PROFILES, a_card
from tests.machines.images_base import FOLDER, MAKE_S, podman, podman_tried
from tests.machines.nspawn import Wrong, until
from tests.pages import Command, File, Heading, steps_of
from tests.system.sessions import Session
from tests.system.sites import REPOSITORY

PAGE = REPOSITORY / "docs/containers.md"
# What this check has done before, or cannot do without systemd.
ELSEWHERE = (
    "make images",
    "source .venv/bin/activate",
    "pip install 'podman-compose>=1.6,<2'",
    "sudo systemctl enable podman-restart",
)
TRAINED = FOLDER / "images-version"
START_S = 180.0
DEVICE, PROFILE = "line-1", "x86-onnx-fp32"
CONTROLLER, BROKER, DATABASE = "wherry_controller_1", "wherry-broker", "wherry_database_1"
INSIDE = "podman-compose exec -T controller"
TOOLS = f"{REPOSITORY / 'pyproject.toml'}:containers"
# What the page cannot know: the name of it, what prints it, how it looks there.
_TOKEN = r"Its token is shown this once:\n(\S+)"
_ENROLMENT = r"(wt1\.\S+)"


@dataclass
class Story:
    """Who reads the page and types; `looks` are what is looked at before a heading."""

    folder: Path
    session: Session
    looks: dict[str, Callable[[], None]]
    token: str = ""
    enrolment: str = ""
    typed: list[str] = field(default_factory=list)

    def tell(self) -> int:
        """Type the whole page; return how many commands it was."""
        for step in steps_of(PAGE):
            if isinstance(step, Heading):
                self.looks.get(step.text, _nothing)()
            elif isinstance(step, File):
                (self.folder / step.name).write_text(step.text)
            elif step.text not in ELSEWHERE:
                self.type(step)
        return len(self.typed)

    def type(self, command: Command) -> str:
        """Type a command, which has to succeed; return what it printed."""
        self._prepare(command.text)
        here = self._here(command.text)
        ran = self.session.run(here, self._reply(here))
        if ran.status:
            raise Wrong(f"`{here}` ended with {ran.status}:\n{ran.out[-2000:]}")
        self.typed.append(command.text)
        if found := re.search(_TOKEN, ran.out):
            self.token = found[1]
        if found := re.search(_ENROLMENT, ran.out):
            self.enrolment = found[1] + "\n"
        self._wait(command.text)
        return ran.out

    def _reply(self, command: str) -> str:
        """Return what a command that asks for a token is told."""
        if " wherry login " in command:
            return f"{self.token}\n"
        return self.enrolment if "--token -" in command else ""

    def inside(self, command: str) -> str:
        """Run a command of the operator in the controller's container."""
        return self.type(Command(f"{INSIDE} {command}"))

    def _here(self, text: str) -> str:
        text = text.replace("factory.example.org", "127.0.0.1")
        return text.replace("raspberry-pi-5", PROFILE)

    def _prepare(self, command: str) -> None:
        """Bring what the page takes for granted: a version and its profile."""
        if command.startswith("tar --create v1"):
            make_version(self.folder / "v1")
            profile = PROFILES / f"{PROFILE}.toml"
            self.type(Command(f"{INSIDE} sh -c 'cat > /tmp/{PROFILE}.toml' < {profile}"))
            self.inside(f"wherry profile add /tmp/{PROFILE}.toml")

    def _wait(self, command: str) -> None:
        """Wait where a reader would look first."""
        if command == "podman-compose up --detach database":
            until(lambda: is_healthy(DATABASE), "the database does not become healthy")
        elif command in ("podman-compose up --detach", "podman-compose start controller"):
            until(lambda: is_healthy(BROKER), "the broker does not become healthy")
            until(lambda: is_healthy(CONTROLLER), "the controller does not become healthy", START_S)
        elif command.startswith("podman run --detach"):
            until(self._answers, "the agent does not answer")

    def _answers(self) -> bool:
        return "running     True" in podman("exec", DEVICE, "wherry-agent", "status")


def make_version(folder: Path) -> None:
    """Write a version that was trained once, and its card."""
    if not TRAINED.exists():
        part = TRAINED.with_suffix(".part")
        part.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "tests.controller.builder.digits", str(part)]
        subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
        part.rename(TRAINED)
    shutil.copytree(TRAINED, folder)
    (folder / "model.toml").write_text(a_card("v1"))


def is_healthy(container: str) -> bool:
    """Run the container's own check; podman does it by itself only where systemd runs."""
    return podman_tried("healthcheck", "run", container).returncode == 0


def install_tools(folder: Path) -> None:
    """Put podman-compose and CycloneDX's schemas into a folder of their own."""
    if not folder.exists():
        part = folder.with_suffix(".part")
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        pins = ["--constraint", str(REPOSITORY / "constraints.txt")]
        words = [*pip, *pins, "--target", str(part), "--group", TOOLS]
        subprocess.run(words, check=True, timeout=MAKE_S, stderr=subprocess.DEVNULL)
        part.rename(folder)


def programs(folder: Path, tools: Path) -> Path:
    """Write `podman-compose` as a program; return the folder to be looked into for it."""
    found = folder / "bin"
    shutil.rmtree(found, ignore_errors=True)
    found.mkdir()
    program = found / "podman-compose"
    script = f'PYTHONPATH={tools} exec {sys.executable} {tools}/podman_compose.py "$@"'
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return found


def _nothing() -> None:
    pass
