"""Golden vectors of a device's papers: what was kept is accepted, and written again as it was."""

from __future__ import annotations

from pathlib import Path

from tests.vectors.cases import Case, read
from wherry import codec
from wherry.enrolment import Enrolled, EnrolRequest
from wherry_agent.identity import accept
from wherry_agent.papers import Asked, Papers, read_papers
from wherry_agent.settings import IDENTITY_FILE, Identity, read_identity


def texts(name: str) -> dict[str, bytes]:
    return {case.name: case.text.encode() for case in read(f"{name}.json", Case)}


def test_a_kept_answer_is_accepted_and_leaves_the_kept_identity(tmp_path: Path) -> None:
    pem = texts("papers")
    request = codec.decode(EnrolRequest, texts("enrol")["with_a_token"])
    answer = codec.decode(Enrolled, texts("enrolled")["by_default"])
    asked = Asked(pem["key"], request.csr.encode())
    same = codec.decode(Identity, texts("identity")["default"])
    accept(tmp_path, asked, answer, pem["ca"], renews=same)
    assert (tmp_path / IDENTITY_FILE).read_bytes() == texts("identity")["default"]
    assert read_papers(tmp_path) == Papers(
        key=pem["key"], certificate=answer.certificate.encode(), ca=pem["ca"]
    )
    assert read_identity(tmp_path).device == answer.device
