"""The beginning of trust: the first root, and what an earlier release left for it to vouch for.

Bundles of a database that had no TUF metadata are listed at once, and every rollout that there
was becomes a release, the oldest first: what devices serve then is what they may serve now.
"""

from __future__ import annotations

import logging

from wherry import bundle
from wherry.errors import REFUSALS
from wherry_controller.foundation import read_first_trust, read_held_keys
from wherry_controller.services.trust import Trust
from wherry_controller.settings import Settings
from wherry_controller.store import models, rollouts
from wherry_controller.store import trust as kept
from wherry_controller.store.database import Store, Transaction

log = logging.getLogger(__name__)


def open_trust(settings: Settings, store: Store, now: float) -> Trust:
    """Return the trust of a controller's folder, founded in its database if it was not.

    Raises `NoKeys`, `BadKey` and, for a first root that cannot be served, what `Trust.found` does.
    """
    trust = Trust(lambda: read_held_keys(settings), settings.trust)
    with store.transaction() as tx:
        if not kept.list_roots(tx):
            first = read_first_trust(settings)
            trust.found(tx, first.root, first.targets, now)
            adopt(trust, tx, now)
    return trust


def adopt(trust: Trust, tx: Transaction, now: float) -> None:
    """Vouch for every bundle that is there, and make a release of every rollout."""
    manifests = {}
    for digest, envelope in kept.list_envelopes(tx):
        try:
            manifests[digest] = bundle.open_manifest(envelope, digest)
        except REFUSALS as error:
            log.warning("trust.left_out", extra={"bundle": digest, "problem": str(error)})
    if not manifests:
        return
    trust.add_bundles(tx, manifests, now, cause="adopted from an earlier release")
    for rollout in reversed(rollouts.list_rollouts(tx)):
        variants = models.list_variants(tx, rollout.model, rollout.version)
        bundles = [one.bundle for one in variants if one.bundle in manifests]
        if bundles:
            trust.release(tx, rollout.alias, bundles, now=now)
