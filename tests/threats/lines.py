"""A device at the end of a line that an attacker may hold, for the threats to its trust.

A device has followed generation 1 under `REPOSITORY`; what it hears from then on is refused with
a reason and leaves its trust, what it asks the broker for and its orders as they were.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.builders import A_TIME, a_bundle_of, a_wanted, an_alias, an_order
from tests.trusted import (
    DIRECTOR_KEY,
    ONLINE,
    a_listing,
    a_repository,
    bundles_of,
    sign_order,
)
from wherry import codec
from wherry.bundle import Bundle
from wherry.messages import Desired, Order
from wherry.names import DeviceId, ProfileName, VersionName
from wherry.reasons import Reason
from wherry.trust import packet
from wherry.trust.device import begin
from wherry.trust.repository import Repository, pieces_for, release, with_bundles
from wherry_agent.core.acceptance import (
    Accept,
    Acceptance,
    DesiredCame,
    Effects,
    Event,
    Refuse,
    TimestampCame,
    step,
)
from wherry_agent.verifier import answer
from wherry_agent.verifying import Verifying

DAY_S = 86_400.0
SOON = A_TIME + 60.0
BUNDLE, NEXT = a_bundle_of(b"one" * 500), a_bundle_of(b"two" * 500, version=VersionName("v2"))
REPOSITORY = a_repository([BUNDLE])

# As a device does it, but without the process: what goes between the two is tried by each row.
VERIFIER = Verifying(answer)


def released(repository: Repository, bundle: Bundle = NEXT, *, now: float = A_TIME) -> Repository:
    """Return the repository with one bundle more, released."""
    listed = with_bundles(repository, {bundle.digest: a_listing(bundle)}, ONLINE, now)
    return release(listed, an_alias(), [bundle.digest], ONLINE, now)


NEWER = released(REPOSITORY)


def the_order(bundle: Bundle = NEXT, *, generation: int = 2, **changes: object) -> Order:
    wanted = a_wanted(f"d-{generation}", bundle=bundle.digest)
    order = an_order(generation=generation, aliases={an_alias(): wanted})
    return msgspec.structs.replace(order, **changes)


def desired(
    repository: Repository = NEWER,
    order: Order | None = None,
    *,
    key: Ed25519PrivateKey = DIRECTOR_KEY,
    swap: Mapping[str, bytes] | None = None,
) -> DesiredCame:
    """Return a desired state whose pieces an attacker swapped for others."""
    order = order or the_order()
    pieces = {**pieces_for(repository, bundles_of(order), root_after=1), **(swap or {})}
    envelope = msgspec.Raw(sign_order(order, key))
    return DesiredCame(codec.encode(Desired(order=envelope, packet=packet.pack(pieces))))


def enrolled(repository: Repository = REPOSITORY) -> Acceptance:
    """Return a device that knows the repository's first root only."""
    trust = begin(repository.roots[0].data, epoch=1)
    return Acceptance(device=DeviceId("pi-1"), profile=ProfileName("x86-onnx-fp32"), trust=trust)


def following(repository: Repository = REPOSITORY, *, clock: float = SOON) -> Acceptance:
    """Return a device that follows generation 1."""
    first = desired(repository, the_order(BUNDLE, generation=1))
    state, effects = heard(enrolled(repository), stamp(repository), first, clock=clock)
    assert has_accepted(effects)
    return state


def updated(repository: Repository = NEWER, *, clock: float = SOON) -> Acceptance:
    """Return a device that follows generation 1 and knows the newer repository's timestamp."""
    return heard(following(clock=clock), stamp(repository), clock=clock)[0]


def stamp(repository: Repository) -> TimestampCame:
    return TimestampCame(repository.timestamp.data)


def heard(state: Acceptance, *events: Event, clock: float = SOON) -> tuple[Acceptance, Effects]:
    """Return the device after `events`, and what it does about the last."""
    effects: Effects = ()
    for event in events:
        state, effects = step(state, event, clock, VERIFIER)
    return state, effects


def has_accepted(effects: Effects) -> bool:
    return any(isinstance(effect, Accept) for effect in effects)


def reasons(effects: Effects) -> list[Reason]:
    return [effect.reason for effect in effects if isinstance(effect, Refuse)]


def refuses(state: Acceptance, event: Event, reason: Reason, *, clock: float = SOON) -> Acceptance:
    """Return the device after it has refused `event` for `reason`, its trust untouched."""
    after, effects = step(state, event, clock, VERIFIER)
    assert reasons(effects) == [reason], effects
    assert not has_accepted(effects), effects
    assert after.trust == state.trust
    return after


def accepts(state: Acceptance, *events: Event, clock: float = SOON) -> Acceptance:
    """Return the device after it has followed the last of `events`."""
    after, effects = heard(state, *events, clock=clock)
    assert has_accepted(effects), effects
    return after
