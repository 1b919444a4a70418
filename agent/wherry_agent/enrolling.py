"""Enrolling: from a token, or a key that an operator approves, to a home that an agent runs in.

    the CA, by its fingerprint -> key and request on the disk -> the door -> root, papers, settings

Each step may be interrupted and begun again: the request stays the same until all is written, for
a token serves no other, and the settings, which make the home an agent's, are written last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wherry.codec import BadDocument
from wherry.enrolment import Enrolled, EnrolRequest, Waiting
from wherry.errors import Unavailable, Unsuitable
from wherry.names import DeviceId, Digest, ProfileName
from wherry_agent import detect
from wherry_agent.core.dates import Dates, Verdict
from wherry_agent.door import Door, DoorRefused, fetch_ca
from wherry_agent.identity import ask, fingerprint_of_key, identify, papers_of
from wherry_agent.papers import forget_asked, write_papers, write_root
from wherry_agent.settings import (
    EnrolledEarlier,
    Identity,
    NotEnrolled,
    Settings,
    check_settings,
    known_device,
    parse_door,
    read_identity,
    write_settings,
)

CLOCK_SLACK_S = 3600.0
SPENT = ("certificate_revoked", "approval_used")  # Refusals of a request, not of its device.


class NobodyApproved(Unsuitable):
    """A key that nobody approved in the time that was given."""

    def __init__(self, fingerprint: Digest, wait_s: float) -> None:
        super().__init__(fingerprint, wait_s)
        self.fingerprint, self.wait_s = fingerprint, wait_s

    def __str__(self) -> str:
        return (
            f"nobody approved the key {self.fingerprint} in {self.wait_s:.0f} s: run "
            "`wherry device approve` for it, then `wherry-agent enrol` again."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What enrolling is to achieve; without a `secret` an operator is asked to approve the key.

    `device` and `profile` may only be wished for: the controller names the device. `local` holds
    the settings that are this machine's own.
    """

    controller: str
    ca: Digest
    secret: str | None = None
    device: DeviceId | None = None
    profile: ProfileName | None = None
    wait_s: float = 86_400.0
    local: Callable[[Settings], Settings]


Say = Callable[[str], None]
_ANYONE = Settings(id=DeviceId("any"), profile=ProfileName("any"), broker="mqtt://127.0.0.1")


def enrol(home: Path, wish: Wish, say: Say, *, sleep: Callable[[float], None]) -> Identity:
    """Make `home` a device's; `say` tells a person how far it is.

    Raises what `door` and `identity` raise, `NobodyApproved`, and `BadSettings` for settings that
    cannot be, before a token is used up.
    """
    _try_settings(wish)
    ca = fetch_ca(wish.controller, wish.ca)
    say(f"{wish.controller} is the controller that was meant: its CA has the right fingerprint.")
    asked = ask(home)
    request = EnrolRequest(
        csr=asked.request.decode(),
        token=wish.secret,
        device=wish.device or known_device(home),
        profile=wish.profile,
        facts=detect.facts(),
    )
    door = Door(url=wish.controller, ca=ca, floor=_floor_of(home), on_peer=_let_be)
    if wish.secret is None:
        say(f"the key's fingerprint is {fingerprint_of_key(asked)}.")
    try:
        answer = _ask_until_approved(door, request, wish, say, sleep)
    except DoorRefused as error:
        if error.reason in SPENT:
            forget_asked(home)  # The same again would be refused for ever.
        raise
    settings = wish.local(_settings_of(wish, answer))
    check_settings(settings)
    identity = identify(asked, answer, ca)
    write_root(home, bytes(answer.root))  # Before the papers: a new epoch begins with it.
    write_papers(home, papers_of(asked, answer, ca), identity)
    write_settings(home, settings)
    forget_asked(home)
    _tell_of_the_clock(answer, say)
    return identity


def hand_over(home: Path) -> None:
    """Give what root wrote in `home` to the home's owner, whom the agent runs as.

    A package's service has a user of its own, and only root may enrol a device.
    """
    owner = home.stat() if home.is_dir() else None
    if os.geteuid() != 0 or owner is None:
        return
    # By folders that are held open: the owner may not lead root elsewhere by a link.
    for _, folders, files, descriptor in os.fwalk(home, follow_symlinks=False):
        for name in (*folders, *files):
            os.chown(name, owner.st_uid, owner.st_gid, dir_fd=descriptor, follow_symlinks=False)


def _ask_until_approved(
    door: Door, request: EnrolRequest, wish: Wish, say: Say, sleep: Callable[[float], None]
) -> Enrolled:
    """Ask the same again until there is a certificate or the time is over.

    Once it waits, a door that does not answer for a while is waited for too.
    """
    waiting: Waiting | None = None
    waited_s = 0.0
    while True:
        try:
            answer = door.enrol(request)
        except Unavailable:
            if waiting is None:
                raise
            answer = waiting
        if isinstance(answer, Enrolled):
            return answer
        if waiting is None:
            say(
                "it waits for an operator, who compares the fingerprint and runs: "
                f"wherry device approve {answer.fingerprint} --device DEVICE"
            )
        waiting = answer
        if waited_s >= wish.wait_s:
            raise NobodyApproved(answer.fingerprint, wish.wait_s)
        sleep(answer.poll_s)
        waited_s += answer.poll_s


def _settings_of(wish: Wish, answer: Enrolled) -> Settings:
    return Settings(
        id=answer.device,
        profile=answer.profile,
        broker=answer.broker,
        fetch_broker=answer.fetch_broker,
        controller=wish.controller,
        blobs=answer.blobs,
    )


def _try_settings(wish: Wish) -> None:
    """Raise `BadSettings` for local settings that cannot be, whatever the controller answers."""
    parse_door(wish.controller)
    check_settings(wish.local(_ANYONE))


def _floor_of(home: Path) -> float:
    """Return the latest time that an earlier enrolment of this home has proved."""
    try:
        return read_identity(home).not_before
    except (NotEnrolled, EnrolledEarlier, BadDocument):
        return 0.0


def _tell_of_the_clock(answer: Enrolled, say: Say) -> None:
    off_s = time.time() - answer.at
    if abs(off_s) > CLOCK_SLACK_S:
        direction = "ahead of" if off_s > 0 else "behind"
        say(
            f"this machine's clock is {abs(off_s) / 3600:.0f} h {direction} the controller's: "
            "the agent goes by signed times where they are later, but set the clock."
        )


def _let_be(_: Dates, __: Verdict) -> None:
    """Take the door with a clock that is ahead too: what comes of it is signed."""
