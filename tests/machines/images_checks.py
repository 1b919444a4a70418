"""What an image is: who runs in it, what it says of itself, its parts; and how a container ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.machines.images_base import podman, podman_tried
from tests.machines.images_story import (
    CONTROLLER,
    DATABASE,
    DEVICE,
    START_S,
    is_healthy,
)
from tests.machines.nspawn import Wrong, until
from wherry import __version__

LABELS = ("title", "description", "licenses", "version", "revision")
# Nothing of these is for a device or a server, but for those who build an image.
BUILD_ONLY = ("pip", "gcc", "make")
LONGEST_STOP_S = 20
_VALIDATE = """\
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read())
sys.exit(str(problem)[:500] if problem else 0)
"""


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    uid: int
    volumes: tuple[str, ...]

    @property
    def tag(self) -> str:
        return f"localhost/{self.name}:{__version__}"


IMAGES = (
    Image("wherry-agent", 10320, ("/run/wherry-agent", "/var/lib/wherry-agent")),
    Image("wherry-controller", 10321, ("/var/lib/wherry-controller",)),
)


class _Config(msgspec.Struct, rename="pascal"):
    user: str
    labels: dict[str, str]
    volumes: dict[str, object]
    stop_signal: str = ""


class _Healthcheck(msgspec.Struct, rename="pascal"):
    test: list[str]


class _Inspected(msgspec.Struct, rename="pascal"):
    size: int
    config: _Config
    healthcheck: _Healthcheck | None = None


class _Component(msgspec.Struct):
    name: str
    version: str = ""
    purl: str = ""


class _Parts(msgspec.Struct, rename="camel"):
    bom_format: str
    components: list[_Component]


def says_what_it_is(image: Image) -> str:
    """Find user, labels, volumes and a health check in the image."""
    (seen,) = msgspec.json.decode(podman("image", "inspect", image.tag), type=list[_Inspected])
    if seen.config.user.partition(":")[0] != str(image.uid):
        raise Wrong(f"{image.name} runs as {seen.config.user!r}")
    labels = {f"org.opencontainers.image.{name}" for name in LABELS}
    if missing := labels - {name for name, text in seen.config.labels.items() if text}:
        raise Wrong(f"{image.name} lacks {', '.join(sorted(missing))}")
    if tuple(sorted(seen.config.volumes)) != image.volumes:
        raise Wrong(f"{image.name} has the volumes {', '.join(seen.config.volumes)}")
    if seen.healthcheck is None:
        raise Wrong(f"{image.name} has no HEALTHCHECK")
    return f"{image.name}: user {image.uid}, {seen.size / 1e6:.0f} MB, labels, health check"


def holds_nothing_of_the_build(image: Image) -> str:
    """Look for what only a build needs, and for wheels."""
    looking = "ls -d /wheels/*; find /opt -name '*.whl'; ls /opt/wherry/bin; command -v"
    said = _in_image(image, "sh", "-c", " ".join((looking, *BUILD_ONLY)))
    found = [line for line in said.splitlines() if line.endswith((".whl", *BUILD_ONLY))]
    if found:
        raise Wrong(f"{image.name} holds {', '.join(found)}")
    return f"{image.name}: neither wheels nor {', '.join(BUILD_ONLY)}"


def lists_its_parts(image: Image, tools: Path) -> str:
    """Hold the list in dist/ against the schema, and against what the image says itself."""
    (place,) = Path("dist").glob(f"{image.name}_{__version__}_*.cdx.json")
    text = place.read_text()
    command = [sys.executable, "-c", _VALIDATE]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        input=text,
        env={"PYTHONPATH": str(tools)},
    )
    if done.returncode:
        raise Wrong(f"{place.name} is not CycloneDX 1.6: {done.stderr.strip()[-500:]}")
    parts = msgspec.json.decode(text, type=_Parts)
    listed = {part.name for part in parts.components}
    debian = _in_image(image, "dpkg-query", "--show", "--showformat=${Package}\n").split()
    python = _in_image(image, "sh", "-c", "ls /opt/wherry/lib/python3*/site-packages")
    ours = [line for line in python.splitlines() if line.endswith(".dist-info")]
    if missing := set(debian) - listed:
        raise Wrong(f"{place.name} lacks {', '.join(sorted(missing)[:5])}")
    if len(parts.components) != 1 + len(debian) + len(ours):
        raise Wrong(f"{place.name} has {len(parts.components)} parts, {len(ours)} of Python")
    return f"{place.name}: {len(ours)} of Python, {len(debian)} of Debian; the schema holds"


def serves_on_a_read_only_root(container: str) -> str:
    """Find the root not writable, in a container that is healthy."""
    (seen,) = json.loads(podman("inspect", container, "--format", "json"))
    if not seen["HostConfig"]["ReadonlyRootfs"]:
        raise Wrong(f"{container} was started with a root that can be written")
    tried = podman_tried("exec", container, "sh", "-c", "touch /usr/x /etc/x /opt/wherry/x")
    if tried.returncode == 0 or not is_healthy(container):
        raise Wrong(f"{container} writes its root, or is not healthy")
    status = podman("exec", container, "sh", "-c", "id -u; grep CapEff /proc/self/status")
    uid, _, capabilities = status.partition("\n")
    if uid == "0" or int(capabilities.split()[-1], 16):
        raise Wrong(f"{container} runs as {uid} with {capabilities}")
    return f"{container}: healthy on a read-only root, as {uid} without capabilities"


def a_hung_agent_is_unhealthy() -> str:
    """Stop the agent's process without ending it, then let it go on."""
    agent = _agents_process()
    os.kill(agent, signal.SIGSTOP)
    try:
        if is_healthy(DEVICE):
            raise Wrong("an agent that hangs is called healthy")
    finally:
        os.kill(agent, signal.SIGCONT)
    until(lambda: is_healthy(DEVICE), "the agent does not become healthy again")
    return f"{DEVICE}: unhealthy while it hangs, healthy after"


def a_controller_without_its_database_is_unhealthy() -> str:
    podman("pause", DATABASE)
    try:
        if is_healthy(CONTROLLER):
            raise Wrong("a controller without its database is called healthy")
    finally:
        podman("unpause", DATABASE)
    until(lambda: is_healthy(CONTROLLER), "the controller does not become healthy again")
    return f"{CONTROLLER}: unhealthy without its database, healthy after"


def ends_on_a_signal(container: str) -> str:
    """Have it end as `podman stop` asks, and not be killed."""
    podman("stop", f"--time={LONGEST_STOP_S}", container)
    (seen,) = json.loads(podman("inspect", container, "--format", "json"))
    code = seen["State"]["ExitCode"]
    if code == 128 + 9:
        raise Wrong(f"{container} had to be killed after {LONGEST_STOP_S} s")
    podman("start", container)
    problem = f"{container} does not become healthy after a restart"
    until(lambda: is_healthy(container), problem, START_S)
    return f"{container}: ends on SIGTERM with {code}, and serves again"


def _agents_process() -> int:
    """Return the agent's process as this host numbers it: the first one's child."""
    first = podman("inspect", DEVICE, "--format", "{{.State.Pid}}")
    return int(Path(f"/proc/{first}/task/{first}/children").read_text().split()[0])


def _in_image(image: Image, *words: str) -> str:
    running = ("run", "--rm", "--network=none", "--read-only", "--no-healthcheck", "--user=0")
    said = podman_tried(*running, f"--entrypoint={words[0]}", image.tag, *words[1:])
    return said.stdout.strip()
