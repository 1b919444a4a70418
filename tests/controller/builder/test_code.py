"""Tests of functions that are imported from a version's own files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wherry_controller.builder.code import load_function
from wherry_controller.core.fault import BuildReason, BuildRefused


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what imports leave behind in this process."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield
    sys.modules.pop("antigravity", None)


def test_a_function_is_found_and_takes_arguments(tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("def score(one, *, other):\n    return one + other\n")
    assert load_function(tmp_path, "score.py:score")(1, other=2) == 3


def test_modules_beside_the_file_can_be_imported_and_come_first(tmp_path: Path) -> None:
    (tmp_path / "antigravity.py").write_text("VALUE = 7\n")
    (tmp_path / "rows.py").write_text(
        "import antigravity\n\n\ndef rows():\n    return antigravity.VALUE\n"
    )
    assert load_function(tmp_path, "rows.py:rows")() == 7


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("import a_module_that_nobody_has\n", "ModuleNotFoundError"),
        ("import sys\n\nsys.exit(3)\n", "SystemExit"),
        ("def make(:\n", "SyntaxError"),
        ("make = 3\n", "no function 'make'"),
        ("", "no function 'make'"),
    ],
)
def test_code_that_gives_no_function_is_refused_by_name(
    tmp_path: Path, content: str, words: str
) -> None:
    (tmp_path / "net.py").write_text(content)
    with pytest.raises(BuildRefused) as refusal:
        load_function(tmp_path, "net.py:make")
    assert refusal.value.fault.reason is BuildReason.FACTORY_NOT_IMPORTABLE
    assert words in refusal.value.fault.problem


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BuildRefused) as refusal:
        load_function(tmp_path, "net.py:make")
    assert refusal.value.fault.reason is BuildReason.FACTORY_NOT_IMPORTABLE
