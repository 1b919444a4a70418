"""The process that looks at signatures: `python -m wherry_agent.verifier`, started by `verifying`.

It answers each question on its standard input, keeps nothing, opens nothing, and ends with whoever
asks. It is the one process of an agent that loads python-tuf; those that enrol, renew and sign
receipts load cryptography too.
"""

from __future__ import annotations

import resource
import signal
import sys

from typing_extensions import assert_never

from wherry.errors import Malformed
from wherry.trust import device
from wherry.trust.keeping import Followed, Lacking, Offer, Outcome, Repeated
from wherry.trust.refusals import MetadataRefused, OrderRefused
from wherry_agent.verifying import (
    Begin,
    Follow,
    Lacks,
    Question,
    RefusedBytes,
    RefusedMetadata,
    RefusedOrder,
    Reply,
    TakeRoots,
    TakeTimestamp,
    Trusted,
    WasFollowed,
    WasRepeated,
    encode_reply,
    framed,
    judgement_of,
    questions,
    read_message,
)

LARGEST_MEMORY_BYTES = 512 << 20


def main() -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # It ends with whoever asked, without a word.
    resource.setrlimit(resource.RLIMIT_AS, (LARGEST_MEMORY_BYTES, LARGEST_MEMORY_BYTES))
    while (data := read_message(sys.stdin.buffer)) is not None:
        sys.stdout.buffer.write(framed(answer(data)))
        sys.stdout.buffer.flush()
    return 0


def answer(question: bytes) -> bytes:
    """Return what `device` says, its refusals too."""
    return encode_reply(_judge(questions.decode(question)))


def _judge(question: Question) -> Reply:
    try:
        return _answer(question)
    except MetadataRefused as error:
        return RefusedMetadata(error.reason, error.role, error.detail)
    except OrderRefused as error:
        return RefusedOrder(error.reason, error.detail)
    except Malformed as error:
        return RefusedBytes(str(error))


def _answer(question: Question) -> Reply:
    match question:
        case Begin(root, epoch):
            return Trusted(device.begin(root, epoch=epoch))
        case TakeRoots(trust, pieces):
            return Trusted(device.take_roots(trust, pieces))
        case TakeTimestamp(trust, data, clock):
            return Trusted(device.take_timestamp(trust, data, clock))
        case Follow(trust, order, pieces, name, profile, clock):
            return _told(device.follow(trust, Offer(order, pieces, name, profile), clock))
        case _:
            assert_never(question)


def _told(outcome: Outcome) -> Reply:
    match outcome:
        case Followed(trust, order, verdicts, trials):
            return WasFollowed(trust, order, judgement_of(verdicts), judgement_of(trials))
        case Lacking(trust, names):
            return Lacks(trust, names)
        case Repeated(trust):
            return WasRepeated(trust)
        case _:
            assert_never(outcome)


if __name__ == "__main__":
    sys.exit(main())
