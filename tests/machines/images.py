"""Builds our images, runs them as docs/containers.md says, and looks: `make test-images`.

    python -m tests.machines.images [--keep]

No registry is asked: Debian, mosquitto and PostgreSQL are images made of Debian's packages. With
`--keep` the images stay for the next time, and what is there is not built again. It ends with 1
where something is not as it shall be.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.machines import images_checks as checks
from tests.machines.images_base import BASE, make_base, make_stand_ins, podman_tried
from tests.machines.images_checks import IMAGES
from tests.machines.images_store import FOLDER, a_store, kept_store
from tests.machines.images_story import (
    CONTROLLER,
    DEVICE,
    Story,
    install_tools,
    is_healthy,
    programs,
)
from tests.machines.nspawn import Wrong, say, until
from tests.system.sessions import a_session
from tests.system.sites import REPOSITORY

TOOLS = FOLDER.parent / "images-tools"
LONGEST_BUILD_S = 3600


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.machines.images")
    parser.add_argument("--keep", action="store_true", help="leave the images for the next time")
    keeps = parser.parse_args().keep
    if os.geteuid():
        say("Networks between containers take root here: sudo make test-images")
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that nothing stays behind then.
    with (kept_store if keeps else a_store)() as folder:
        install_tools(TOOLS)
        build()
        wrong = tell_all(folder / "site")
    say(f"{wrong} are wrong" if wrong else "all hold")
    return 1 if wrong else 0


def build() -> None:
    """Build what is not there."""
    if all(podman_tried("image", "exists", image.tag).returncode == 0 for image in IMAGES):
        return
    make_base()
    make_stand_ins()
    say("Building the images")
    command = [sys.executable, "packaging/images.py"]
    told = {**os.environ, "BASE": BASE}
    quiet = subprocess.DEVNULL
    subprocess.run(command, check=True, env=told, timeout=LONGEST_BUILD_S, stdout=quiet)


def tell_all(folder: Path) -> int:
    """Look at the images, then type the page; return how much is wrong."""
    wrong = 0
    for image in IMAGES:
        wrong += looked(partial(checks.says_what_it_is, image))
        wrong += looked(partial(checks.holds_nothing_of_the_build, image))
        wrong += looked(partial(checks.lists_its_parts, image, TOOLS))
    return wrong + tell(folder)


def tell(folder: Path) -> int:
    """Type the page into a folder of its own, with looks between its parts."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(REPOSITORY / "compose.yaml", folder)
    path = f"{programs(folder, TOOLS)}:{os.environ['PATH']}"
    seen: list[int] = []
    with a_session(folder, {"PATH": path}) as session:
        story = Story(folder, session, {})
        story.looks["Back up and restore"] = lambda: seen.extend(map(looked, while_it_runs()))
        story.looks["Upgrade"] = lambda: seen.append(looked(partial(goes_on, story)))
        seen.append(looked(partial(typed, story)))
    return sum(seen)


def while_it_runs() -> tuple[Callable[[], str], ...]:
    return (
        partial(checks.serves_on_a_read_only_root, DEVICE),
        partial(checks.serves_on_a_read_only_root, CONTROLLER),
        checks.a_hung_agent_is_unhealthy,
        checks.a_controller_without_its_database_is_unhealthy,
        partial(checks.ends_on_a_signal, DEVICE),
        partial(checks.ends_on_a_signal, CONTROLLER),
    )


def typed(story: Story) -> str:
    return f"docs/containers.md: {story.tell()} commands succeeded"


def goes_on(story: Story) -> str:
    """After the restoration: the device is back, and follows another order."""
    until(lambda: " online " in story.inside("wherry device list"), "the device stays away")
    create = "rollout create again digits:v1 --stage canary --gate /tmp/gate.toml --start"
    story.session.run("podman-compose exec -T controller sh -c 'cat > /tmp/gate.toml' < gate.toml")
    story.inside(f"wherry {create}")
    story.inside("wherry rollout watch again")
    if not is_healthy(DEVICE):
        raise Wrong("the agent is not healthy after the restoration")
    return "restored into empty volumes, the fleet goes on"


def looked(check: Callable[[], str]) -> int:
    """Say what a check sees; return 1 where that shall not be."""
    try:
        say(f"ok     {check()}")
    except subprocess.CalledProcessError as error:
        say(f"WRONG  {' '.join(error.cmd)}: {error.stderr.strip()[-500:]}")
    except (Wrong, OSError, subprocess.SubprocessError) as error:
        say(f"WRONG  {error}")
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
