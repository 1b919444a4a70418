"""`wherry serve` as a process with the real builder, whose broker nobody has started yet."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controller.cli.conftest import Wherry
from tests.controller.cli.test_remote_commands import ends
from wherry_controller.cli.outcome import Exit
from wherry_controller.foundation import found

pytestmark = pytest.mark.system

REPOSITORY = Path(__file__).parents[3]
PROFILES = REPOSITORY / "controller/wherry_sim/profiles"
CARD = """\
model = "digits"
version = "{version}"

[source]
kind = "state_dict"
factory = "{factory}"
file = "{state_dict}"

[signature]
inputs = [{{ name = "image", datatype = "FP32", shape = ["batch", 1, 28, 28], layout = "NCHW" }}]
outputs = [{{ name = "scores", datatype = "FP32", shape = ["batch", 10] }}]

[task]
output = "scores"
claimed = 0.92

[data]
evaluation = "evaluation.npz"
{calibration}

[goal]
floor = 0.8
largest_drop = 0.03
"""
CALIBRATION = 'calibration = "calibration.npz"'


def a_card(
    version: str,
    *,
    factory: str = "net.py:make_net",
    state_dict: str = "weights.pt",
    calibration: str = CALIBRATION,
) -> str:
    return CARD.format(
        version=version, factory=factory, state_dict=state_dict, calibration=calibration
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files of a version that was trained just now."""
    folder = tmp_path_factory.mktemp("version")
    command = [sys.executable, "-m", "tests.controller.builder.digits", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    return folder


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Serve a controller; return its address and token."""
    founded = found(tmp_path_factory.mktemp("controller") / "it", broker="mqtt://127.0.0.1:1")
    assert founded.token
    settings = founded.folder / "wherry.toml"
    settings.write_text(settings.read_text().replace("port = 8321", "port = 0"))
    command = [sys.executable, "-m", "wherry_controller", "serve", str(founded.folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = (re.search(r"controller\.serves http=(\S+)", line) for line in process.stderr)
        yield next(match[1] for match in said if match), founded.token
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait() in (0, -signal.SIGTERM), rest
        assert "Traceback" not in rest


@pytest.fixture
def online(wherry: Wherry, login: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Wherry:
    """Run `wherry` with that controller, which knows the three profiles of this machine."""
    monkeypatch.setenv("WHERRY_URL", login[0])
    monkeypatch.setenv("WHERRY_TOKEN", login[1])
    for profile in PROFILES.glob("*.toml"):
        assert wherry("profile", "add", profile).status == 0
    return wherry


def test_a_version_is_built_for_its_profiles(online: Wherry, files: Path) -> None:
    (files / "model.toml").write_text(a_card("good"))
    assert online("model", "add", files).status == 0
    profiles = ("-p", "x86-onnx-fp32", "-p", "x86-onnx-int8")
    built = online("build", "digits:good", *profiles, "--json")
    assert (built.status, built.json["status"]) == (0, "succeeded"), built.err
    assert "x86-onnx-int8" in online("bundle", "list").out


@pytest.mark.parametrize(
    ("version", "card", "reason"),
    [
        ("nan", a_card("nan", state_dict="nan.pt"), "output_not_finite"),
        ("misfit", a_card("misfit", factory="net.py:make_other_net"), "state_dict_misfit"),
        ("lost", a_card("lost", factory="unimportable.py:f"), "factory_not_importable"),
        ("uncalibrated", a_card("uncalibrated", calibration=""), "calibration_missing"),
        ("damaged", a_card("damaged", state_dict="damaged.pt"), "below_floor"),
    ],
)
def test_bad_input_is_refused_by_its_own_reason(
    online: Wherry, files: Path, version: str, card: str, reason: str
) -> None:
    (files / "model.toml").write_text(card)
    assert online("model", "add", files).status == 0
    ran = online("build", f"digits:{version}", "-p", "x86-onnx-int8")
    ends(ran, Exit.FAILED, "refused", reason)
    assert version not in online("bundle", "list").out
