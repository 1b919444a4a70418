"""What the controller wants of one device, and how it reads what the device says.

The generation rises with every change of the desired state, and with every renewal of what it
says; so a repeated order is the same order, byte for byte. A change is made first, and issued
(`issue`) before it is signed: for the one enrolment that is live, and to an end.

What a device says is numbered within its store; a new store id is a device that was made anew, and
its numbers begin again. A store never comes back once another has spoken under the same
enrolment: where one does, two devices live with one identity.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from wherry.messages import Order, Trial, Wanted
from wherry.names import AliasName, DeviceId, Digest, StoreId, TrialId

MOST_REVOKED = 32  # The newest; a device keeps two bundles, so older ones are long gone.
MOST_STORES = 8  # The newest; a device is made anew a few times in one enrolment at most.


class Position(msgspec.Struct, frozen=True):
    """How far a numbered series of one device's store has come."""

    store_id: StoreId
    seq: int


def is_news(
    known: Position | None, said: Position, earlier: Mapping[StoreId, int] | None = None
) -> bool:
    """Say whether `said` is later than what is known of its store, `earlier` ones among them."""
    if known is not None and known.store_id == said.store_id:
        return said.seq > known.seq
    return said.seq > (earlier or {}).get(said.store_id, -1)


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
    return _next(msgspec.structs.replace(order, generation=generation), order.aliases)


class Term(NamedTuple):
    """Which generation of a device's orders one is, for which enrolment, and from when to when.

    It expires at 0 as long as it was not issued since it was changed. `snapshot` is the version of
    TUF's snapshot at that time.
    """

    generation: int
    epoch: int
    issued: int
    expires: int
    snapshot: int = 0


def is_due(term: Term, epoch: int, *, now: float) -> bool:
    """Say whether an order must be issued.

    It was changed, half of its life is over, or its device was enrolled again.
    """
    half = (term.issued + term.expires) / 2
    return term.generation > 0 and (term.expires == 0 or term.epoch != epoch or now >= half)


def issue(term: Term, epoch: int, *, lifetime_s: float, now: float, snapshot: int) -> Term:
    """Return the term in which an order is signed now, for the enrolment that is live.

    What was issued before stays as it is until it is due: then the next generation says the same,
    under the same deployment ids.
    """
    if not is_due(term, epoch, now=now):
        return term
    generation = term.generation if term.expires == 0 else term.generation + 1
    return Term(generation, epoch, int(now), int(now + lifetime_s), snapshot)


def first_order(device: DeviceId) -> Order:
    """Return the order of a device of which nothing is wanted yet: it was never issued."""
    return Order(device=device, epoch=0, generation=0, issued=0, expires=0, aliases={})


def is_twin(earlier: Mapping[StoreId, int], said: Position) -> bool:
    """Say whether a store has news though another one has spoken since: two devices live.

    What comes late of a store that is gone is numbered as before, and is no news.
    """
    return said.seq > earlier.get(said.store_id, said.seq)


def earlier_after(
    earlier: Mapping[StoreId, int], known: Position | None, said: Position
) -> dict[StoreId, int]:
    """Return how far the stores came that spoke before the one of `said`, the newest last."""
    if known is None or known.store_id == said.store_id:
        return dict(earlier)
    others = [(store, seq) for store, seq in earlier.items() if store != said.store_id]
    return dict([*others, (known.store_id, known.seq)][-MOST_STORES:])


def is_silent(last_seen_s: float | None, now_s: float, deadline_s: float) -> bool:
    """Say whether a device has not been heard of for too long (a will may never come)."""
    return last_seen_s is None or now_s - last_seen_s > deadline_s


def _with_trials(order: Order, trials: tuple[Trial, ...]) -> Order:
    if trials == order.trials:
        return order
    return msgspec.structs.replace(_next(order, order.aliases), trials=trials)


def _next(order: Order, aliases: dict[AliasName, Wanted]) -> Order:
    return msgspec.structs.replace(
        order, generation=order.generation + 1, aliases=aliases, issued=0, expires=0
    )
