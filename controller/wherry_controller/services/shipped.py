"""The profiles that come along, declared where a database has none of their names.

So a new database knows them all, an upgrade brings those that are new, and what an operator made
of one stays: neither a start nor a release changes a profile that is there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from wherry.names import ProfileName
from wherry_controller.profiles import shipped
from wherry_controller.store import models
from wherry_controller.store.database import Store

log = logging.getLogger(__name__)


def declare_shipped(store: Store) -> Sequence[ProfileName]:
    """Declare the profiles that come along and are not there; return their names."""
    with store.transaction() as tx:
        known = {profile.name for profile in models.list_profiles(tx)}
        missing = [profile for profile in shipped() if profile.name not in known]
        for profile in missing:
            models.save_profile(tx, profile)
    names = [profile.name for profile in missing]
    if names:
        log.info("profiles.declared", extra={"profiles": names})
    return names
