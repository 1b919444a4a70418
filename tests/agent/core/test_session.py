"""Laws of the session machine: no event is forgotten before its ack, and none is left behind."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from tests.laws import tried
from wherry_agent.core.backoff import delay_s
from wherry_agent.core.session import (
    LARGEST_UNACKED,
    RESEND_S,
    Acked,
    Advised,
    Announce,
    Connect,
    Connected,
    Effects,
    Event,
    Forget,
    Lost,
    Send,
    Session,
    Stored,
    Tick,
    step,
)


@dataclass
class Line:
    """The device's outbox and its connection; what `Send` says goes over the line."""

    state: Session = field(default_factory=Session)
    now_s: float = 0.0
    forgotten: int = 0
    acked: int = 0
    passed: set[int] = field(default_factory=set)

    def hear(self, event: Event) -> Effects:
        self.state, effects = step(self.state, event)
        for effect in effects:
            match effect:
                case Send(after, until):
                    assert self.state.connected
                    assert self.forgotten <= after < until <= self.state.last
                    assert until - self.state.acked <= LARGEST_UNACKED
                    self.passed |= set(range(after + 1, until + 1))
                case Forget(until):
                    assert until <= self.acked, "forgotten before its ack"
                    assert until > self.forgotten
                    self.forgotten = until
                case _:
                    pass
        return effects

    def store(self, seq: int) -> Effects:
        return self.hear(Stored(seq, self.now_s))

    def ack(self, seq: int) -> Effects:
        self.acked = max(self.acked, seq)
        return self.hear(Acked(seq, self.now_s))

    def join(self) -> Effects:
        return self.hear(Connected(self.now_s))

    def tick(self, seconds: float) -> Effects:
        self.now_s += seconds
        return self.hear(Tick(self.now_s))


def online(events: int = 0) -> Line:
    line = Line()
    line.join()
    if events:
        line.store(events)
    return line


moves = st.tuples(st.sampled_from(["store", "ack", "join", "cut", "tick"]), st.integers(0, 150))


@tried
@given(st.lists(moves, max_size=40))
def test_every_event_passes_and_is_forgotten_only_after_its_ack(
    story: list[tuple[str, int]],
) -> None:
    line, stored = Line(), 0
    for move, number in story:
        match move:
            case "store":
                stored += number % 7
                line.store(stored)
            case "ack":
                if line.passed:
                    line.ack(number % (max(line.passed) + 1))
            case "join":
                line.join()
            case "cut":
                line.hear(Lost(line.now_s, 0.5))
            case "tick":
                line.tick(float(number))
            case _:
                pass
    line.join()
    while line.forgotten < stored:
        line.ack(max(line.passed))
        line.tick(RESEND_S)
    assert line.passed == set(range(1, stored + 1))


def test_a_connection_says_what_the_device_has_and_sends_what_is_not_acked() -> None:
    assert online().state.connected
    line = online(5)
    line.ack(2)
    line.hear(Lost(0.0, 0.0))
    assert line.join() == (Announce(), Send(2, 5))


def test_nothing_is_sent_over_a_lost_connection() -> None:
    line = online(5)
    line.hear(Lost(0.0, 0.5))
    assert line.store(6) == ()
    assert line.tick(RESEND_S * 2) == (Connect(),)
    assert line.tick(RESEND_S * 2) == ()


def test_events_are_sent_as_they_are_stored_each_once() -> None:
    line = online()
    assert line.store(2) == (Send(0, 2),)
    assert line.store(2) == ()
    assert line.store(3) == (Send(2, 3),)


def test_what_no_ack_covers_is_sent_again() -> None:
    line = online(3)
    assert line.tick(RESEND_S - 0.1) == ()
    assert line.tick(0.1) == (Send(0, 3),)
    assert line.tick(RESEND_S - 0.1) == ()
    assert line.tick(0.1) == (Send(0, 3),)


def test_an_ack_puts_off_the_next_sending_of_the_rest() -> None:
    line = online(3)
    line.tick(RESEND_S - 1)
    assert line.ack(1) == (Forget(1),)
    assert line.tick(RESEND_S - 1) == ()
    assert line.tick(1) == (Send(1, 3),)


def test_later_events_do_not_put_off_the_sending_of_earlier_ones() -> None:
    line = online(1)
    line.tick(RESEND_S - 1)
    line.store(2)
    assert line.tick(1) == (Send(0, 2),)


def test_the_wait_for_an_ack_begins_when_the_first_event_is_sent() -> None:
    line = online(1)
    line.ack(1)
    line.tick(RESEND_S)
    line.store(2)
    assert line.tick(RESEND_S - 1) == ()


def test_only_a_window_of_events_is_under_way() -> None:
    line = online(3 * LARGEST_UNACKED)
    assert line.passed == set(range(1, LARGEST_UNACKED + 1))
    assert line.ack(10) == (Forget(10), Send(LARGEST_UNACKED, LARGEST_UNACKED + 10))


def test_an_ack_that_jumps_ahead_of_what_was_sent_is_believed() -> None:
    line = Line(Session(last=8, acked=2, sent=2))
    line.forgotten = 2
    assert line.ack(6) == (Forget(6),)
    assert line.join() == (Announce(), Send(6, 8))


def test_an_ack_of_what_was_never_stored_reaches_no_further_than_the_outbox() -> None:
    line = online(3)
    assert line.ack(99) == (Forget(3),)
    assert line.state.acked == line.state.sent == 3


def test_an_older_ack_changes_nothing() -> None:
    line = online(5)
    line.ack(4)
    before = line.state
    assert line.ack(4) == line.ack(1) == ()
    assert line.state == before


def test_the_first_try_to_connect_is_at_once_and_only_one_runs() -> None:
    line = Line()
    assert line.tick(0.0) == (Connect(),)
    assert line.tick(500.0) == ()


def test_each_failed_try_waits_longer_and_success_forgives() -> None:
    line = Line()
    for attempt in range(3):
        line.hear(Lost(line.now_s, 0.5))
        wait = delay_s(attempt, 0.5)
        assert line.tick(wait - 0.01) == ()
        assert line.tick(0.01) == (Connect(),)
    line.join()
    line.hear(Lost(line.now_s, 0.5))
    assert line.state.connect_at_s == line.now_s + delay_s(0, 0.5)


def test_after_a_loss_a_device_comes_back_within_the_spread_that_its_controller_wants() -> None:
    line = Line()
    line.hear(Advised(600.0))
    line.hear(Lost(line.now_s, 0.5))
    assert line.tick(299.0) == ()
    assert line.tick(1.0) == (Connect(),)
