"""Boots Debian with our packages in a container, and looks at what becomes of them: `make systemd`.

    python -m tests.machines.systemd

Each line says what was seen; it ends with 1 where something is not as it shall be.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys

from tests.machines import (
    systemd_documents,
    systemd_fleet,
    systemd_install,
    systemd_loop,
    systemd_sandbox,
    systemd_service,
    systemd_units,
)
from tests.machines.deb_builds import built_next
from tests.machines.homes import give_home
from tests.machines.installed import AGENT, lay_out
from tests.machines.nspawn import FOLDER, Tally, Wrong, a_root, booted, check_all, say

FIRST_BOOT = (
    systemd_install.the_first_answer_comes_soon,
    systemd_install.the_next_start_is_not_slower,
    systemd_service.starts_and_answers,
    systemd_service.active_when_it_says_so,
    systemd_service.status_says_what_serves,
    systemd_service.the_journal_has_fields,
    systemd_service.restart_refuses_nobody,
    systemd_service.a_killed_agent_comes_back,
    systemd_service.watchdog_restarts_a_hung_agent,
    systemd_loop.watchdog_restarts_a_hung_loop,
    systemd_sandbox.the_home_is_the_service_s,
    systemd_sandbox.the_agent_is_confined,
    systemd_sandbox.only_members_may_ask,
    systemd_sandbox.the_sandbox_holds,
    systemd_sandbox.memory_is_limited,
    systemd_install.an_upgrade_refuses_nobody,
    systemd_install.a_broken_upgrade_serves,
)
SECOND_BOOT = (
    systemd_install.boot_repairs_it,
    systemd_install.purging_leaves_nothing,
    systemd_fleet.controller_serves_as_its_own_user,
    systemd_sandbox.builds_are_confined,
    systemd_fleet.broker_sees_its_own_folder_alone,
    systemd_fleet.agent_enrols_by_one_line,
    systemd_units.units_are_sound,
    systemd_units.exposure_is_low,
    systemd_fleet.controller_and_agent_show_certificates,
    systemd_documents.commands_of_the_page_succeed,
    systemd_fleet.page_upgrades,
    systemd_fleet.device_is_cut_off_once_revoked,
    systemd_fleet.page_removes_all,
)
SCRATCH = FOLDER / "systemd-debs"


def main() -> int:
    if os.geteuid():
        say("Booting a container takes root: sudo make systemd")
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that nothing stays behind then.
    try:
        seen = _check()
    except Wrong as error:
        say(f"WRONG  {error}")
        return 1
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)
    count = len(FIRST_BOOT) + len(SECOND_BOOT)
    held = count - seen.wrong - seen.unjudged
    say(f"{held} of {count} hold, {seen.wrong} are wrong, {seen.unjudged} not judged")
    return 1 if seen.wrong else 0


def _check() -> Tally:
    """Count what the checks see, on one machine that is booted twice."""
    upgrade = built_next(SCRATCH, AGENT)
    with a_root("systemd") as root:
        lay_out(root, upgrade)
        give_home(root)
        with booted(root) as machine:
            first = check_all(FIRST_BOOT, machine)
        with booted(root) as machine:
            return first.plus(check_all(SECOND_BOOT, machine))


if __name__ == "__main__":
    sys.exit(main())
