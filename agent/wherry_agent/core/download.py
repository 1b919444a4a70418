"""The download machine: which chunks of one bundle to ask the broker for, and when.

Chunks are retained messages, so asking is subscribing. The manifest is asked for first; then a
window of missing chunks stays subscribed, and each that arrives makes room for the next. What
is on disk is never asked for again.

    manifest -> window of chunks -> ... -> Complete -> Assembled
                     ^------ StillMissing ----|------- Awaits

* Steps: what is missing may be known in steps (a delta's index, then its chunks), so `Complete`
  says only that what was asked for is there; `StillMissing` names the next, `Awaits` gives time.
* Rate: with a limit, a chunk is asked for once the budget of bytes covers it; and with a budget for
  the day, only while that has room for it.
* Stall: nothing arrived for max(30 s, 4 x what the measured rate predicts for the window): no
  chunk, and too few bytes to be one on its way (8 chunks of 256 KiB over 50 kB/s take 42 s: what
  comes slowly is asked for only once). The window shrinks by half, is unsubscribed and asked for
  again, since a broker sends a retained message only to a new subscription; and the controller
  is told what is wanted.
* Spoiled: bytes that are not what their name says are wanted anew after a pause, a few times.
* Second way: while the broker is stalled or away, and for chunks that it spoiled, an HTTP(S) source
  is asked beside it (`core.sources`), one chunk at a time. Its words stand in `chunks`.
"""

from __future__ import annotations

import math

import msgspec
from msgspec.structs import replace
from typing_extensions import assert_never

from wherry.messages import LARGEST_WANTS
from wherry.names import Digest
from wherry_agent.core import sources as second
from wherry_agent.core.chunks import (
    Advised,
    AskChunks,
    AskManifest,
    AskSource,
    Awaits,
    ChunkCame,
    ChunkSpoiled,
    Complete,
    Connected,
    Disconnected,
    DropChunks,
    DropManifest,
    Effect,
    Effects,
    Event,
    Flowing,
    FromSource,
    GiveUp,
    LookAgain,
    ManifestCame,
    SourceFailed,
    SourceLacked,
    SourceLied,
    StillMissing,
    Tick,
    Want,
)
from wherry_agent.core.sources import Asked, Sources

__all__ = [
    "FLOW_BYTES",
    "MANIFEST_BYTES",
    "PAUSE_S",
    "SPOILS_ALLOWED",
    "STALL_FACTOR",
    "STALL_S",
    "WINDOW",
    "Advised",
    "AskChunks",
    "AskManifest",
    "AskSource",
    "Awaits",
    "ChunkCame",
    "ChunkSpoiled",
    "Complete",
    "Connected",
    "Disconnected",
    "Download",
    "DropChunks",
    "DropManifest",
    "Effect",
    "Effects",
    "Event",
    "Flowing",
    "FromSource",
    "GiveUp",
    "LookAgain",
    "ManifestCame",
    "SourceFailed",
    "SourceLacked",
    "SourceLied",
    "StillMissing",
    "Tick",
    "Want",
    "is_held_up",
    "stall_s",
    "step",
]

WINDOW = 8
STALL_S = 30.0
STALL_FACTOR = 4.0
PAUSE_S = 2.0
SPOILS_ALLOWED = 5
FLOW_BYTES = 8 * 1024  # A connection without a chunk carries some hundreds in a stall's time.
MANIFEST_BYTES = 16 * 1024  # A guess, for the stall rule only.


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """`missing` is None until the manifest came: then chunk -> bytes, in the order to fetch.

    `asked` are subscribed now; `spoiled` counts bad copies; `paused_until_s` is per chunk.
    `left_bytes` is the room in the day's budget; `stalled` until the broker brings a chunk again.
    """

    bundle: Digest
    limit_bytes_per_s: float | None = None
    left_bytes: int | None = None
    sources: Sources = Sources()
    connected: bool = False
    missing: dict[Digest, int] | None = None
    asked: tuple[Digest, ...] = ()
    window: int = WINDOW
    stalled: bool = False
    awaits_until_s: float | None = None
    spoiled: dict[Digest, int] = {}
    paused_until_s: dict[Digest, float] = {}
    received_bytes: int = 0
    busy_s: float = 0.0
    progress_s: float = 0.0
    flowed_s: float = 0.0
    budget_bytes: float = 0.0
    now_s: float = 0.0


def step(state: Download, event: Event) -> tuple[Download, Effects]:
    """Return the state that follows `event`, and what to ask for."""
    match event:
        case Connected() | Disconnected():
            return _link(state, event)
        case ManifestCame(missing, at_s):
            if state.missing is not None:
                return state, ()
            known = replace(_pass(state, at_s), missing=missing, progress_s=at_s)
            after, effects = _refill(known)
            return after, (DropManifest(state.bundle), *effects)
        case ChunkCame(chunk, at_s):
            return _take(_pass(state, at_s), chunk)
        case Flowing(at_s):
            return replace(_pass(state, at_s), flowed_s=at_s), ()
        case ChunkSpoiled(chunk, at_s):
            return _spoil(_pass(state, at_s), chunk)
        case StillMissing() | Awaits() | LookAgain():
            return _go_on(_pass(state, event.at_s), event)
        case Advised():
            return _follow(state, event)
        case SourceFailed() | SourceLacked() | SourceLied():
            return _settle(_pass(state, event.at_s), event)
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


def is_held_up(state: Download) -> bool:
    """Say whether the day's budget has no room for what is missing next."""
    if not state.missing or state.left_bytes is None or state.asked:
        return False
    return min(state.missing.values()) > state.left_bytes


def _link(state: Download, event: Connected | Disconnected) -> tuple[Download, Effects]:
    if isinstance(event, Disconnected):
        return replace(state, connected=False, asked=(), progress_s=state.now_s), ()
    now_s = event.at_s
    fresh = replace(state, connected=True, asked=(), now_s=now_s, progress_s=now_s)
    return (fresh, (AskManifest(state.bundle),)) if state.missing is None else _refill(fresh)


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
    size = state.missing[chunk]
    missing = {digest: size for digest, size in state.missing.items() if digest != chunk}
    if chunk in state.asked:
        # Only waits that a chunk ended measure the rate: waiting in vain must come to an end.
        state = replace(
            state,
            asked=tuple(digest for digest in state.asked if digest != chunk),
            stalled=False,
            received_bytes=state.received_bytes + size,
            busy_s=state.busy_s + state.now_s - state.progress_s,
        )
    state = replace(_spend(_unask(state, chunk), size), missing=missing, progress_s=state.now_s)
    after, effects = _refill(state)
    return after, (DropChunks((chunk,)), *effects)


def _spoil(state: Download, chunk: Digest) -> tuple[Download, Effects]:
    if chunk not in state.asked:
        return state, ()
    times = state.spoiled.get(chunk, 0) + 1
    if times > SPOILS_ALLOWED:
        return state, (GiveUp(chunk),)
    spoiled = replace(
        _spend(state, (state.missing or {}).get(chunk, 0)),
        asked=tuple(digest for digest in state.asked if digest != chunk),
        spoiled={**state.spoiled, chunk: times},
        paused_until_s={**state.paused_until_s, chunk: state.now_s + PAUSE_S * 2.0 ** (times - 1)},
        progress_s=state.now_s,
    )
    after, effects = _refill(spoiled)
    return after, (DropChunks((chunk,)), Want((chunk,)), *effects)


def _go_on(state: Download, event: StillMissing | Awaits | LookAgain) -> tuple[Download, Effects]:
    """Take the next step, when what was asked for has come."""
    match event:
        case StillMissing(missing, at_s):
            known = replace(state, missing=missing, awaits_until_s=None, progress_s=at_s)
            return _refill(replace(known, sources=second.settle(state.sources)))
        case Awaits(until_s):
            return replace(state, awaits_until_s=until_s), ()
        case LookAgain():
            return _look_again(state)
        case _:
            assert_never(event)


def _follow(state: Download, advice: Advised) -> tuple[Download, Effects]:
    return replace(
        state,
        limit_bytes_per_s=advice.bytes_per_s,
        left_bytes=advice.left_bytes,
        sources=second.advise(state.sources, advice.sources),
    ), ()


def _settle(state: Download, answer: FromSource) -> tuple[Download, Effects]:
    """Take that a source gave nothing, or worse."""
    if state.sources.asked != Asked(answer.source, answer.chunk):
        return state, ()
    sources = second.settle(state.sources)
    match answer:
        case SourceLacked(source, chunk):
            sources = second.note_lack(sources, source, chunk)
        case SourceFailed(source):
            sources = second.leave(sources, source, state.now_s + second.LEAVE_S)
        case SourceLied(source):
            sources = second.leave(sources, source, math.inf)
        case _:
            assert_never(answer)
    return _refill(replace(state, sources=sources))


def _look_again(state: Download) -> tuple[Download, Effects]:
    if state.awaits_until_s is None or state.missing != {}:
        return state, ()
    return replace(state, awaits_until_s=None), (Complete(),)


def _tick(state: Download) -> tuple[Download, Effects]:
    if state.missing is not None and not state.missing:
        if state.awaits_until_s is not None and state.now_s >= state.awaits_until_s:
            return _look_again(state)
        return state, ()  # Complete, and told.
    awaits = state.connected and (state.missing is None or state.asked)
    quiet_s = state.now_s - max(state.progress_s, state.flowed_s)
    if not awaits or quiet_s <= stall_s(state):
        return _refill(state)
    again = replace(state, progress_s=state.now_s, stalled=True, window=max(1, state.window // 2))
    if state.missing is None:
        return again, (DropManifest(state.bundle), AskManifest(state.bundle), Want((state.bundle,)))
    after, effects = _refill(replace(again, asked=()))
    return after, (DropChunks(state.asked), *effects, Want(state.asked[:LARGEST_WANTS]))


def _refill(state: Download) -> tuple[Download, Effects]:
    """Ask for as many more chunks as the window and the budgets allow, and a source for one."""
    if state.missing is None:
        return state, ()
    if not state.missing:
        return state, (Complete(),)
    state, first = _ask_broker(state)
    state, then = _ask_source(state)
    return state, (*first, *then)


def _ask_broker(state: Download) -> tuple[Download, Effects]:
    if not state.connected:
        return state, ()
    fresh: list[Digest] = []
    room = _room(state)
    for chunk, size in (state.missing or {}).items():
        if len(state.asked) + len(fresh) >= state.window:
            break
        if _is_asked(state, chunk) or state.paused_until_s.get(chunk, 0.0) > state.now_s:
            continue
        if size > room:
            break
        room -= size
        fresh.append(chunk)
    if not fresh:
        return state, ()
    progress = state.progress_s if state.asked else state.now_s
    asked = replace(state, asked=(*state.asked, *fresh), progress_s=progress)
    return _charge(asked, *fresh), (AskChunks(tuple(fresh)),)


def _ask_source(state: Download) -> tuple[Download, Effects]:
    """Ask a source for what the broker does not bring; a chunk that it still owes goes last."""
    if state.sources.asked is not None or not state.sources.urls:
        return state, ()
    for chunk, size in sorted(_doubtful(state).items(), key=lambda each: each[0] in state.asked):
        source = second.find(state.sources, chunk, state.now_s)
        if source is None or (chunk not in state.asked and size > _room(state)):
            continue
        drop: Effects = (DropChunks((chunk,)),) if chunk in state.asked else ()
        if not drop:
            state = _charge(state, chunk)
        asked = replace(
            state,
            asked=tuple(digest for digest in state.asked if digest != chunk),
            sources=replace(state.sources, asked=Asked(source, chunk)),
        )
        within_s = second.patience_s(size)
        return asked, (*drop, AskSource(source, chunk, size, within_s))
    return state, ()


def _doubtful(state: Download) -> dict[Digest, int]:
    """Return the missing chunks that the broker may not bring: all, if it is stalled or away."""
    missing = state.missing or {}
    is_away = not state.connected and state.now_s - state.progress_s > STALL_S
    if state.stalled or is_away:
        return missing
    return {chunk: size for chunk, size in missing.items() if chunk in state.spoiled}


def _is_asked(state: Download, chunk: Digest) -> bool:
    awaited = state.sources.asked
    return chunk in state.asked or (awaited is not None and awaited.chunk == chunk)


def _unask(state: Download, chunk: Digest) -> Download:
    awaited = state.sources.asked
    if awaited is None or awaited.chunk != chunk:
        return state
    return replace(state, sources=second.settle(state.sources))


def _room(state: Download) -> float:
    """Return how many bytes more may be asked for now: by the rate, and by the day."""
    by_rate = math.inf if state.limit_bytes_per_s is None else state.budget_bytes
    if state.left_bytes is None:
        return by_rate
    sizes = state.missing or {}
    on_the_way = sum(size for chunk, size in sizes.items() if _is_asked(state, chunk))
    return min(by_rate, state.left_bytes - on_the_way)


def _charge(state: Download, *chunks: Digest) -> Download:
    """Take what is asked for out of the rate's budget."""
    if state.limit_bytes_per_s is None:
        return state
    sizes = state.missing or {}
    return replace(state, budget_bytes=state.budget_bytes - sum(sizes[chunk] for chunk in chunks))


def _spend(state: Download, size_bytes: int) -> Download:
    """Take what came out of the day's budget."""
    if state.left_bytes is None:
        return state
    return replace(state, left_bytes=max(0, state.left_bytes - size_bytes))
