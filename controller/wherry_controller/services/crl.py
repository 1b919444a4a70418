"""The list of revoked certificates: issued again each day and at each revocation.

Whoever checks certificates (the broker, the blob door) locks everyone out once the list has ended,
so its end is watched: a controller that cannot issue it says so days before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from wherry.errors import REFUSALS
from wherry_controller.authority import (
    BACKDATE_S,
    DAY_S,
    Authority,
    Crl,
    Revoked,
    make_crl,
    read_crl,
    write_crl,
)
from wherry_controller.store import identities
from wherry_controller.store.database import Store

log = logging.getLogger(__name__)

ALERT_S = 7 * DAY_S
KEPT_S = 400 * DAY_S  # After its end: a peer whose clock is behind may still take it for valid.

Hear = Callable[[Crl], None]


class Revocations:
    """The list in its folder; one thread issues it, every thread may read it."""

    def __init__(self, store: Store, authority: Authority, folder: Path) -> None:
        self._store = store
        self._authority = authority
        self._folder = folder
        self._heard_by: list[Hear] = []

    def tell(self, hear: Hear) -> None:
        """Have `hear` called with each new list, on the thread that issues it."""
        self._heard_by.append(hear)

    @property
    def newest(self) -> Crl | None:
        return read_crl(self._folder)

    def ensure(self, now: float) -> Crl:
        """Return a list in force of all that is revoked: the newest, or one that is issued now.

        A controller that died between a revocation and its list makes up for it here.
        """
        newest = self.newest
        if newest is None or newest.ends_at <= now or self._is_behind(newest, now):
            return self.issue(now)
        return newest

    def issue(self, now: float) -> Crl:
        """Issue a list of all that is revoked, and tell of it."""
        revoked = self._revoked(now)
        crl = make_crl(self._authority, revoked, self.newest, now)
        write_crl(self._folder, crl)
        log.info("crl.issued", extra={"number": crl.number, "revoked": len(revoked)})
        for hear in self._heard_by:
            self._tell(hear, crl)
        return crl

    def _revoked(self, now: float) -> list[Revoked]:
        with self._store.reading() as tx:
            return [
                Revoked(one.serial, one.revoked_at or 0.0)
                for one in identities.list_revoked(tx, ended_after=now - KEPT_S)
            ]

    def _is_behind(self, crl: Crl, now: float) -> bool:
        """Say whether something was revoked after a list was issued, or in its second."""
        return any(one.at >= crl.issued_at + BACKDATE_S for one in self._revoked(now))

    def _tell(self, hear: Hear, crl: Crl) -> None:
        """Tell one; the list stands on the disk, so whoever fails to take it now takes the next."""
        try:
            hear(crl)
        except (OSError, *REFUSALS) as error:
            log.error("crl.not_taken", extra={"problem": str(error)})

    def tick(self, now: float) -> None:
        """Issue a list where the newest is a day old, and say so where one ends soon."""
        try:
            if is_due(self.newest, now):
                self.issue(now)
        finally:
            if ends_soon(self.newest, now):
                log.error("crl.ends_soon", extra={"remedy": "look above for why none was issued"})


def is_due(crl: Crl | None, now: float) -> bool:
    """Say whether a list shall be issued: there is none, a day has gone, or the clock went back."""
    return crl is None or not 0 <= now - crl.issued_at - BACKDATE_S < DAY_S


def ends_soon(crl: Crl | None, now: float) -> bool:
    """Say whether everyone will be locked out within the days of the alert."""
    return crl is None or crl.ends_at - now < ALERT_S
