"""What the controller wants of one device, and how it reads what the device says.

The generation rises with every change of the desired state and with nothing else, so a repeated
order is the same order. What a device says is numbered within its store; a new store id is a
device that was made anew, and its numbers begin again.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from wherry.messages import Order, Trial, Wanted
from wherry.names import AliasName, DeviceId, Digest, StoreId, TrialId

MOST_REVOKED = 32  # The newest; a device keeps two bundles, so older ones are long gone.


class Position(msgspec.Struct, frozen=True):
    """How far a numbered series of one device's store has come."""

    store_id: StoreId
    seq: int


def is_news(known: Position | None, said: Position) -> bool:
    """Say whether `said` is later than what is known of the device."""
    return known is None or known.store_id != said.store_id or said.seq > known.seq


def contiguous(acked: int, stored: frozenset[int]) -> int:
    """Return the highest number up to which every one after `acked` is stored."""
    while acked + 1 in stored:
        acked += 1
    return acked


def want(order: Order, alias: AliasName, wanted: Wanted, *, revoked: Digest | None = None) -> Order:
    """Return the order that also wants `wanted`; the same order where it does already.

    A device never falls back to a bundle that is `revoked`; to want one is to trust it again.
    """
    kept = (digest for digest in order.revoked if digest not in (wanted.bundle, revoked))
    all_revoked = (*kept, *([revoked] if revoked else []))[-MOST_REVOKED:]
    if order.aliases.get(alias) == wanted and order.revoked == all_revoked:
        return order
    return msgspec.structs.replace(
        _next(order, {**order.aliases, alias: wanted}), revoked=all_revoked
    )


def withdraw(order: Order, alias: AliasName) -> Order:
    """Return the order that wants nothing of `alias`."""
    if alias not in order.aliases:
        return order
    return _next(order, {name: w for name, w in order.aliases.items() if name != alias})


def order_trials(order: Order, trials: Collection[Trial]) -> Order:
    """Return the order that also names `trials`; the same order where it does already."""
    known = {trial.trial for trial in order.trials}
    fresh = [trial for trial in trials if trial.trial not in known]
    return _with_trials(order, (*order.trials, *fresh))


def end_trials(order: Order, trials: Collection[TrialId]) -> Order:
    """Return the order that names none of `trials`."""
    return _with_trials(order, tuple(one for one in order.trials if one.trial not in trials))


def outrun(order: Order, generation: int) -> Order:
    """Return the order in a generation that a device which accepted `generation` follows.

    Such a device was ordered by a database that is lost, or before it was removed and added.
    """
    if generation <= order.generation:
        return order
    return msgspec.structs.replace(order, generation=generation + 1)


def first_order(device: DeviceId) -> Order:
    """Return the order of a device of which nothing is wanted yet."""
    return Order(device=device, generation=0, aliases={})


def is_silent(last_seen_s: float | None, now_s: float, deadline_s: float) -> bool:
    """Say whether a device has not been heard of for too long (a will may never come)."""
    return last_seen_s is None or now_s - last_seen_s > deadline_s


def _with_trials(order: Order, trials: tuple[Trial, ...]) -> Order:
    if trials == order.trials:
        return order
    return msgspec.structs.replace(_next(order, order.aliases), trials=trials)


def _next(order: Order, aliases: dict[AliasName, Wanted]) -> Order:
    return msgspec.structs.replace(order, generation=order.generation + 1, aliases=aliases)
