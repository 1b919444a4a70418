"""The download machine: which chunks of one bundle to ask the broker for, and when.

Chunks are retained messages, so asking is subscribing. The manifest is asked for first; then a
window of missing chunks stays subscribed, and each that arrives makes room for the next. What
is on disk is never asked for again.

    manifest -> window of chunks -> ... -> Complete

* Rate: with a limit, a chunk is asked for once the budget of bytes covers it.
* Stall: nothing arrived for max(30 s, 4 x what the measured rate predicts for the window). The
  window shrinks by half (8 chunks of 256 KiB over 50 kB/s take 42 s: a slow link looks like a
  missing chunk), is unsubscribed and asked for again, since a broker sends a retained message
  only to a new subscription; and the controller is told what is wanted.
* Spoiled: bytes that are not what their name says are wanted anew after a pause, a few times.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec.structs import replace
from typing_extensions import assert_never

from wherry.messages import LARGEST_WANTS
from wherry.names import Digest

WINDOW = 8
STALL_S = 30.0
STALL_FACTOR = 4.0
PAUSE_S = 2.0
SPOILS_ALLOWED = 5
MANIFEST_BYTES = 16 * 1024  # A guess, for the stall rule only.


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """`missing` is None until the manifest came: then chunk -> bytes, in the order to fetch.

    `asked` are subscribed now; `spoiled` counts bad copies; `paused_until_s` is per chunk.
    """

    bundle: Digest
    limit_bytes_per_s: float | None = None
    connected: bool = False
    missing: dict[Digest, int] | None = None
    asked: tuple[Digest, ...] = ()
    window: int = WINDOW
    spoiled: dict[Digest, int] = {}
    paused_until_s: dict[Digest, float] = {}
    received_bytes: int = 0
    busy_s: float = 0.0
    progress_s: float = 0.0
    budget_bytes: float = 0.0
    now_s: float = 0.0


# Events


class Connected(msgspec.Struct, frozen=True):
    at_s: float


class Disconnected(msgspec.Struct, frozen=True):
    pass


class ManifestCame(msgspec.Struct, frozen=True):
    """The manifest is verified; `missing` are the chunks that are not on disk."""

    missing: dict[Digest, int]
    at_s: float


class ChunkCame(msgspec.Struct, frozen=True):
    """A chunk is verified and on disk."""

    chunk: Digest
    at_s: float


class ChunkSpoiled(msgspec.Struct, frozen=True):
    chunk: Digest
    at_s: float


class Tick(msgspec.Struct, frozen=True):
    at_s: float


Event: TypeAlias = Connected | Disconnected | ManifestCame | ChunkCame | ChunkSpoiled | Tick


# Effects


class AskManifest(msgspec.Struct, frozen=True):
    bundle: Digest


class DropManifest(msgspec.Struct, frozen=True):
    bundle: Digest


class AskChunks(msgspec.Struct, frozen=True):
    chunks: tuple[Digest, ...]


class DropChunks(msgspec.Struct, frozen=True):
    chunks: tuple[Digest, ...]


class Want(msgspec.Struct, frozen=True):
    """Tell the controller, after a jitter, what does not come."""

    digests: tuple[Digest, ...]


class Complete(msgspec.Struct, frozen=True):
    """Every chunk is on disk."""


class GiveUp(msgspec.Struct, frozen=True):
    """The chunk came with wrong bytes too often."""

    chunk: Digest


Effect: TypeAlias = AskManifest | DropManifest | AskChunks | DropChunks | Want | Complete | GiveUp
Effects: TypeAlias = tuple[Effect, ...]


def step(state: Download, event: Event) -> tuple[Download, Effects]:
    """Return the state that follows `event`, and what to ask for."""
    match event:
        case Connected(at_s):
            fresh = replace(state, connected=True, asked=(), now_s=at_s, progress_s=at_s)
            if state.missing is None:
                return fresh, (AskManifest(state.bundle),)
            return _refill(fresh)
        case Disconnected():
            return replace(state, connected=False, asked=()), ()
        case ManifestCame(missing, at_s):
            if state.missing is not None:
                return state, ()
            known = replace(_pass(state, at_s), missing=missing, progress_s=at_s)
            after, effects = _refill(known)
            return after, (DropManifest(state.bundle), *effects)
        case ChunkCame(chunk, at_s):
            return _take(_pass(state, at_s), chunk)
        case ChunkSpoiled(chunk, at_s):
            return _spoil(_pass(state, at_s), chunk)
        case Tick(at_s):
            return _tick(_pass(state, at_s))
        case _:
            assert_never(event)


def stall_s(state: Download) -> float:
    """Return how long nothing may arrive before the window counts as stalled."""
    sizes = state.missing or {}
    expected = sum(sizes.get(chunk, 0) for chunk in state.asked) or MANIFEST_BYTES
    rates = [state.received_bytes / state.busy_s] if state.received_bytes and state.busy_s else []
    if state.limit_bytes_per_s:
        rates.append(state.limit_bytes_per_s)
    return max(STALL_S, STALL_FACTOR * expected / min(rates)) if rates else STALL_S


def _pass(state: Download, at_s: float) -> Download:
    """Let the time pass: the budget grows up to a second's worth, or one chunk's."""
    passed = max(0.0, at_s - state.now_s) if state.now_s else 0.0
    if state.limit_bytes_per_s is None:
        return replace(state, now_s=at_s)
    largest = max(state.limit_bytes_per_s, *(state.missing or {}).values(), 0.0)
    budget = min(largest, state.budget_bytes + passed * state.limit_bytes_per_s)
    return replace(state, now_s=at_s, budget_bytes=budget)


def _take(state: Download, chunk: Digest) -> tuple[Download, Effects]:
    if state.missing is None or chunk not in state.missing:
        return state, ()
    missing = {digest: size for digest, size in state.missing.items() if digest != chunk}
    if chunk in state.asked:
        # Only waits that a chunk ended measure the rate: waiting in vain must come to an end.
        state = replace(
            state,
            asked=tuple(digest for digest in state.asked if digest != chunk),
            received_bytes=state.received_bytes + state.missing[chunk],
            busy_s=state.busy_s + state.now_s - state.progress_s,
        )
    after, effects = _refill(replace(state, missing=missing, progress_s=state.now_s))
    return after, (DropChunks((chunk,)), *effects)


def _spoil(state: Download, chunk: Digest) -> tuple[Download, Effects]:
    if chunk not in state.asked:
        return state, ()
    times = state.spoiled.get(chunk, 0) + 1
    if times > SPOILS_ALLOWED:
        return state, (GiveUp(chunk),)
    spoiled = replace(
        state,
        asked=tuple(digest for digest in state.asked if digest != chunk),
        spoiled={**state.spoiled, chunk: times},
        paused_until_s={**state.paused_until_s, chunk: state.now_s + PAUSE_S * 2.0 ** (times - 1)},
        progress_s=state.now_s,
    )
    after, effects = _refill(spoiled)
    return after, (DropChunks((chunk,)), Want((chunk,)), *effects)


def _tick(state: Download) -> tuple[Download, Effects]:
    if state.missing is not None and not state.missing:
        return state, ()  # Complete, and told.
    awaits = state.connected and (state.missing is None or state.asked)
    if not awaits or state.now_s - state.progress_s <= stall_s(state):
        return _refill(state)
    again = replace(state, progress_s=state.now_s, window=max(1, state.window // 2))
    if state.missing is None:
        return again, (DropManifest(state.bundle), AskManifest(state.bundle), Want((state.bundle,)))
    after, effects = _refill(replace(again, asked=()))
    return after, (DropChunks(state.asked), *effects, Want(state.asked[:LARGEST_WANTS]))


def _refill(state: Download) -> tuple[Download, Effects]:
    """Ask for as many more chunks as the window and the budget allow."""
    if state.missing is None or not state.connected:
        return state, ()
    if not state.missing:
        return state, (Complete(),)
    fresh: list[Digest] = []
    budget = state.budget_bytes
    for chunk, size in state.missing.items():
        if len(state.asked) + len(fresh) >= state.window:
            break
        if chunk in state.asked or state.paused_until_s.get(chunk, 0.0) > state.now_s:
            continue
        if state.limit_bytes_per_s is not None:
            if size > budget:
                break
            budget -= size
        fresh.append(chunk)
    if not fresh:
        return state, ()
    progress = state.progress_s if state.asked else state.now_s
    asked = replace(state, asked=(*state.asked, *fresh), budget_bytes=budget, progress_s=progress)
    return asked, (AskChunks(tuple(fresh)),)
