"""TLS as a device speaks it, whatever its clock says, with a real mosquitto."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from tests.agent.agents import PATIENCE_S
from tests.agent.secured import Secured, a_home, a_secured_mosquitto
from tests.brokers import a_mosquitto
from tests.certificates import NOW, an_authority
from tests.handshakes import a_server, shake_hands
from wherry_agent.tls import context_of

pytestmark = pytest.mark.system

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Dialled:
    """What came of dialling a broker."""

    year: int
    news: list[str]
    why: list[str]
    verdicts: list[str]
    ends: list[float]


HEARD = ["up", "talk hello"]


def dial(
    home: Path, port: int, *, clock: str | None = None, host: str = "127.0.0.1", floor: float = 0.0
) -> Dialled:
    """Dial as the device of a home, in a process whose clock is set to `clock`."""
    command = [sys.executable, "-m", "tests.agent.dialling", str(home), host, str(port), str(floor)]
    faked = [] if clock is None else ["faketime", "-m", clock]
    done = subprocess.run(
        [*faked, *command], check=True, capture_output=True, cwd=REPOSITORY, timeout=PATIENCE_S
    )
    return Dialled(**json.loads(done.stdout))


def refusal_of(home: Path, port: int) -> str:
    """Dial, and return why the broker was refused; nothing was said to it."""
    dialled = dial(home, port)
    assert (dialled.news, dialled.verdicts) == (["down"], [])
    (why,) = dialled.why
    return why


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with a_secured_mosquitto(tmp_path_factory.mktemp("secured")) as broker:
        yield broker


def test_a_device_connects_and_talks(broker: Secured, tmp_path: Path) -> None:
    dialled = dial(broker.home_of(tmp_path), broker.port)
    assert (dialled.news, dialled.verdicts) == (HEARD, ["sound"])
    assert dialled.ends == [(NOW + timedelta(days=30)).timestamp()]


def test_a_device_whose_clock_is_at_1970_connects(broker: Secured, tmp_path: Path) -> None:
    dialled = dial(broker.home_of(tmp_path), broker.port, clock="1970-01-02 00:00:00")
    assert dialled.year == 1970
    assert (dialled.news, dialled.verdicts) == (HEARD, ["sound"])


def test_a_device_whose_clock_is_at_2100_connects_and_says_so(
    broker: Secured, tmp_path: Path
) -> None:
    dialled = dial(broker.home_of(tmp_path), broker.port, clock="2100-01-02 00:00:00")
    assert dialled.year == 2100
    assert (dialled.news, dialled.verdicts) == (HEARD, ["clock_ahead"])


def test_a_certificate_that_is_proved_to_have_ended_is_refused_at_any_clock(
    tmp_path: Path,
) -> None:
    authority = an_authority()
    ended = authority.issue_server(begins=NOW - timedelta(days=40), ends=NOW - timedelta(days=10))
    with a_secured_mosquitto(tmp_path, authority, ended) as broker:
        home = broker.home_of(tmp_path / "home")
        for clock in ("1970-01-02 00:00:00", "2100-01-02 00:00:00"):
            proved = (NOW - timedelta(days=9)).timestamp()
            dialled = dial(home, broker.port, clock=clock, floor=proved)
            assert (dialled.news, dialled.verdicts) == (["down"], ["expired"])
        assert dial(home, broker.port, floor=0.0).verdicts == ["clock_ahead"]


def test_a_broker_of_another_authority_is_refused(broker: Secured, tmp_path: Path) -> None:
    home = a_home(tmp_path, an_authority(), broker.authority.issue_client("one"))
    assert "self-signed certificate in certificate chain" in refusal_of(home, broker.port)


def test_a_broker_of_another_name_is_refused(tmp_path: Path) -> None:
    authority = an_authority()
    elsewhere = authority.issue_server(["broker.example"])
    with a_secured_mosquitto(tmp_path, authority, elsewhere) as broker:
        why = refusal_of(broker.home_of(tmp_path / "home"), broker.port)
    assert "IP address mismatch" in why


def test_a_device_that_poses_as_the_broker_is_refused(tmp_path: Path) -> None:
    authority = an_authority()
    posing = authority.issue_client("one", names=["127.0.0.1"])
    with a_secured_mosquitto(tmp_path, authority, posing) as broker:
        why = refusal_of(broker.home_of(tmp_path / "home"), broker.port)
    assert "unsuitable certificate purpose" in why


def test_a_broker_that_knows_no_tls_1_3_is_refused(tmp_path: Path) -> None:
    authority = an_authority()
    home = a_home(tmp_path / "home", authority, authority.issue_client("one"))
    server = a_server(tmp_path, authority.issue_server())
    shake_hands(context_of(home), server)
    server.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported protocol|protocol version"):
        shake_hands(context_of(home), server)


def test_a_broker_without_tls_is_not_spoken_to(tmp_path: Path) -> None:
    with a_mosquitto(tmp_path) as plain:
        authority = an_authority()
        home = a_home(tmp_path / "home", authority, authority.issue_client("one"))
        assert refusal_of(home, plain.port)
