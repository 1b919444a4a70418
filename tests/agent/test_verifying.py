"""What a child judges is what it would be judged without one; what it cannot judge waits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import msgspec
import pytest
from msgspec.structs import replace

from tests.agent.core.test_acceptance import REPOSITORY, Line, after_bundle, an_order_of, at_rest
from tests.builders import A_TIME
from tests.trusted import desired_of, sign_order
from wherry.errors import Malformed
from wherry.names import DeviceId, ProfileName
from wherry.trust import device
from wherry.trust.keeping import Offer, Trust
from wherry.trust.refusals import MetadataRefused, OrderRefused
from wherry_agent.core.acceptance import RETRY_S, Accept, DesiredCame, Joined, Tick, TimestampCame
from wherry_agent.verifier import answer
from wherry_agent.verifying import (
    Child,
    TakeTimestamp,
    VerifierGone,
    Verifying,
    command,
    framed,
)

TRUST = at_rest().trust
OTHER = after_bundle()


@contextmanager
def a_child(argv: list[str] | None = None) -> Iterator[Child]:
    child = Child(lambda: argv) if argv else Child()
    try:
        yield child
    finally:
        child.close()


def stamped(verifier: Verifying) -> Trust:
    return verifier.take_timestamp(TRUST, REPOSITORY.timestamp.data, A_TIME)


def test_a_process_judges_a_whole_order_and_ends_when_nothing_follows() -> None:
    with a_child() as child:
        line = Line(verifier=Verifying(child.exchange))
        line.hear(Joined())
        line.timestamp()
        line.desired()
        (accept,) = [effect for effect in line.effects if isinstance(effect, Accept)]
        alone = Line()
        alone.hear(Joined())
        alone.timestamp()
        alone.desired()
        assert accept in alone.effects
        assert line.state.trust == alone.state.trust
        (pid,) = children()
        child.rest(now_s=0.0)
        assert children() == [pid]
        child.rest(now_s=1e12)
        assert children() == []


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda v: v.begin(b"{}", epoch=1), Malformed),
        (lambda v: v.take_timestamp(TRUST, b"{}", A_TIME), MetadataRefused),
        (lambda v: v.take_roots(TRUST, {"root/2": b"none"}), MetadataRefused),
        (lambda v: v.follow(TRUST, an_offer(b"{}"), A_TIME), Malformed),
        (lambda v: v.follow(TRUST, an_offer(foreign()), A_TIME), OrderRefused),
    ],
    ids=["root", "timestamp", "next root", "no order", "another device's order"],
)
def test_what_is_refused_is_refused_in_the_same_words(
    call: Callable[[object], object], kind: type[Exception]
) -> None:
    with pytest.raises((Malformed, MetadataRefused, OrderRefused)) as alone:
        call(device)
    with pytest.raises((Malformed, MetadataRefused, OrderRefused)) as wired:
        call(Verifying(answer))
    assert str(wired.value) == str(alone.value)
    if isinstance(alone.value, MetadataRefused | OrderRefused):
        assert isinstance(wired.value, MetadataRefused | OrderRefused)
        assert wired.value.reason is alone.value.reason
    else:
        assert isinstance(wired.value, Malformed)


def test_a_process_that_is_killed_is_followed_by_another() -> None:
    with a_child() as child:
        verifier = Verifying(child.exchange)
        once = stamped(verifier)
        (pid,) = children()
        os.kill(pid, signal.SIGKILL)
        with suppress(VerifierGone):  # It may be seen to be dead before it is asked.
            assert stamped(verifier) == once
        assert stamped(verifier) == once
        assert children() != [pid]


@pytest.mark.parametrize(
    "program", ["pass", "import sys; sys.stdout.buffer.write(b'\\xff' * 64)", "print('hello')"]
)
def test_a_process_that_says_nothing_of_use_is_said_to_be_gone(program: str) -> None:
    with a_child([sys.executable, "-c", program]) as child:
        with pytest.raises(VerifierGone, match="it is tried again in a minute"):
            stamped(Verifying(child.exchange))
        assert children() == []


def test_a_process_that_nobody_listens_to_ends_without_a_word() -> None:
    listens, says = os.pipe()
    os.close(listens)
    with subprocess.Popen(
        command(), stdin=subprocess.PIPE, stdout=says, stderr=subprocess.PIPE
    ) as process:
        os.close(says)
        asked = framed(msgspec.msgpack.encode(TakeTimestamp(TRUST, b"{}", A_TIME)))
        _, errors = process.communicate(asked, timeout=30)
        assert errors == b""
        assert process.returncode == -signal.SIGPIPE


def test_what_came_while_nobody_could_verify_is_judged_a_minute_later() -> None:
    def gone(_: bytes) -> bytes:
        raise VerifierGone("no memory for its process")

    line = Line(verifier=Verifying(gone))
    line.hear(Joined())
    assert line.hear(TimestampCame(REPOSITORY.timestamp.data)) == ()
    assert line.hear(DesiredCame(desired_of(REPOSITORY, an_order_of()))) == ()
    assert line.state.trust == TRUST
    line.verifier = Verifying(answer)
    line.hear(Tick(RETRY_S))
    assert line.accepted() == [an_order_of()]
    assert line.refused() == []


def an_offer(order: bytes) -> Offer:
    return Offer(order, {}, DeviceId("pi-1"), ProfileName("x86-onnx-fp32"))


def foreign() -> bytes:
    return sign_order(replace(an_order_of(), device=DeviceId("pi-2")))


def children() -> list[int]:
    """Return the verifiers that this process has started and not ended."""
    found = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "wherry_agent.verifier"],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(pid) for pid in found.stdout.split()]
