"""Laws of the download machine: every story ends with the whole bundle, within its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.builders import a_digest
from tests.laws import tried
from wherry.messages import LARGEST_WANTS
from wherry.names import Digest
from wherry_agent.core.download import (
    MANIFEST_BYTES,
    PAUSE_S,
    SPOILS_ALLOWED,
    STALL_FACTOR,
    STALL_S,
    WINDOW,
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
    Download,
    DropChunks,
    DropManifest,
    Effects,
    Event,
    Flowing,
    GiveUp,
    LookAgain,
    ManifestCame,
    SourceFailed,
    SourceLacked,
    SourceLied,
    StillMissing,
    Tick,
    Want,
    is_held_up,
    stall_s,
    step,
)
from wherry_agent.core.sources import LEAVE_S, patience_s

BUNDLE = a_digest("bundle")
CHUNKS = tuple(a_digest(f"chunk {number}") for number in range(12))
SIZES = dict.fromkeys(CHUNKS, 1000)


@dataclass
class Link:
    """The device's fetch connection: what is subscribed, what came, and when what was asked."""

    state: Download = field(default_factory=lambda: Download(bundle=BUNDLE))
    now_s: float = 100.0
    manifest: bool = False
    subscribed: set[Digest] = field(default_factory=set)
    came: set[Digest] = field(default_factory=set)
    bytes_asked: list[tuple[float, int]] = field(default_factory=list)
    wanted: list[Digest] = field(default_factory=list)
    complete: bool = False
    given_up: Digest | None = None
    sizes: dict[Digest, int] = field(default_factory=lambda: dict(SIZES))

    def hear(self, event: Event) -> Effects:
        if isinstance(event, Connected | Disconnected):
            self.subscribed, self.manifest = set(), False
        if isinstance(event, ChunkCame):
            self.came.add(event.chunk)
        self.state, effects = step(self.state, event)
        for effect in effects:
            match effect:
                case AskManifest():
                    self.manifest = True
                case DropManifest():
                    self.manifest = False
                case AskChunks(chunks):
                    assert not self.subscribed.intersection(chunks), "asked while subscribed"
                    assert not self.came.intersection(chunks), "asked for what is on disk"
                    self.subscribed |= set(chunks)
                    asked = sum(self.sizes[chunk] for chunk in chunks)
                    self.bytes_asked.append((self.now_s, asked))
                case DropChunks(chunks):
                    self.subscribed -= set(chunks)
                case Want(digests):
                    assert 1 <= len(digests) <= LARGEST_WANTS
                    self.wanted += digests
                case Complete():
                    assert self.came == set(self.sizes)
                    self.complete = True
                case GiveUp(chunk):
                    self.given_up = chunk
                case AskSource(_, chunk):
                    assert chunk not in self.came, "asked of a source for what is on disk"
        assert self.subscribed == set(self.state.asked)
        assert len(self.subscribed) <= WINDOW
        return effects

    def tick(self, seconds: float) -> Effects:
        self.now_s += seconds
        return self.hear(Tick(self.now_s))

    def deliver(self, chunk: Digest) -> Effects:
        return self.hear(ChunkCame(chunk, self.now_s))

    def spoil(self, chunk: Digest) -> Effects:
        return self.hear(ChunkSpoiled(chunk, self.now_s))


def a_link(*, sizes: dict[Digest, int] | None = None, limit: float | None = None) -> Link:
    """Return a link whose manifest has come."""
    link = Link(Download(bundle=BUNDLE, limit_bytes_per_s=limit))
    link.sizes = dict(SIZES) if sizes is None else sizes
    link.hear(Connected(link.now_s))
    link.hear(ManifestCame(link.sizes, link.now_s))
    return link


Move: TypeAlias = tuple[str, int]
numbers = st.integers(0, 40)
moves: st.SearchStrategy[Move] = st.one_of(
    st.tuples(st.sampled_from(["deliver", "late", "spoil", "tick", "manifest"]), numbers),
    st.tuples(st.sampled_from(["cut", "join"]), st.just(0)),
)


def play(link: Link, story: list[Move]) -> None:
    for move, number in story:
        asked = sorted(link.subscribed)
        match move:
            case "deliver" if asked:
                link.deliver(asked[number % len(asked)])
            case "late":
                if link.state.missing is not None:
                    link.deliver(CHUNKS[number % len(CHUNKS)])
            case "spoil" if asked:
                link.spoil(asked[number % len(asked)])
            case "tick":
                link.tick(float(number))
            case "manifest" if link.manifest:
                link.hear(ManifestCame(link.sizes, link.now_s))
            case "cut":
                link.hear(Disconnected())
            case "join":
                link.hear(Connected(link.now_s))
            case _:
                pass  # Nothing is subscribed.


def finish(link: Link) -> None:
    """Let the network be kind from now on."""
    link.hear(Connected(link.now_s))
    for _ in range(300):
        if link.complete or link.given_up:
            return
        link.tick(1.0)
        if link.manifest:
            link.hear(ManifestCame(link.sizes, link.now_s))
        for chunk in sorted(link.subscribed):
            link.deliver(chunk)


@tried
@given(st.lists(moves, max_size=60), st.sampled_from([None, 300.0, 5000.0]))
def test_every_story_ends_with_the_whole_bundle(story: list[Move], limit: float | None) -> None:
    link = Link(Download(bundle=BUNDLE, limit_bytes_per_s=limit))
    play(link, story)
    finish(link)
    assert link.complete or link.given_up


@tried
@given(
    st.lists(moves, max_size=60),
    st.sampled_from([100.0, 300.0, 1000.0, 5000.0]),
    st.lists(st.integers(1, 3000), min_size=12, max_size=12),
)
def test_no_span_of_time_asks_for_more_than_the_limit(
    story: list[Move], limit: float, sizes: list[int]
) -> None:
    link = Link(Download(bundle=BUNDLE, limit_bytes_per_s=limit))
    link.sizes = dict(zip(CHUNKS, sizes, strict=True))
    play(link, [("join", 0), ("manifest", 0), *story])
    finish(link)
    burst = max(limit, *sizes)
    for first, (since_s, _) in enumerate(link.bytes_asked):
        spent = 0
        for at_s, size in link.bytes_asked[first:]:
            spent += size
            assert spent <= limit * (at_s - since_s) + burst + 1e-6


def test_the_manifest_is_asked_for_first() -> None:
    link = Link()
    assert link.hear(Connected(100.0)) == (AskManifest(BUNDLE),)
    effects = link.hear(ManifestCame(SIZES, 100.0))
    assert effects == (DropManifest(BUNDLE), AskChunks(CHUNKS[:WINDOW]))


def test_a_second_copy_of_the_manifest_changes_nothing() -> None:
    link = a_link()
    before = link.state
    assert link.hear(ManifestCame({}, link.now_s)) == ()
    assert link.state == before


def test_a_bundle_that_is_on_disk_already_is_complete_with_its_manifest() -> None:
    link = a_link(sizes={})
    assert link.complete


def test_each_chunk_that_comes_makes_room_for_the_next() -> None:
    link = a_link()
    assert link.deliver(CHUNKS[3]) == (DropChunks((CHUNKS[3],)), AskChunks((CHUNKS[WINDOW],)))
    assert link.deliver(CHUNKS[3]) == ()


def test_the_last_chunk_completes_it_once() -> None:
    link = a_link(sizes={CHUNKS[0]: 5})
    assert link.deliver(CHUNKS[0]) == (DropChunks((CHUNKS[0],)), Complete())
    assert link.tick(1.0) == ()
    assert link.tick(100.0) == ()


def test_a_chunk_that_came_before_a_disconnect_is_not_asked_again() -> None:
    link = a_link()
    link.deliver(CHUNKS[0])
    link.hear(Disconnected())
    effects = link.hear(Connected(link.now_s))
    assert effects == (AskChunks(CHUNKS[1 : WINDOW + 1]),)


def test_nothing_is_asked_of_a_connection_that_is_down() -> None:
    link = a_link()
    link.hear(Disconnected())
    assert link.deliver(CHUNKS[0]) == (DropChunks((CHUNKS[0],)),)
    assert link.tick(500.0) == ()


def test_a_stalled_window_is_halved_asked_anew_and_wanted() -> None:
    link = a_link()
    assert link.tick(STALL_S) == ()
    first, half = CHUNKS[:WINDOW], CHUNKS[: WINDOW // 2]
    assert link.tick(0.1) == (DropChunks(first), AskChunks(half), Want(first))
    for window in (2, 1, 1):
        link.tick(STALL_S + 0.1)
        assert link.state.window == window


def test_a_manifest_that_does_not_come_is_asked_anew_and_wanted() -> None:
    link = Link()
    link.hear(Connected(link.now_s))
    assert link.tick(STALL_S) == ()
    again = (DropManifest(BUNDLE), AskManifest(BUNDLE), Want((BUNDLE,)))
    assert link.tick(0.1) == again
    assert link.tick(STALL_S) == ()
    assert link.tick(0.1) == again


def test_progress_puts_the_stall_off() -> None:
    link = a_link()
    link.tick(STALL_S - 1)
    link.deliver(CHUNKS[0])
    assert link.tick(STALL_S - 1) == ()


def test_what_is_on_its_way_is_not_asked_for_again() -> None:
    link = a_link()
    for _ in range(5):
        link.tick(STALL_S - 1)
        link.hear(Flowing(link.now_s))
    assert link.wanted == []
    assert link.tick(STALL_S) == ()
    link.tick(0.1)
    assert link.wanted == list(CHUNKS[:WINDOW])


def test_what_flows_between_two_chunks_does_not_make_the_link_look_faster() -> None:
    link = a_link()
    link.tick(10.0)
    link.hear(Flowing(link.now_s))
    link.tick(10.0)
    link.deliver(CHUNKS[0])
    assert stall_s(link.state) == pytest.approx(STALL_FACTOR * WINDOW * 1000 / 50)


def test_a_slow_link_is_given_the_time_that_its_rate_predicts() -> None:
    link = a_link()
    link.tick(20.0)
    link.deliver(CHUNKS[0])  # 50 bytes a second; the window of 8 chunks takes 160 s.
    assert stall_s(link.state) == pytest.approx(STALL_FACTOR * WINDOW * 1000 / 50)
    assert link.tick(STALL_FACTOR * WINDOW * 20.0) == ()
    assert Want(CHUNKS[1 : WINDOW + 1]) in link.tick(1.0)


def test_waiting_in_vain_does_not_count_as_a_slow_link() -> None:
    link = a_link()
    link.tick(1.0)
    link.deliver(CHUNKS[0])  # 1000 bytes a second; then the broker loses the others.
    due_s = stall_s(link.state)
    for _ in range(math.ceil(due_s)):
        link.tick(1.0)
        assert stall_s(link.state) == due_s
    link.tick(1.0)
    assert link.wanted == list(CHUNKS[1 : WINDOW + 1])


def test_a_chunk_that_comes_after_its_window_was_dropped_says_nothing_of_the_rate() -> None:
    link = a_link()
    link.tick(1.0)
    link.hear(Disconnected())
    link.deliver(CHUNKS[0])
    assert stall_s(link.state) == STALL_S
    assert (link.state.received_bytes, link.state.busy_s) == (0, 0.0)


def test_a_limit_predicts_the_rate_before_anything_came() -> None:
    link = a_link(limit=10.0)
    assert stall_s(link.state) == pytest.approx(STALL_FACTOR * MANIFEST_BYTES / 10.0)
    assert stall_s(Download(bundle=BUNDLE)) == STALL_S


def test_waiting_for_the_budget_is_no_stall() -> None:
    link = a_link(sizes={CHUNKS[0]: 200_000, CHUNKS[1]: 200_000}, limit=1000.0)
    for _ in range(199):
        assert link.tick(1.0) == ()
    assert link.tick(1.0) == (AskChunks((CHUNKS[0],)),)
    assert link.state.window == WINDOW
    assert link.wanted == []


def test_a_spoiled_chunk_is_wanted_and_asked_anew_after_a_pause_that_doubles() -> None:
    link = a_link(sizes={CHUNKS[0]: 1000})
    for times in range(SPOILS_ALLOWED):
        assert link.spoil(CHUNKS[0]) == (DropChunks((CHUNKS[0],)), Want((CHUNKS[0],)))
        assert link.tick(PAUSE_S * 2.0**times - 0.1) == ()
        assert link.tick(0.1) == (AskChunks((CHUNKS[0],)),)
        assert link.tick(STALL_S - 1) == ()  # A pause is no part of a stall.


def test_a_chunk_that_is_spoiled_too_often_is_given_up() -> None:
    link = a_link(sizes={CHUNKS[0]: 1000})
    for _ in range(SPOILS_ALLOWED):
        link.spoil(CHUNKS[0])
        assert link.given_up is None
        link.tick(100.0)
    assert link.spoil(CHUNKS[0]) == (GiveUp(CHUNKS[0]),)


def test_bytes_spoiled_after_they_were_dropped_count_for_nothing() -> None:
    link = a_link()
    link.spoil(CHUNKS[0])
    before = link.state
    assert link.spoil(CHUNKS[0]) == ()
    assert link.state == replace(before, now_s=link.now_s)


def test_a_paused_chunk_leaves_its_room_to_the_next() -> None:
    link = a_link()
    effects = link.spoil(CHUNKS[0])
    assert AskChunks((CHUNKS[WINDOW],)) in effects


def test_the_limit_lets_one_chunk_of_any_size_through() -> None:
    link = a_link(sizes={CHUNKS[0]: 5000}, limit=100.0)
    assert link.tick(49.0) == ()
    assert link.tick(1.0) == (AskChunks((CHUNKS[0],)),)


# Steps


def test_what_is_still_missing_is_asked_for_next() -> None:
    link = a_link(sizes={CHUNKS[0]: 5})
    assert link.deliver(CHUNKS[0])[-1] == Complete()
    more = {CHUNKS[1]: 7, CHUNKS[2]: 7}
    link.sizes |= more
    assert link.hear(StillMissing(more, link.now_s)) == (AskChunks(CHUNKS[1:3]),)
    link.deliver(CHUNKS[1])
    assert link.deliver(CHUNKS[2])[-1] == Complete()


def test_a_delta_that_is_being_made_is_waited_for_until_its_time_is_over() -> None:
    link = a_link(sizes={})
    assert link.hear(Awaits(link.now_s + 60.0, link.now_s)) == ()
    assert link.tick(59.0) == ()
    assert link.tick(1.0) == (Complete(),)
    assert link.tick(100.0) == ()


def test_news_of_a_delta_ends_the_wait_and_disturbs_nothing_else() -> None:
    link = a_link(sizes={})
    assert link.hear(LookAgain(link.now_s)) == ()
    link.hear(Awaits(link.now_s + 60.0, link.now_s))
    assert link.hear(LookAgain(link.now_s)) == (Complete(),)
    busy = a_link()
    assert busy.hear(LookAgain(busy.now_s)) == ()


# The day's budget


def test_no_more_is_asked_for_than_the_day_has_room_for() -> None:
    link = Link()
    link.hear(Connected(link.now_s))
    link.hear(Advised(None, 2500, ()))
    assert link.hear(ManifestCame(SIZES, link.now_s))[-1] == AskChunks(CHUNKS[:2])
    assert link.deliver(CHUNKS[0]) == (DropChunks((CHUNKS[0],)),)
    link.deliver(CHUNKS[1])
    assert link.state.left_bytes == 500
    assert is_held_up(link.state)
    assert link.tick(1000.0) == ()
    assert link.wanted == []
    link.hear(Advised(None, 1000, ()))
    assert link.tick(1.0) == (AskChunks(CHUNKS[2:3]),)
    assert not is_held_up(link.state)


def test_bytes_that_were_spoiled_are_spent_too() -> None:
    link = a_link()
    link.hear(Advised(None, 100_000, ()))
    link.spoil(CHUNKS[0])
    assert link.state.left_bytes == 99_000


# Sources

URL, OTHER_URL = "http://one/blobs", "http://two/blobs"


def a_stalled_link(*urls: str, limit: float | None = None) -> tuple[Link, Effects]:
    """Return a link whose broker brings nothing, and what it asked for then."""
    link = a_link(limit=limit)
    link.hear(Advised(limit, None, urls))
    return link, link.tick(10_000.0)


def asked_of_sources(effects: Effects) -> list[tuple[str, Digest]]:
    return [(one.source, one.chunk) for one in effects if isinstance(one, AskSource)]


def test_a_source_is_asked_for_one_chunk_at_a_time_while_the_broker_is_stalled() -> None:
    link, effects = a_stalled_link(URL)
    ((source, chunk),) = asked_of_sources(effects)
    assert source == URL
    assert chunk not in link.subscribed
    next_asked = asked_of_sources(link.deliver(chunk))
    assert len(next_asked) == 1 and next_asked[0][1] != chunk


def test_a_source_gets_the_time_that_the_slowest_would_need() -> None:
    _, effects = a_stalled_link(URL)
    (ask,) = (one for one in effects if isinstance(one, AskSource))
    assert (ask.size_bytes, ask.within_s) == (1000, patience_s(1000))
    assert patience_s(1 << 20) == 256.0


def test_once_the_broker_brings_chunks_again_it_alone_is_asked() -> None:
    link, effects = a_stalled_link(URL)
    ((_, chunk),) = asked_of_sources(effects)
    link.deliver(next(iter(link.subscribed)))
    assert asked_of_sources(link.deliver(chunk)) == []


def test_a_source_is_asked_while_the_broker_is_away() -> None:
    link = a_link()
    link.hear(Advised(None, None, (URL,)))
    link.hear(Disconnected())
    assert link.tick(STALL_S - 1) == ()
    assert asked_of_sources(link.tick(2.0)) == [(URL, CHUNKS[0])]


def test_a_spoiled_chunk_is_asked_of_a_source_at_once() -> None:
    link = a_link()
    link.hear(Advised(None, None, (URL,)))
    assert asked_of_sources(link.spoil(CHUNKS[3])) == [(URL, CHUNKS[3])]


def test_a_source_that_failed_is_left_for_a_while_and_the_next_is_asked() -> None:
    link, effects = a_stalled_link(URL, OTHER_URL)
    ((_, chunk),) = asked_of_sources(effects)
    after = link.hear(SourceFailed(URL, chunk, link.now_s))
    assert asked_of_sources(after) == [(OTHER_URL, chunk)]
    link.hear(SourceFailed(OTHER_URL, chunk, link.now_s))
    assert link.state.sources.asked is None
    assert [source for source, _ in asked_of_sources(link.tick(LEAVE_S + 1))] == [URL]


def test_a_source_that_lied_is_left_for_good() -> None:
    link, effects = a_stalled_link(URL)
    ((_, chunk),) = asked_of_sources(effects)
    assert asked_of_sources(link.hear(SourceLied(URL, chunk, link.now_s))) == []
    assert asked_of_sources(link.tick(1e9)) == []


def test_a_chunk_that_a_source_lacks_is_not_asked_of_it_again_but_others_are() -> None:
    link, effects = a_stalled_link(URL)
    ((_, chunk),) = asked_of_sources(effects)
    ((_, other),) = asked_of_sources(link.hear(SourceLacked(URL, chunk, link.now_s)))
    assert other != chunk


def test_an_answer_that_nobody_awaits_changes_nothing() -> None:
    link, effects = a_stalled_link(URL)
    ((_, chunk),) = asked_of_sources(effects)
    before = link.state
    assert link.hear(SourceLied("http://else", chunk, link.now_s)) == ()
    assert link.state == before


def test_what_a_source_is_asked_for_counts_against_the_rate() -> None:
    _, effects = a_stalled_link(URL, limit=1000.0)
    asked = sum(one.size_bytes for one in effects if isinstance(one, AskSource))
    asked += sum(SIZES[c] for one in effects if isinstance(one, AskChunks) for c in one.chunks)
    assert asked <= 2000


def test_a_new_step_awaits_no_answer_of_the_last() -> None:
    link, effects = a_stalled_link(URL)
    assert asked_of_sources(effects)
    after = link.hear(StillMissing({CHUNKS[5]: 9}, link.now_s))
    assert asked_of_sources(after) or CHUNKS[5] in link.subscribed
