"""What a page for operators tells to do: commands after a prompt, files to save, cells."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"(?:Save this as `(?P<file>[\w./-]+)`[^\n]*\n\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$|"
    r"^#+ (?P<heading>[^\n]+)$",
    re.DOTALL | re.MULTILINE,
)
_PROGRAMS = (
    "/usr/sbin/mosquitto",
    "cat",
    "curl",
    "date",
    "journalctl",
    "kill",
    "podman",
    "sudo",
    "tail",
    "wherry",
    "wherry-agent",
)
_SHELLS = ("", "bash", "sh", "shell")


@dataclass(frozen=True, slots=True)
class Heading:
    text: str


@dataclass(frozen=True, slots=True)
class File:
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Command:
    text: str


def steps_of(page: Path) -> Iterator[Heading | File | Command]:
    """Yield what a page's blocks say, in order, each heading before what stands below it."""
    for found in _BLOCK.finditer(page.read_text()):
        if found["heading"]:
            yield Heading(found["heading"])
        elif found["file"]:
            yield File(found["file"], found["text"])
        elif found["kind"] == "console":
            yield from _commands(found["text"])
        elif found["kind"] in _SHELLS:
            raise ValueError(f"{page.name} has commands without a prompt: {found['text']}")


def commands_in_tables(page: Path) -> list[Command]:
    """Return the commands that cells name in backticks, in order, each once."""
    rows = re.findall(r"^\| .+ \|$", page.read_text(), re.MULTILINE)
    spans = (span for row in rows for span in re.findall(r"`([^`]+)`", row))
    named = (span for span in spans if span.split()[0] in _PROGRAMS and len(span.split()) > 1)
    return [Command(text) for text in dict.fromkeys(named)]


def _commands(block: str) -> Iterator[Command]:
    for line in block.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            yield Command(line.removeprefix("$ "))
