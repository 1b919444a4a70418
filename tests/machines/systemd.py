"""Boots Debian in a container and looks at what systemd makes of our units: `make systemd`.

    python -m tests.machines.systemd

Each line says what was seen; it ends with 1 where something is not as it shall be.
"""

from __future__ import annotations

import os
import signal
import sys

from tests.machines import (
    systemd_documents,
    systemd_fleet,
    systemd_sandbox,
    systemd_service,
    systemd_units,
)
from tests.machines.homes import give_home
from tests.machines.nspawn import a_root, booted, check_all, say
from tests.machines.staged import install_agent, install_controller

CHECKS = (
    systemd_units.units_are_sound,
    systemd_units.exposure_is_low,
    systemd_service.starts_and_answers,
    systemd_service.active_when_it_says_so,
    systemd_service.status_says_what_serves,
    systemd_service.the_journal_has_fields,
    systemd_service.restart_refuses_nobody,
    systemd_service.a_killed_agent_comes_back,
    systemd_service.watchdog_restarts_a_hung_agent,
    systemd_sandbox.the_home_is_the_service_s,
    systemd_sandbox.the_agent_is_confined,
    systemd_sandbox.only_members_may_ask,
    systemd_sandbox.the_sandbox_holds,
    systemd_sandbox.memory_is_limited,
    systemd_sandbox.builds_are_confined,
    systemd_fleet.controller_and_agent_show_certificates,
    systemd_documents.commands_of_the_page_succeed,
)


def main() -> int:
    if os.geteuid():
        say("Booting a container takes root: sudo make systemd")
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that nothing stays behind then.
    with a_root("systemd") as root:
        install_agent(root)
        install_controller(root)
        give_home(root)
        with booted(root) as machine:
            wrong = check_all(CHECKS, machine)
    say(f"{wrong} of {len(CHECKS)} are wrong" if wrong else f"all {len(CHECKS)} hold")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
