"""The session machine: the device's side of its connection to the broker.

    Offline --Connect--> Online --lost--> Offline (again after a jittered delay)

* Events stay in the outbox until the controller's ack covers them: a PUBACK only says that the
  broker has them. What is not acked is sent again at every connect, and when no ack came for
  `RESEND_S`.
* `reported` is said at every connect and after every change; it is enough by itself.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec.structs import replace
from typing_extensions import assert_never

from wherry_agent.core.backoff import delay_s

RESEND_S = 30.0
LARGEST_UNACKED = 100


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """`last` is the newest event in the outbox; `sent` and `acked` how far it has gone.

    `spread_s` is over how long the controller wants its fleet's reconnects spread.
    """

    connected: bool = False
    failures: int = 0
    connect_at_s: float | None = 0.0
    last: int = 0
    sent: int = 0
    acked: int = 0
    ack_awaited_since_s: float = 0.0
    spread_s: float = 0.0


# Events


class Connected(msgspec.Struct, frozen=True):
    at_s: float


class Lost(msgspec.Struct, frozen=True):
    """The connection broke, or a try to connect failed; `chance` is uniform in [0, 1)."""

    at_s: float
    chance: float


class Stored(msgspec.Struct, frozen=True):
    """Events up to `seq` stand in the outbox."""

    seq: int
    at_s: float


class Acked(msgspec.Struct, frozen=True):
    seq: int
    at_s: float


class Advised(msgspec.Struct, frozen=True):
    """The controller's wish for the next time that the connection is lost."""

    spread_s: float


class Tick(msgspec.Struct, frozen=True):
    at_s: float


Event: TypeAlias = Connected | Lost | Stored | Acked | Advised | Tick


# Effects


class Connect(msgspec.Struct, frozen=True):
    pass


class Announce(msgspec.Struct, frozen=True):
    """Say that the device is online, and what it has."""


class Send(msgspec.Struct, frozen=True):
    """Publish the outbox's events after `after` up to `until`."""

    after: int
    until: int


class Forget(msgspec.Struct, frozen=True):
    """Delete the outbox's events up to `until`."""

    until: int


Effect: TypeAlias = Connect | Announce | Send | Forget
Effects: TypeAlias = tuple[Effect, ...]


def step(state: Session, event: Event) -> tuple[Session, Effects]:
    """Return the state that follows `event`, and what to do about it."""
    match event:
        case Connected(at_s):
            online = replace(state, connected=True, failures=0, connect_at_s=None, sent=state.acked)
            after, effects = _send(online, at_s)
            return after, (Announce(), *effects)
        case Lost(at_s, chance):
            wait = delay_s(state.failures, chance, state.spread_s)
            return replace(
                state, connected=False, failures=state.failures + 1, connect_at_s=at_s + wait
            ), ()
        case Stored(seq, at_s):
            return _send(replace(state, last=max(state.last, seq)), at_s)
        case Acked(seq, at_s):
            return _ack(state, seq, at_s)
        case Advised(spread_s):
            return replace(state, spread_s=spread_s), ()
        case Tick(at_s):
            return _tick(state, at_s)
        case _:
            assert_never(event)


def _ack(state: Session, seq: int, at_s: float) -> tuple[Session, Effects]:
    seq = min(seq, state.last)
    if seq <= state.acked:
        return state, ()
    acked = replace(state, acked=seq, sent=max(state.sent, seq), ack_awaited_since_s=at_s)
    after, effects = _send(acked, at_s)
    return after, (Forget(seq), *effects)


def _send(state: Session, at_s: float) -> tuple[Session, Effects]:
    until = min(state.last, state.acked + LARGEST_UNACKED)
    if not state.connected or until <= state.sent:
        return state, ()
    since = at_s if state.sent == state.acked else state.ack_awaited_since_s
    return replace(state, sent=until, ack_awaited_since_s=since), (Send(state.sent, until),)


def _tick(state: Session, at_s: float) -> tuple[Session, Effects]:
    if state.connect_at_s is not None and at_s >= state.connect_at_s:
        return replace(state, connect_at_s=None), (Connect(),)
    if state.connected and state.sent > state.acked and _waited(state, at_s):
        return _send(replace(state, sent=state.acked), at_s)
    return state, ()


def _waited(state: Session, at_s: float) -> bool:
    return at_s - state.ack_awaited_since_s >= RESEND_S
