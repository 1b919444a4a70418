"""The `wherry` command as its user has it: words in; exit status, stdout and stderr out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.controller.served import TOKEN, Served
from wherry_controller.cli import main


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        document = json.loads(self.out)
        assert isinstance(document, dict)
        return document

    @property
    def listed(self) -> list[dict[str, object]]:
        document = json.loads(self.out)
        assert isinstance(document, list)
        return document

    @property
    def items(self) -> list[dict[str, object]]:
        items = self.json["items"]
        assert isinstance(items, list)
        return items


Wherry: TypeAlias = Callable[..., Ran]


@pytest.fixture
def wherry(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Wherry:
    """Run `wherry` as a user without a login whose terminal is wide."""
    for name in ("WHERRY_URL", "WHERRY_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "300")

    def run(*words: str | Path) -> Ran:
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        said = capsys.readouterr()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Ran(code or 0, said.out, said.err)

    return run


@pytest.fixture
def online(wherry: Wherry, served: Served, monkeypatch: pytest.MonkeyPatch) -> Wherry:
    """Run `wherry` with a controller that the environment names."""
    monkeypatch.setenv("WHERRY_URL", served.url)
    monkeypatch.setenv("WHERRY_TOKEN", TOKEN)
    return wherry
