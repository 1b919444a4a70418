"""A site whose one device serves a version that was trained, built and rolled out just now.

Every step is a command, with the words that an operator types.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from tests.controller.cli.conftest import Ran
from tests.controller.cli.test_serving import PROFILES, a_card
from tests.system.sites import Site, run_program
from wherry.names import Digest
from wherry_sim.demo.processes import Agent

PROFILE, INT8 = "x86-onnx-fp32", "x86-onnx-int8"
GATE = "min_labels = 0\nsoak_s = 0\nlatency = { window_requests = 0 }\n"
# What PyTorch itself answers, in a process with nothing of Wherry.
_OFFLINE = """\
import json, sys
import torch
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
from net import make_net
net = make_net().eval()
net.load_state_dict(torch.load(f"{sys.argv[1]}/weights.pt"))
with torch.inference_mode():
    print(json.dumps(net(torch.tensor(json.load(sys.stdin))).tolist()))
"""


@dataclass(frozen=True, slots=True)
class Trained:
    """`bundle` is the digest of v1, which the device serves."""

    site: Site
    agent: Agent
    files: Path
    bundle: Digest

    def images(self) -> NDArray[np.float32]:
        """Return three images that the version was not trained on."""
        images: NDArray[np.float32] = np.load(self.files / "evaluation.npz")["image"][:3]
        return images


def operate(site: Site, files: Path) -> Trained:
    """Do the main job, from a folder with a model to a device that serves it."""
    for name in (PROFILE, INT8):
        done(site, "profile", "add", PROFILES / f"{name}.toml")
    register(site, files, a_card("v1"))
    done(site, "build", "digits:v1", "-p", PROFILE)
    done(site, "device", "add", "pi-1", "-p", PROFILE)
    said = done(site, "token", "create", "pi-1")
    agent = enrolled_by(said.splitlines()[-1], site.folder / "pi-1")
    site.agents[agent.id] = agent
    agent.start()
    done(site, "group", "set", "canary", "pi-1")
    created = roll_out(site, "v1")
    assert created.status == 0, created.err
    done(site, "rollout", "watch", "v1")
    bundle = site.serving(agent)
    assert bundle is not None
    return Trained(site, agent, files, bundle)


def done(site: Site, *words: str | Path) -> str:
    """Run a command of the operator that must succeed; return what it printed."""
    ran = site.wherry(*words)
    assert ran.status == 0, ran.err
    return ran.out


def register(site: Site, files: Path, card: str) -> None:
    (files / "model.toml").write_text(card)
    done(site, "model", "add", files)


def roll_out(site: Site, version: str, *, name: str | None = None) -> Ran:
    """Start a rollout to the canary, which is named as its version by default."""
    gate = site.folder / "gate.toml"
    gate.write_text(GATE)
    options = ("--stage", "canary", "--gate", gate, "--probation-s", "0.5", "--start")
    return site.wherry("rollout", "create", name or version, f"digits:{version}", *options)


def enrolled_by(line: str, home: Path) -> Agent:
    """Run on the device the line that `wherry token create` printed."""
    program, command, *words = shlex.split(line)
    ran = run_program(program, command, "--home", home, *words)
    assert ran.status == 0, ran.err
    return Agent(id="pi-1", profile=PROFILE, group="canary", home=home)


def answers_offline(files: Path, images: NDArray[np.float32]) -> list[list[float]]:
    """Return the scores that the net gives in PyTorch."""
    command = [sys.executable, "-c", _OFFLINE, str(files)]
    text = msgspec.json.encode(images.tolist())
    ran = subprocess.run(command, input=text, check=True, capture_output=True)
    return msgspec.json.decode(ran.stdout.splitlines()[-1], type=list[list[float]])


def agent_program(agent: Agent, command: str, *words: str, text: str = "") -> str:
    """Run a command of `wherry-agent` on the device that must succeed."""
    ran = run_program("wherry-agent", command, "--home", agent.home, *words, text=text)
    assert ran.status == 0, ran.err
    return ran.out
