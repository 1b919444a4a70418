"""Verification in a child process, and the bytes between the two.

Looking at signatures takes 9 MB (cryptography, python-tuf) that a device would hold for the few
orders of a day, and it is what parses bytes from strangers. So a child does it (`verifier`): it is
started when something is to be judged, stays for what follows at once, and ends when nothing came
for `IDLE_S`. Whoever asks waits for it; it is the deciding thread, and nobody's request.

A message is its length (u32, little-endian) and that much MessagePack.
"""

from __future__ import annotations

import logging
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import IO, TypeAlias, TypeVar

import msgspec

from wherry.errors import Malformed, Unavailable
from wherry.messages import Order
from wherry.names import AliasName, DeviceId, ProfileName, TrialId
from wherry.reasons import Reason
from wherry.trust.keeping import Followed, Lacking, Offer, Outcome, Repeated, Trust
from wherry.trust.refusals import MetadataRefused, OrderRefused
from wherry.trust.target import Denied, Target, Verdict

IDLE_S = 5.0
PATIENCE_S = 60.0  # An old board's processor under load takes seconds to start Python.
LARGEST_BYTES = 16 << 20

log = logging.getLogger("wherry_agent")

_LENGTH = struct.Struct("<I")
_encoder = msgspec.msgpack.Encoder()

K = TypeVar("K")


class VerifierGone(Unavailable):
    """The child that verifies did not answer."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"nothing could be verified ({self.problem}): it is tried again in a minute."


class Unreadable(Malformed):
    """What the child could not read, in its own sentence."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence

    def __str__(self) -> str:
        return self.sentence


# What is asked


class Begin(msgspec.Struct, frozen=True, tag=True):
    root: bytes
    epoch: int


class TakeRoots(msgspec.Struct, frozen=True, tag=True):
    trust: Trust
    pieces: dict[str, bytes]


class TakeTimestamp(msgspec.Struct, frozen=True, tag=True):
    trust: Trust
    data: bytes
    clock: float


class Follow(msgspec.Struct, frozen=True, tag=True):
    trust: Trust
    order: bytes
    pieces: dict[str, bytes]
    device: DeviceId
    profile: ProfileName
    clock: float


Question: TypeAlias = Begin | TakeRoots | TakeTimestamp | Follow


# What comes back


class Trusted(msgspec.Struct, frozen=True, tag=True):
    trust: Trust


class Judgement(msgspec.Struct, frozen=True):
    """What targets say of the bundles that an order names, those that are allowed and denied."""

    allowed: dict[str, Target]
    denied: dict[str, Denied]


class WasFollowed(msgspec.Struct, frozen=True, tag=True):
    trust: Trust
    order: Order
    aliases: Judgement
    trials: Judgement


class Lacks(msgspec.Struct, frozen=True, tag=True):
    trust: Trust
    names: tuple[str, ...]


class WasRepeated(msgspec.Struct, frozen=True, tag=True):
    trust: Trust


class RefusedMetadata(msgspec.Struct, frozen=True, tag=True):
    reason: Reason
    role: str
    problem: str


class RefusedOrder(msgspec.Struct, frozen=True, tag=True):
    reason: Reason
    problem: str


class RefusedBytes(msgspec.Struct, frozen=True, tag=True):
    sentence: str


Reply: TypeAlias = (
    Trusted | WasFollowed | Lacks | WasRepeated | RefusedMetadata | RefusedOrder | RefusedBytes
)

_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)
questions: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)


def encode_reply(reply: Reply) -> bytes:
    return _encoder.encode(reply)


def framed(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def read_message(file: IO[bytes]) -> bytes | None:
    """Return the next message; None where the other side has ended."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (size_bytes,) = _LENGTH.unpack(head)
    if size_bytes > LARGEST_BYTES:
        raise VerifierGone(f"a message of {size_bytes} bytes is announced")
    data = file.read(size_bytes)
    return data if len(data) == size_bytes else None


def judgement_of(verdicts: Mapping[K, Verdict]) -> Judgement:
    return Judgement(
        {str(name): one for name, one in verdicts.items() if isinstance(one, Target)},
        {str(name): one for name, one in verdicts.items() if isinstance(one, Denied)},
    )


def command() -> list[str]:
    return [sys.executable, "-m", "wherry_agent.verifier"]


class Child:
    """The process that verifies: started when asked, ended when nothing came for a while.

    Used by the deciding thread only; `rest` is to be called now and then.
    """

    def __init__(self, argv: Callable[[], list[str]] = command) -> None:
        self._argv = argv
        self._process: subprocess.Popen[bytes] | None = None
        self._used_s = 0.0

    def exchange(self, question: bytes) -> bytes:
        """Return its reply; raise `VerifierGone`."""
        self._used_s = time.monotonic()
        try:
            return self._exchange(question)
        except (OSError, VerifierGone) as error:
            self.close()
            log.warning("verifier.gone", extra={"why": str(error)})
            raise error if isinstance(error, VerifierGone) else VerifierGone(str(error)) from error

    def rest(self, now_s: float) -> None:
        """End the process where nothing was asked for a while."""
        if self._process is not None and now_s - self._used_s >= IDLE_S:
            self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _exchange(self, question: bytes) -> bytes:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(framed(question))
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
        data = read_message(process.stdout) if ready else None
        if data is None:
            raise VerifierGone("its process did not answer")
        return data

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                self._argv(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        return self._process


class Verifying:
    """A `Verifier` that asks another by `exchange`, which takes a question and returns its reply.

    What it refuses is raised here; `VerifierGone` where it did not answer.
    """

    def __init__(self, exchange: Callable[[bytes], bytes]) -> None:
        self._exchange = exchange

    def begin(self, root: bytes, *, epoch: int) -> Trust:
        return _trust_of(self._ask(Begin(root, epoch)))

    def take_roots(self, trust: Trust, pieces: Mapping[str, bytes]) -> Trust:
        return _trust_of(self._ask(TakeRoots(trust, dict(pieces))))

    def take_timestamp(self, trust: Trust, data: bytes, clock: float) -> Trust:
        return _trust_of(self._ask(TakeTimestamp(trust, data, clock)))

    def follow(self, trust: Trust, offer: Offer, clock: float) -> Outcome:
        asked = Follow(trust, offer.order, dict(offer.pieces), offer.device, offer.profile, clock)
        reply = self._ask(asked)
        match reply:
            case WasFollowed(after, order, aliases, trials):
                return Followed(
                    after,
                    order,
                    {AliasName(name): one for name, one in _verdicts_of(aliases)},
                    {TrialId(name): one for name, one in _verdicts_of(trials)},
                )
            case Lacks(after, names):
                return Lacking(after, names)
            case _:
                return Repeated(_trust_of(reply))

    def _ask(self, question: Question) -> Reply:
        try:
            reply = _replies.decode(self._exchange(_encoder.encode(question)))
        except msgspec.DecodeError as error:
            raise VerifierGone(str(error)) from error
        match reply:
            case RefusedMetadata(reason, role, problem):
                raise MetadataRefused(reason, role, problem)
            case RefusedOrder(reason, problem):
                raise OrderRefused(reason, problem)
            case RefusedBytes(sentence):
                raise Unreadable(sentence)
            case _:
                return reply


def _trust_of(reply: Reply) -> Trust:
    if isinstance(reply, Trusted | Lacks | WasRepeated | WasFollowed):
        return reply.trust
    raise VerifierGone(f"it said {type(reply).__name__}")


def _verdicts_of(judgement: Judgement) -> list[tuple[str, Verdict]]:
    return [*judgement.allowed.items(), *judgement.denied.items()]
