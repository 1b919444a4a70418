"""What commands print is text, whoever wrote it."""

from __future__ import annotations

import pytest

from wherry_controller.cli import show

STEERING = "Pi\x1b[2A\x9b2K\rfingerprint\u202e  0000\x07"


def test_what_a_stranger_says_of_itself_steers_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show.facts([("fingerprint", "beef"), ("model", STEERING + "\nfingerprint  0000")])
    show.line(STEERING)
    show.table(("model",), [(STEERING,)])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    harmless = "Pi[2A2Kfingerprint  0000"
    assert lines == [
        "fingerprint  beef",
        f"model        {harmless}fingerprint  0000",
        harmless,
        "model",
        harmless,
    ]


def test_a_name_between_colons_is_no_picture(capsys: pytest.CaptureFixture[str]) -> None:
    show.table(("deployment",), [("v4:1:back",)])
    show.line("v4:1:back")
    show.facts([("deployment", "v4:1:back")])
    assert capsys.readouterr().out.count("v4:1:back") == 3
