"""`wherry-agent enrol` and the renewal child, at real doors: what a device does from its first day.

The doors are a controller's own; the device's commands are processes, as on a device.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.controller.doors import (
    DAY_S,
    PI,
    Guarded,
    fingerprint_of_ca,
    guarded_doors,
    name_in,
)
from wherry_agent.identity import ask
from wherry_agent.papers import ASKED, read_asked, read_papers
from wherry_agent.settings import read_identity, read_root, read_settings
from wherry_controller.authority import ca_fingerprint, make_authority
from wherry_controller.services.admission import Policy
from wherry_controller.store import identities

pytestmark = pytest.mark.system

Ran = subprocess.CompletedProcess[str]
PATIENCE_S = 60.0


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Guarded]:
    with guarded_doors(tmp_path) as doors:
        yield doors


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def enrol(here: Guarded, home: Path, *words: str, stdin: str = "") -> Ran:
    return run(
        "wherry_agent", "enrol", "--home", str(home), "--controller", here.url, *words, stdin=stdin
    )


def run(*words: str, stdin: str = "", clock: str | None = None) -> Ran:
    fake = ["faketime", "-f", clock] if clock else []
    return subprocess.run(
        [*fake, sys.executable, "-m", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={k: v for k, v in os.environ.items() if k != "WHERRY_AGENT_HOME"},
        check=False,
    )


def renew(home: Path, *, floor: float = 0.0, clock: str | None = None) -> dict[str, object]:
    ran = run("wherry_agent.identity", str(home), "--floor", str(floor), clock=clock)
    assert ran.returncode == 0, ran.stderr
    told: dict[str, object] = json.loads(ran.stdout)
    return told


def refused(ran: Ran, *parts: str) -> None:
    assert ran.returncode == 1, ran
    line = ran.stderr.splitlines()[-1]
    assert line.startswith("wherry-agent: ")
    for part in parts:
        assert part in line


def test_a_token_makes_a_home_a_devices(here: Guarded, home: Path) -> None:
    ran = enrol(here, home, "--token", here.a_token(), "--port", "8500")
    assert ran.returncode == 0, ran.stderr
    first, second, last = ran.stdout.splitlines()
    assert first.startswith(f"{here.url} is the controller that was meant")
    assert "the agent renews it by itself" in second
    assert last == f"pi-1 is enrolled in {home}: next, `wherry-agent run --home {home}`."
    identity, settings = read_identity(home), read_settings(home)
    assert (identity.device, identity.epoch) == (PI, 1)
    assert settings.controller == here.url
    assert settings.broker == "mqtts://broker.example"
    assert settings.blobs == "https://controller.example:8323"
    assert settings.api.port == 8500
    assert read_root(home)
    papers = read_papers(home)
    assert name_in(papers.certificate.decode()) == PI
    assert papers.ca.decode() == here.ca_file.read_text()
    assert (home / "identity" / "key.pem").stat().st_mode & 0o777 == 0o600
    assert not (home / ASKED).exists()


def test_a_token_on_standard_input_stays_out_of_the_list_of_processes(
    here: Guarded, home: Path
) -> None:
    assert enrol(here, home, "--token", "-", stdin=here.a_token() + "\n").returncode == 0


def test_a_token_of_another_controller_is_kept_from_the_door(here: Guarded, home: Path) -> None:
    head, secret, _ = here.a_token().split(".")
    other = ca_fingerprint(make_authority(here.now))
    before = here.state()
    refused(
        enrol(here, home, "--ca-fingerprint", other),
        "it is another controller, or someone between you and it",
    )
    refused(enrol(here, home, "--token", f"{head}.{secret}.{'A' * 43}"), "another controller")
    assert here.state() == before
    assert not home.exists()


def test_a_used_token_is_refused_and_the_home_stays_as_it_was(here: Guarded, home: Path) -> None:
    token = here.a_token()
    enrol(here, home.with_name("first"), "--token", token)
    refused(enrol(here, home, "--token", token), "has enrolled pi-1 already", "device revoke")
    assert not (home / "agent.toml").exists()


def test_a_lost_answer_is_asked_for_again(here: Guarded, home: Path, tmp_path: Path) -> None:
    token = here.a_token()
    enrol(here, home, "--token", token)
    serial = read_identity(home).serial
    lost = tmp_path / "lost"  # The same key and request, and no answer.
    (lost / ASKED).mkdir(parents=True)
    (lost / ASKED / "key.pem").write_bytes(read_papers(home).key)
    assert read_asked(lost) is None
    refused(enrol(here, lost, "--token", token), "already")
    assert read_identity(home).serial == serial


def test_an_enrolment_that_broke_off_at_the_disk_is_begun_again_with_the_same_token(
    here: Guarded, home: Path
) -> None:
    token, in_the_way = here.a_token(), home / "trust"
    home.mkdir()
    in_the_way.touch()
    assert enrol(here, home, "--token", token).returncode != 0
    assert not (home / "identity").exists()  # No papers of an epoch without its root.
    in_the_way.unlink()
    assert enrol(here, home, "--token", token).returncode == 0
    assert list(here.serials_of().items()) == [(read_identity(home).serial, True)]
    assert read_root(home)
    assert not (home / ASKED).exists()


def test_a_request_whose_certificate_was_revoked_before_it_came_is_not_made_again(
    here: Guarded, home: Path
) -> None:
    assert here.send(ask(home).request.decode(), here.a_token()).status_code == 200
    here.identities.revoke(PI, now=here.now)
    token = here.a_token()
    refused(enrol(here, home, "--token", token), "is revoked: enrol it again")
    assert enrol(here, home, "--token", token).returncode == 0
    assert read_identity(home).epoch == 2


def test_a_home_of_one_device_becomes_no_other(here: Guarded, home: Path) -> None:
    enrol(here, home, "--token", here.a_token())
    refused(enrol(here, home, "--token", here.a_token(), "--id", "pi-2"), "it enrols pi-1")


def test_enrolling_again_gives_the_home_the_next_epoch(here: Guarded, home: Path) -> None:
    enrol(here, home, "--token", here.a_token())
    assert enrol(here, home, "--token", here.a_token()).returncode == 0
    assert read_identity(home).epoch == 2
    assert [path.name for path in home.glob("identity-*")] == [
        f"identity-{read_identity(home).serial}"
    ]


def test_a_key_waits_until_an_operator_approves_it(here: Guarded, home: Path) -> None:
    approved = threading.Thread(target=_approve_the_first, args=(here,))
    approved.start()
    ran = enrol(here, home, "--ca-fingerprint", fingerprint_of_ca(here))
    approved.join()
    assert ran.returncode == 0, ran.stderr
    assert "wherry device approve" in ran.stdout
    assert read_identity(home).device == PI


def _approve_the_first(here: Guarded) -> None:
    pause = threading.Event()
    while not (found := _waiting(here)):
        pause.wait(0.02)
    here.decide(lambda desk: desk.identities.admission.approve(found[0], PI, now=desk.now))


def _waiting(here: Guarded) -> list[str]:
    with here.store.reading() as tx:
        return [one.fingerprint for one in identities.list_pending(tx)]


def test_nobody_is_waited_for_longer_than_was_said(here: Guarded, home: Path) -> None:
    words = ("--ca-fingerprint", fingerprint_of_ca(here), "--wait-s", "0")
    refused(enrol(here, home, *words), "nobody approved the key")


def test_a_door_under_a_name_that_its_certificate_lacks_is_refused(
    tmp_path: Path, home: Path
) -> None:
    with guarded_doors(tmp_path, names=("controller.example",)) as here:
        token = here.a_token()
        before = here.state()
        refused(enrol(here, home, "--token", token), here.url, "use a name that door.names")
        assert here.state() == before


def test_nothing_is_enrolled_where_nothing_says_whom_to_trust(here: Guarded, home: Path) -> None:
    refused(enrol(here, home), "nothing says which controller to trust")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--max-bytes-per-s", "0"), "max_bytes_per_s"),
        (("--window-s", "nan"), "window_s"),
        (("--port", "70000"), "<= 65535"),
        (("--id", "Pi 1"), "'Pi 1' is no device id"),
        (("--profile", "a/b"), "'a/b' is no profile name"),
        (("--controller", "http://localhost"), "of the form https://host:port"),
        (("--token", "wt1.short"), "this is no token: copy the whole text"),
        (("--simulate",), "simulate is for loopback brokers and broker.example is none"),
    ],
)
def test_what_cannot_be_is_refused_and_makes_no_home_a_devices(
    here: Guarded, home: Path, words: tuple[str, ...], part: str
) -> None:
    refused(enrol(here, home, "--token", here.a_token(), *words), part)
    assert not (home / "agent.toml").exists()
    assert not (home / "identity").exists()


def test_a_home_of_an_earlier_release_enrols_again(here: Guarded, home: Path) -> None:
    (home / "trust").mkdir(parents=True)
    (home / "agent.toml").write_text('id = "pi-1"\nprofile = "pi"\nbroker = "mqtt://far"\n')
    assert enrol(here, home, "--token", here.a_token()).returncode == 0
    assert read_identity(home).device == PI


@pytest.mark.parametrize("clock", ["1970-01-02 00:00:00", "2100-01-01 00:00:00"])
def test_a_device_enrols_and_renews_whatever_its_clock_says(
    here: Guarded, home: Path, clock: str
) -> None:
    words = ("wherry_agent", "enrol", "--home", str(home), "--controller", here.url)
    ran = run(*words, "--token", here.a_token(), clock=clock)
    assert ran.returncode == 0, ran.stderr
    assert "set the clock" in ran.stdout
    told = renew(home, clock=clock)
    assert told["outcome"] == "renewed"
    assert told["clock_ahead"] == (clock > "2000")


def test_a_renewal_replaces_key_and_certificate_and_keeps_the_epoch(
    here: Guarded, home: Path
) -> None:
    enrol(here, home, "--token", here.a_token())
    before, papers = read_identity(home), read_papers(home)
    here.now += 40 * DAY_S
    told = renew(home, floor=here.now)
    assert told["outcome"] == "renewed", told
    after = read_identity(home)
    assert (after.device, after.epoch) == (PI, 1)
    assert after.not_after > here.now > before.not_after
    assert float(str(told["proved_s"])) >= after.not_before
    assert read_papers(home).key != papers.key


def test_a_door_whose_own_certificate_ended_before_what_is_proved_is_refused(
    here: Guarded, home: Path
) -> None:
    enrol(here, home, "--token", here.a_token())
    before = read_identity(home)
    told = renew(home, floor=here.now + 91 * DAY_S)
    assert (told["outcome"], read_identity(home)) == ("refused", before)
    assert "ended at" in str(told["why"])


def test_a_revoked_device_keeps_its_papers_and_is_refused(here: Guarded, home: Path) -> None:
    enrol(here, home, "--token", here.a_token())
    before = read_identity(home)
    here.identities.revoke(PI, now=here.now)
    told = renew(home)
    assert (told["outcome"], read_identity(home)) == ("refused", before)
    assert "is revoked: enrol it again" in str(told["why"])


def test_a_door_that_is_shut_is_asked_again_with_the_same_request(
    here: Guarded, home: Path
) -> None:
    enrol(here, home, "--token", here.a_token())
    assert here.doors is not None
    here.doors.close()
    assert renew(home)["outcome"] == "unavailable"
    asked = read_asked(home)
    assert asked is not None
    assert renew(home)["outcome"] == "unavailable"
    assert read_asked(home) == asked


def test_a_running_agent_renews_its_certificate_in_time(tmp_path: Path, home: Path) -> None:
    with guarded_doors(tmp_path, policy=Policy(certificate_s=60.0)) as here:
        enrol(here, home, "--token", here.a_token())
        first = read_identity(home)  # Dated back by an hour: two thirds of its life are over.
        command = [sys.executable, "-m", "wherry_agent", "run", "--home", str(home)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as agent:
            assert agent.stderr is not None
            try:
                said = _read_until(agent.stderr, "certificate.answered")
            finally:
                agent.terminate()
                agent.communicate(timeout=PATIENCE_S)
        assert '"outcome": "renewed"' in said
        assert read_identity(home).serial != first.serial
        assert here.serials_of() == {first.serial: True, read_identity(home).serial: True}


def _read_until(lines: IO[str], event: str) -> str:
    return next(line for line in lines if f'"event": "{event}"' in line)
