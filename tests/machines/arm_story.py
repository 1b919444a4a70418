"""What a device of ARM lives through: installed, enrolled, given good and bad, upgraded, purged."""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.machines import arm_agent, arm_site, deb_checks
from tests.machines.arm_agent import EmulatedAgent, a_running_agent
from tests.machines.arm_roots import Board, an_arm_root
from tests.machines.arm_site import VERSION, WRONG, Kind
from tests.machines.deb_builds import next_version, version_of_this
from tests.machines.deb_roots import SUITES, Root
from tests.machines.nspawn import Wrong, say
from tests.system.sites import Site
from wherry.bundle import Bundle
from wherry_controller.cli.replies import Rollout

HOME, SOCKET = deb_checks.HOME, f"/{arm_agent.SOCKET}"
AGENT = "wherry-agent"
REFUSED = "golden_mismatch"
QUESTION = "tmp/question.json"


@dataclass(frozen=True, slots=True)
class Supply:
    """What the devices of one processor are given; `following` is the agent's next package."""

    profiles: Mapping[Kind, str]
    bundles: Mapping[Kind, Bundle]
    packages: Sequence[Path]
    following: Path


@dataclass(slots=True)
class Fleet:
    """The devices of one root, one after the other, and the operator's side of them."""

    site: Site
    board: Board
    suite: str
    scratch: Path
    begun_s: float = field(default_factory=time.monotonic)

    def device(self, kind: Kind) -> str:
        return f"{self.suite}-{self.board.arch}-{kind.runtime}"

    def tell(self, text: str) -> None:
        """Say what was seen, and how long it took since the last time."""
        now_s = time.monotonic()
        took_s, self.begun_s = now_s - self.begun_s, now_s
        say(f"{SUITES[self.suite]} {self.board.arch}: {text}: {took_s:.0f} s")


def live_through(fleet: Fleet, supply: Supply) -> None:
    """Take one root from its making to the purge; say what fails, at once, and raise it."""
    try:
        _live(fleet, supply)
    except Exception as error:
        # Another root may go on for minutes.
        fleet.tell(f"FAILED: {error}")
        raise


def _live(fleet: Fleet, supply: Supply) -> None:
    with an_arm_root(fleet.board, fleet.suite, fleet.scratch) as root:
        fleet.tell("made a root")
        before = root.files()
        names = [deb.name.partition("_")[0] for deb in supply.packages]
        deb_checks.install(root, supply.packages)
        for name in names:
            deb_checks.check_installed(root, name, version_of_this())
            deb_checks.check_imports(root, name)
        fleet.tell(f"installed {', '.join(names)} without a network; every library is found")
        for kind in supply.bundles:
            _serve(fleet, root, kind, supply)
        _upgrade(fleet, root, list(supply.bundles)[-1], supply)
        deb_checks.check_purge(root, names, before)
        fleet.tell("purged, and nothing is left")


def _serve(fleet: Fleet, root: Root, kind: Kind, supply: Supply) -> None:
    """Enrol a device, roll out to it what is right and what is wrong."""
    bundle = supply.bundles[kind]
    _enrol(fleet, root, kind, supply.profiles[kind])
    with a_running_agent(root) as agent:
        fleet.tell(f"{kind.runtime}: the agent was ready after {agent.ready_s:.1f} s (emulated)")
        _confirm(fleet, kind)
        _show_golden(fleet, kind, bundle)
        _ask(fleet, root, kind, bundle)
        _tell_memory(fleet, agent, kind)
        _refuse_wrong(fleet, kind)
        _ask(fleet, root, kind, bundle)


def _enrol(fleet: Fleet, root: Root, kind: Kind, profile: str) -> None:
    """Enrol by the package's program and the line that the controller printed, as root."""
    root.said("find", f"/{HOME}", "-mindepth", "1", "-delete")
    line = arm_site.token_line(fleet.site, fleet.device(kind), profile)
    root.said(*shlex.split(line), "--socket", SOCKET)
    strangers = root.said("find", f"/{HOME}", "!", "-user", AGENT)
    if strangers:
        raise Wrong(f"after enrolment not the service's own: {strangers.splitlines()[0]}")
    fleet.tell(f"{kind.runtime}: enrolled")


def _confirm(fleet: Fleet, kind: Kind) -> None:
    rollout = arm_site.roll_out(fleet.site, fleet.device(kind), VERSION)
    if rollout.status != "succeeded":
        raise Wrong(_ending_of(rollout))
    fleet.tell(f"{kind.runtime}: rolled out and confirmed")


def _show_golden(fleet: Fleet, kind: Kind, bundle: Bundle) -> None:
    """Find in what the device has signed that it has computed the golden outputs."""
    receipt = arm_site.attested(fleet.site, fleet.device(kind), bundle.digest)
    same = receipt.outputs == arm_site.outputs_digest(bundle.manifest)
    how = "the very bytes of the builder" if same else "other bytes than the builder's, near them"
    fleet.tell(
        f"{kind.runtime} {receipt.runtime_version}: attested golden outputs "
        f"{receipt.outputs[:12]}, {how}"
    )


def _ask(fleet: Fleet, root: Root, kind: Kind, bundle: Bundle) -> None:
    (root.folder / QUESTION).write_text(arm_site.question_of(bundle))
    said = root.said(AGENT, "infer", "default", "--input", f"/{QUESTION}", "--socket", SOCKET)
    how = arm_site.check_answer(bundle, said)
    fleet.tell(f"{kind.runtime}: answers as the builder did, {how}")


def _tell_memory(fleet: Fleet, agent: EmulatedAgent, kind: Kind) -> None:
    sizes = agent.memory_mib()
    parts = " + ".join(f"{size:.0f}" for size in sizes)
    fleet.tell(f"{kind.runtime}: {parts} = {sum(sizes):.0f} MiB in memory (emulated)")


def _refuse_wrong(fleet: Fleet, kind: Kind) -> None:
    """Roll out a bundle whose golden outputs the device cannot give; it has to refuse."""
    rollout = arm_site.roll_out(fleet.site, fleet.device(kind), WRONG)
    reasons = {each.reason for stage in rollout.stages for each in stage.devices}
    if rollout.status == "succeeded" or reasons != {REFUSED}:
        raise Wrong(f"wrong golden outputs are not refused for {REFUSED}: {_ending_of(rollout)}")
    fleet.tell(f"{kind.runtime}: refused wrong golden outputs ({REFUSED})")


def _ending_of(rollout: Rollout) -> str:
    journeys = [each for stage in rollout.stages for each in stage.devices]
    said = ", ".join(
        f"{each.device}: {each.status} {each.reason} {each.detail}" for each in journeys
    )
    return f"the rollout {rollout.name} is {rollout.status} ({said})"


def _upgrade(fleet: Fleet, root: Root, kind: Kind, supply: Supply) -> None:
    """Upgrade the agent while it serves; it goes on, and the next one has identity and bundle."""
    bundle = supply.bundles[kind]
    papers = _papers(root)
    with a_running_agent(root) as agent:
        _wait_for_answer(fleet, agent, kind, bundle)
        deb_checks.install(root, [supply.following])
        _ask(fleet, root, kind, bundle)
    deb_checks.check_installed(root, AGENT, next_version())
    deb_checks.check_version(root, next_version())
    with a_running_agent(root) as agent:
        _wait_for_answer(fleet, agent, kind, bundle)
        _ask(fleet, root, kind, bundle)
        arm_site.wait_until_told(fleet.site, fleet.device(kind), next_version(), bundle.digest)
    if _papers(root) != papers:
        raise Wrong("the upgrade changed what the device is known by")
    fleet.tell(f"upgraded to {next_version()}: it kept its identity and its bundle")


def _wait_for_answer(fleet: Fleet, agent: EmulatedAgent, kind: Kind, bundle: Bundle) -> None:
    """Wait until a started agent serves what it had confirmed; nobody rolls anything out."""
    after_s = agent.wait_for_answer(bundle.digest)
    fleet.tell(f"{kind.runtime}: started again, serves after {after_s:.1f} s (emulated)")


def _papers(root: Root) -> dict[str, str]:
    """Return the digests of the files that make the device what it is."""
    home = root.folder / HOME
    found = sorted([*home.rglob("*.pem"), *home.glob("*.toml")])
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}
