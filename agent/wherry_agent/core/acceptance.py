"""The acceptance machine: which orders and trust metadata a device takes, and what it asks for.

    desired --> followed: the agent's orders from now on
           `--> lacking pieces: asked for, and tried again when one came
           `--> refused: told once, and tried again when time or trust has moved

The newest desired state waits until it is followed: a timestamp, a piece or a while later the same
bytes may do. The next root is always asked for, so that a rotation arrives before what the new keys
sign. Pieces that led to a refusal are dropped and asked for anew: they may be another's. What is
true after each step is `trust`, which outlives the process; the rest comes again from the broker.

Signatures are the business of a `Verifier`. While it is not to be had, what came waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from typing_extensions import assert_never

from wherry import codec
from wherry.blobs import digest_of
from wherry.errors import Malformed, Unavailable
from wherry.messages import Desired, Order, detail
from wherry.names import AliasName, DeviceId, ProfileName, TrialId
from wherry.reasons import Reason
from wherry.trust import keeping, packet
from wherry.trust.keeping import Followed, Lacking, Offer, Repeated, Trust, Verifier
from wherry.trust.refusals import MetadataRefused, OrderRefused
from wherry.trust.target import Verdict

LARGEST_DESIRED_BYTES = 512 * 1024
RETRY_S = 60.0
LARGEST_TOLD = 32

Refusal: TypeAlias = Malformed | MetadataRefused | OrderRefused


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """What a device trusts, and what of the newest messages waits.

    `desired` and `timestamp` are bytes that are not taken yet; `asked` are pieces by name that the
    broker is to send; `told` are the refusals that need no second word.
    """

    device: DeviceId
    profile: ProfileName
    trust: Trust
    desired: bytes = b""
    timestamp: bytes = b""
    lacking: tuple[str, ...] = ()
    pieces: Mapping[str, bytes] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    tried_s: float = 0.0


# Events


@dataclass(frozen=True, slots=True)
class Joined:
    """The connection came up: nothing is asked of the broker yet."""


@dataclass(frozen=True, slots=True)
class DesiredCame:
    payload: bytes


@dataclass(frozen=True, slots=True)
class TimestampCame:
    payload: bytes


@dataclass(frozen=True, slots=True)
class PieceCame:
    """Metadata by its name, as `snapshot/12`."""

    name: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Tick:
    """`at_s` is of the monotonic clock."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Vouched:
    """What was verified by `source` says that it is no earlier than this UNIX time."""

    source: str
    signed_time: float


Event: TypeAlias = Joined | DesiredCame | TimestampCame | PieceCame | Tick | Vouched


# Effects


@dataclass(frozen=True, slots=True)
class Accept:
    """Follow this order, as far as its verdicts allow."""

    order: Order
    verdicts: Mapping[AliasName, Verdict]
    trials: Mapping[TrialId, Verdict]


@dataclass(frozen=True, slots=True)
class Advise:
    """The order in it is followed: the rest of it is worth listening to."""

    desired: Desired


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell the controller that bytes were refused."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class AskTrust:
    """Have the broker send these pieces of metadata."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DropTrust:
    """These pieces came, or are needed no more."""

    names: tuple[str, ...]


Effect: TypeAlias = Accept | Advise | Refuse | AskTrust | DropTrust
Effects: TypeAlias = tuple[Effect, ...]


@dataclass(frozen=True, slots=True)
class _By:
    """What it is judged by: the UNIX time, and who looks at signatures."""

    clock: float
    verifier: Verifier


def step(
    state: Acceptance, event: Event, clock: float, verifier: Verifier
) -> tuple[Acceptance, Effects]:
    """Return the state that follows `event` at the UNIX time `clock`, and what to do about it."""
    by = _By(clock, verifier)
    match event:
        case Joined():
            return _ask(replace(state, asked=()))
        case DesiredCame(payload):
            kept = state.pieces if payload == state.desired else {}
            return _consider(replace(state, desired=payload, pieces=kept), by)
        case TimestampCame(payload):
            after, told = _take_timestamp(replace(state, timestamp=payload), by)
            return (after, told) if after.trust is state.trust else _go_on(after, told, by)
        case PieceCame(name, payload) if name == keeping.next_root(state.trust):
            return _take_root(state, name, payload, by)
        case PieceCame(name, payload):
            return _take_piece(state, name, payload, by)
        case Vouched(source, signed_time):
            trust = keeping.raise_floor(state.trust, source, signed_time)
            return replace(state, trust=trust), ()
        case Tick(at_s):
            if at_s - state.tried_s < RETRY_S:
                return state, ()
            return _retry(replace(state, tried_s=at_s), by)
        case _:
            assert_never(event)


def _take_root(state: Acceptance, name: str, payload: bytes, by: _By) -> tuple[Acceptance, Effects]:
    """Take the next root; after one that is refused the broker may yet send another."""
    try:
        trust = by.verifier.take_roots(state.trust, {name: payload})
    except (Malformed, MetadataRefused) as error:
        return _refuse(state, payload, error)
    except Unavailable:
        return _ask(replace(state, asked=tuple(one for one in state.asked if one != name)))
    return _retry(replace(state, trust=trust), by)


def _take_piece(
    state: Acceptance, name: str, payload: bytes, by: _By
) -> tuple[Acceptance, Effects]:
    if name not in state.asked:
        return state, ()
    asked = tuple(one for one in state.asked if one != name)
    lacking = tuple(one for one in state.lacking if one != name)
    pieces = {**state.pieces, name: payload}
    state = replace(state, asked=asked, lacking=lacking, pieces=pieces)
    if lacking:
        return state, (DropTrust((name,)),)
    return _go_on(state, (DropTrust((name,)),), by)


def _retry(state: Acceptance, by: _By) -> tuple[Acceptance, Effects]:
    """Try what waits: trust or time may have moved."""
    state, told = _take_timestamp(state, by)
    return _go_on(state, told, by)


def _take_timestamp(state: Acceptance, by: _By) -> tuple[Acceptance, Effects]:
    if not state.timestamp:
        return state, ()
    try:
        trust = by.verifier.take_timestamp(state.trust, state.timestamp, by.clock)
    except (Malformed, MetadataRefused) as error:
        return _refuse(state, state.timestamp, error)
    except Unavailable:
        return state, ()
    return replace(state, trust=trust, timestamp=b""), ()


def _go_on(state: Acceptance, effects: Effects, by: _By) -> tuple[Acceptance, Effects]:
    after, more = _consider(state, by)
    return after, effects + more


def _consider(state: Acceptance, by: _By) -> tuple[Acceptance, Effects]:
    """Follow the desired state that waits, as far as it goes."""
    if not state.desired:
        return _ask(state)
    try:
        desired = _read(state.desired)
        pieces = {**packet.unpack(desired.packet), **state.pieces}
        # A root that is taken stays taken, whatever becomes of the order.
        state = replace(state, trust=by.verifier.take_roots(state.trust, pieces))
        offer = Offer(bytes(desired.order), pieces, state.device, state.profile)
        outcome = by.verifier.follow(state.trust, offer, by.clock)
    except (Malformed, MetadataRefused, OrderRefused) as error:
        after, told = _refuse(replace(state, pieces={}, lacking=()), state.desired, error)
        after, asks = _ask(after)
        return after, told + asks
    except Unavailable:
        return state, ()
    after, asks = _ask(_after(state, outcome))
    match outcome:
        case Followed(_, order, verdicts, trials):
            return after, (Accept(order, verdicts, trials), Advise(desired), *asks)
        case Repeated():
            return after, (Advise(desired), *asks)
        case Lacking():
            return after, asks
        case _:
            assert_never(outcome)


def _read(payload: bytes) -> Desired:
    if len(payload) > LARGEST_DESIRED_BYTES:
        long = f"it has {len(payload)} bytes and {LARGEST_DESIRED_BYTES} are allowed"
        raise MetadataRefused(Reason.OVERSIZED_PACKET, "packet", long)
    return codec.decode(Desired, payload)


def _after(state: Acceptance, outcome: keeping.Outcome) -> Acceptance:
    if isinstance(outcome, Lacking):
        return replace(state, trust=outcome.trust, lacking=outcome.names)
    return replace(state, trust=outcome.trust, desired=b"", pieces={}, lacking=())


def _ask(state: Acceptance) -> tuple[Acceptance, Effects]:
    """Have the broker send what is lacking and the next root, and nothing else."""
    wanted = (keeping.next_root(state.trust), *state.lacking)
    names = tuple(name for name in wanted if name != keeping.TIMESTAMP)
    fresh = tuple(name for name in names if name not in state.asked)
    stale = tuple(name for name in state.asked if name not in names)
    effects: list[Effect] = [AskTrust(fresh)] if fresh else []
    effects += [DropTrust(stale)] if stale else []
    return replace(state, asked=names), tuple(effects)


def _refuse(state: Acceptance, payload: bytes, error: Refusal) -> tuple[Acceptance, Effects]:
    """Tell what was refused, unless the same bytes were refused for the same reason before."""
    reason = Reason.MALFORMED_PACKET if isinstance(error, Malformed) else error.reason
    key = f"{reason.value} {digest_of(payload)}"
    if key in state.told:
        return state, ()
    told = (*state.told, key)[-LARGEST_TOLD:]
    return replace(state, told=told), (Refuse(reason, detail(str(error))),)
