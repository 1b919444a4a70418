"""Tests of what a build says, and of why it refuses."""

from __future__ import annotations

import pytest

from tests.builders import a_blob, a_digest
from wherry import codec
from wherry.codec import BadDocument
from wherry.names import parse_profile_name
from wherry_controller.core.build import (
    BuildMessage,
    BuildStep,
    Built,
    Kept,
    Offered,
    Progress,
    Refused,
    log_file,
    manifest_file,
    offer_file,
    parse_message,
)
from wherry_controller.core.choice import ProfileReport
from wherry_controller.core.fault import REMEDIES, BuildReason, BuildRefused, Fault

PROFILE = parse_profile_name("x86-onnx-fp32")
REPORT = ProfileReport(
    profile=PROFILE,
    runtime="onnxruntime 1.31.1",
    metric="accuracy",
    candidates=(),
    chosen="fp32",
    why="it is the only one",
)
MESSAGES = (
    Progress(BuildStep.LOADING, 0, 13),
    Progress(BuildStep.PACKING, 4, 13, PROFILE),
    Kept(a_blob(b"weights")),
    Offered(PROFILE, "int8-s8s8", a_digest()),
    Built(PROFILE, a_digest(), REPORT),
    Refused(BuildReason.BELOW_FLOOR, "a sentence."),
    Refused(BuildReason.OVER_BUDGET, "a sentence.", PROFILE, REPORT),
)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_survives_its_line(message: BuildMessage) -> None:
    assert parse_message(codec.encode(message)) == message


@pytest.mark.parametrize("line", [b"no json", b"{}", b'{"kind":"else"}', b"[]"])
def test_any_other_line_is_refused(line: bytes) -> None:
    with pytest.raises(BadDocument, match="build message"):
        parse_message(line)


def test_every_reason_has_a_remedy_and_every_sentence_ends_with_it() -> None:
    assert set(REMEDIES) == set(BuildReason)
    for known in BuildReason:
        assert str(BuildRefused(Fault(known, "it is so"))) == f"it is so: {REMEDIES[known]}."


def test_what_a_build_writes_has_names_that_do_not_meet() -> None:
    names = {manifest_file(PROFILE), offer_file(PROFILE, "fp32"), log_file(PROFILE), log_file(None)}
    assert len(names) == 4
