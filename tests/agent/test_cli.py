"""The command says in one line what went wrong and what to do, and its exit code agrees."""

from __future__ import annotations

import json
import os
import platform
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import wherry
from tests.agent.agents import PATIENCE_S, Agent, a_controller, agents_at, until
from tests.agent.bundles import a_bundle, images, logits_of
from tests.brokers import Mosquitto, a_mosquitto
from tests.builders import a_device_id
from tests.enrolled import an_enrolled_home
from tests.trusted import a_repository
from wherry.names import ProfileName
from wherry.profile import Facts
from wherry_agent.detect import facts
from wherry_agent.settings import ApiSettings, Settings

pytestmark = pytest.mark.system

NOWHERE = "mqtt://127.0.0.1:1"
Ran = subprocess.CompletedProcess[str]


def wherry_agent(*words: str | Path, stdin: str = "") -> Ran:
    """Run the command as a user does."""
    environment = {k: v for k, v in os.environ.items() if k != "WHERRY_AGENT_HOME"}
    return subprocess.run(
        [sys.executable, "-m", "wherry_agent", *map(str, words)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment,
        check=False,
    )


def refused(ran: Ran, *parts: str, code: int = 1) -> None:
    """Check that a command was refused in one line that holds the parts in order."""
    assert ran.returncode == code, ran
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith("wherry-agent: ")
    at = 0
    for part in parts:
        at = line.find(part, at)
        assert at >= 0, (part, line)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return the home of a device that never ran."""
    return a_home(tmp_path / "home")


def a_home(folder: Path, *, port: int | None = None) -> Path:
    device, profile = a_device_id("pi-1"), ProfileName("test")
    settings = Settings(id=device, profile=profile, broker=NOWHERE, api=ApiSettings(port=port))
    root = a_repository().roots[0].data
    return an_enrolled_home(folder, NOWHERE, device, profile, root, settings=settings)


@pytest.mark.parametrize("words", [(), ("dance",), ("enrol",), ("infer",)])
def test_words_that_are_no_command_end_with_2(words: tuple[str, ...]) -> None:
    ran = wherry_agent(*words)
    assert ran.returncode == 2
    assert "usage: wherry-agent" in ran.stderr


def test_the_version_is_the_packages() -> None:
    assert wherry_agent("--version").stdout.strip() == wherry.__version__


# Before an agent runs


def test_a_machine_proposes_a_profile_before_it_is_enrolled() -> None:
    ran = wherry_agent("profile")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert f'arch = "{platform.machine()}"' in ran.stdout.splitlines()
    as_json = json.loads(wherry_agent("profile", "--json").stdout)
    assert msgspec.convert(as_json["facts"], Facts) == facts()
    assert f'name = "{as_json["profile"]["name"]}"' in ran.stdout.splitlines()


@pytest.mark.parametrize("command", [("run",), ("status",), ("infer", "default")])
def test_a_home_where_nothing_is_enrolled_is_said(tmp_path: Path, command: tuple[str, ...]) -> None:
    ran = wherry_agent(*command, "--home", tmp_path, stdin="{}")
    refused(ran, f"no agent is enrolled in {tmp_path}: run `wherry-agent enrol` first.")


@pytest.mark.parametrize("command", [("run",), ("status",)])
def test_settings_that_cannot_be_followed_are_said(home: Path, command: tuple[str, ...]) -> None:
    settings = home / "agent.toml"
    settings.write_text(settings.read_text() + "colour = 1\n")
    ran = wherry_agent(*command, "--home", home)
    refused(ran, "agent.toml: ", "unknown field `colour`", "correct it")


def test_a_home_of_an_earlier_release_does_not_run_and_says_what_to_do(home: Path) -> None:
    (home / "identity").unlink()
    (home / "trust" / "director.pem").write_text("a key of before")
    ran = wherry_agent("run", "--home", home)
    refused(ran, "was enrolled by an earlier release", "run `wherry-agent enrol` again.")
    assert not (home / "state" / "agent.db").exists()


def test_a_device_that_never_ran_has_a_status(home: Path) -> None:
    ran = wherry_agent("status", "--home", home, "--json")
    assert ran.returncode == 0
    assert json.loads(ran.stdout) == {
        "device": "pi-1",
        "profile": "test",
        "broker": "mqtt://127.0.0.1:1",
        "running": False,
        "generation": 0,
        "trust": None,
        "degraded": [],
        "aliases": {},
    }


def test_asking_an_agent_that_does_not_run_says_how_to_start_it(home: Path) -> None:
    ran = wherry_agent("infer", "default", "--home", home, stdin='{"image": [[1]]}')
    refused(ran, "no agent answers at", "start it with `wherry-agent run`")


def test_an_agent_whose_port_is_taken_ends_with_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = wherry_agent("run", "--home", a_home(tmp_path / "home", port=port))
    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]
    assert f"cannot listen on 127.0.0.1:{port}" in last
    assert last.endswith("stop what uses that address, or set another one.")


def test_a_store_that_is_no_database_is_said(home: Path) -> None:
    (home / "state" / "agent.db").write_bytes(b"torn" * 1000)
    for command in ("run", "status"):
        ran = wherry_agent(command, "--home", home)
        refused(ran, "cannot be opened: file is not a database", "start anew.")


# The doctor


def checks_of(ran: Ran) -> dict[str, dict[str, str]]:
    """Return what the doctor said as JSON, by subject."""
    return {check["subject"]: check for check in json.loads(ran.stdout)["checks"]}


def assert_line(ran: Ran, health: str, subject: str, found: str, remedy: str = "") -> None:
    """Check that the doctor has a line that says so, and what to do below it."""
    lines = ran.stdout.splitlines()
    (at,) = (
        number for number, line in enumerate(lines) if line.startswith(f"{health:<9}{subject} ")
    )
    assert found in lines[at]
    assert lines[at + 1].strip().startswith("-> ") == bool(remedy)
    assert remedy in lines[at + 1]


def test_the_doctor_of_no_device_says_that_none_is_enrolled(tmp_path: Path) -> None:
    found = f"no agent is enrolled in {tmp_path}: run `wherry-agent enrol` first."
    ran = wherry_agent("doctor", "--home", tmp_path)
    assert (ran.returncode, ran.stderr) == (1, "")
    assert ran.stdout == f"bad      settings              {found}\n"
    ran = wherry_agent("doctor", "--home", tmp_path, "--json")
    check = {"subject": "settings", "health": "bad", "found": found, "remedy": ""}
    assert json.loads(ran.stdout) == {"health": "bad", "checks": [check]}
    assert ran.returncode == 1


def test_the_doctor_finds_an_agent_that_does_not_run_and_a_broker_that_is_nowhere(
    home: Path,
) -> None:
    ran = wherry_agent("doctor", "--home", home)
    assert (ran.returncode, ran.stderr) == (1, "")
    assert_line(ran, "well", "settings", "pi-1, profile test")
    assert_line(ran, "bad", "broker", "127.0.0.1:1 does not answer (", "look at the network")
    start = "start it: `systemctl start wherry-agent`, or `wherry-agent run`"
    assert_line(ran, "bad", "agent", f"none answers at {home / 'state' / 'api.sock'} (", start)
    assert_line(ran, "concern", "orders", "it has followed none yet", "let it reach the broker")
    as_json = wherry_agent("doctor", "--home", home, "--json")
    assert (as_json.returncode, json.loads(as_json.stdout)["health"]) == (1, "bad")
    checks = checks_of(as_json)
    assert checks["broker"]["health"] == checks["agent"]["health"] == "bad"
    assert checks["agent"]["remedy"] == start
    assert not (home / "state" / "agent.db").exists()  # It changes nothing.


# With a running agent


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with a_mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture(scope="module")
def serving(broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """Give an agent that serves `a_bundle(shift=5.0)`."""
    folder = tmp_path_factory.mktemp("serving")
    with a_controller(broker.port) as controller, agents_at(folder, broker.port) as start:
        agent, bundle = start(), a_bundle(version="asked", shift=5.0)
        controller.publish_bundle(bundle)
        controller.order(agent.device, bundle, generation=3)
        controller.succeeded(agent, "d-3")
        yield agent


def infer(agent: Agent, text: str, *words: str | Path) -> Ran:
    return wherry_agent("infer", "default", "--home", agent.home, *words, stdin=text)


def test_a_running_agent_has_a_status_for_people_and_for_scripts(serving: Agent) -> None:
    bundle = a_bundle(version="asked", shift=5.0).digest
    status = json.loads(wherry_agent("status", "--home", serving.home, "--json").stdout)
    assert status["running"] is True
    assert status["generation"] == 3
    assert (status["trust"]["epoch"], status["trust"]["root"], status["degraded"]) == (1, 1, [])
    default = status["aliases"]["default"]
    assert default["slots"] == {"active": bundle, "previous": None, "candidate": None}
    assert default["deployment"]["status"] == "succeeded"
    table = wherry_agent("status", "--home", serving.home).stdout
    assert f"active      {bundle[:12]}" in table
    assert "deployment  succeeded confirmed" in table
    assert "trust       epoch 1, root 1, timestamp " in table
    assert "degraded    no" in table


def test_a_model_is_asked_from_a_file_or_from_standard_input(
    tmp_path: Path, serving: Agent
) -> None:
    rows = images(2)
    text = json.dumps({"image": rows.tolist()})
    (tmp_path / "rows.json").write_text(text)
    for ran in (infer(serving, text), infer(serving, "", "--input", tmp_path / "rows.json")):
        assert ran.returncode == 0
        answer = json.loads(ran.stdout)
        assert answer["model_version"] == a_bundle(version="asked", shift=5.0).digest
        (logits,) = answer["outputs"]
        assert logits["shape"] == [2, 4]
        expected = logits_of(rows, shift=5.0).ravel().tolist()
        assert logits["data"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("no json", ("-: JSON is malformed", "give a JSON object")),
        ('{"image": 1}', ("-: Expected `array`", "give a JSON object")),
        ('["image"]', ("-: Expected `object`", "give a JSON object")),
        ("[" * 10_000, ("-: ", "give a JSON object")),
        ("{}", ("-: it holds nothing and default takes image", "give a JSON object")),
        ('{"imag": [1]}', ("it holds imag and default takes image",)),
        (
            '{"image": [[1, 2]]}',
            ("'image' came with the shape [1, 2]", "send it as [batch, 2, 2]."),
        ),
        ('{"image": []}', ("'image' came with", "send")),
        ('{"image": [[["a", 1], [2, 3]]]}', ("refuses the request (HTTP 400)", "send")),
        ('{"image": [[[1], [2, 3]]]}', ("refuses the request (HTTP 400)", "send")),
    ],
)
def test_inputs_that_cannot_be_are_refused(
    serving: Agent, text: str, parts: tuple[str, ...]
) -> None:
    refused(infer(serving, text), *parts)


def test_a_socket_outside_of_the_home_is_found_and_is_for_its_group(
    tmp_path: Path, broker: Mosquitto
) -> None:
    place = tmp_path / "run" / "api.sock"
    place.parent.mkdir()
    with agents_at(tmp_path, broker.port) as start:
        agent = start(socket=str(place))
        until(lambda: "running     True" in wherry_agent("status", "--home", agent.home).stdout)
        empty = wherry_agent("ready", "--socket", place)
        assert (empty.returncode, empty.stdout[:9]) == (1, "not ready")
        assert stat.S_IMODE(place.stat().st_mode) == 0o660
        refused(infer(agent, "{}"), "no model was ever ordered under 'default'")
        ran = wherry_agent("infer", "default", "--socket", place, stdin="{}")
        refused(ran, "no model was ever ordered under 'default'")


def test_an_agent_that_serves_is_ready_and_one_that_does_not_run_is_not(
    serving: Agent, home: Path
) -> None:
    ran = wherry_agent("ready", "--home", serving.home)
    assert (ran.returncode, ran.stdout) == (0, "ready\n")
    refused(wherry_agent("ready", "--home", home), "no agent answers at")


def test_other_things_that_cannot_be_asked_are_refused(serving: Agent) -> None:
    text = json.dumps({"image": images(1).tolist()})
    refused(infer(serving, "", "--input", "/none.json"), "No such file", "check the path")
    refused(infer(serving, "", "--input", "/dev"), "Is a directory", "check the path")
    ran = wherry_agent("infer", "No Alias", "--home", serving.home, stdin=text)
    refused(ran, "'No Alias' is no alias: use")
    ran = wherry_agent("infer", "detector", "--home", serving.home, stdin=text)
    refused(ran, "'detector'; ask for one that was.")


def test_the_doctor_finds_a_running_agent_well(serving: Agent) -> None:
    bundle = a_bundle(version="asked", shift=5.0).digest
    ran = wherry_agent("doctor", "--home", serving.home)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert_line(ran, "well", "agent", f"it answers at {serving.socket}")
    assert_line(ran, "well", "orders", "it follows generation 3")
    assert_line(ran, "well", "runtime onnxruntime", "computes as it should")
    checks = checks_of(wherry_agent("doctor", "--home", serving.home, "--json"))
    assert checks["model default"] == {
        "subject": "model default",
        "health": "well",
        "found": f"{bundle[:12]} serves",
        "remedy": "",
    }
    for subject in ("settings", "certificate", "clock", "disk", "broker", "agent"):
        assert checks[subject]["health"] == "well"


def test_a_second_agent_on_the_home_is_refused_and_the_first_serves_on(serving: Agent) -> None:
    ran = wherry_agent("run", "--home", serving.home)
    refused(ran, "another agent runs on", "stop it first.")
    assert infer(serving, json.dumps({"image": images(1).tolist()})).returncode == 0


def test_the_home_may_be_named_by_the_environment(
    serving: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(serving.home))
    until(lambda: wherry_agent("status").stdout.startswith(f"device      {serving.device}"))
