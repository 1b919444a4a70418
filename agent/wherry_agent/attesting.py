"""The process that signs one receipt: `python -m wherry_agent.attesting HOME --at SECONDS`.

The claim comes as one line of JSON on stdin, and what came of it goes as another to stdout. The
device's own key signs, with which the supervisor only makes connections. It signs nothing but a
`Receipt` of this very device, which says so in its first bytes: no signature made here is good for
anything else.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from wherry import __version__, codec
from wherry.enrolment import fingerprint_of
from wherry.errors import REFUSALS
from wherry.messages import Receipt, SignedReceipt, detail
from wherry_agent.attest import LARGEST_CLAIM_BYTES
from wherry_agent.core.receipts import Attested, Claim
from wherry_agent.settings import KEY_FILE, read_identity


def sign(home: Path, claim: Claim, *, at: float) -> SignedReceipt:
    """Return the claim as a receipt of the device of `home`, signed; `at` is UNIX time.

    Raises `NotEnrolled`, `OSError` where the key cannot be read, and `ValueError` where it is none.
    """
    identity = read_identity(home)
    key = load_pem_private_key((home / KEY_FILE).read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the device's key is none of an elliptic curve")
    receipt = Receipt(
        device=identity.device,
        epoch=identity.epoch,
        alias=claim.alias,
        deployment=claim.deployment,
        bundle=claim.bundle,
        outputs=claim.outputs,
        requests=claim.requests,
        p50_ms=claim.p50_ms,
        p99_ms=claim.p99_ms,
        memory_bytes=claim.memory_bytes,
        runtime=claim.runtime,
        runtime_version=claim.runtime_version,
        agent_version=__version__,
        at=at,
    )
    signed = codec.encode(receipt)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return SignedReceipt(
        signed=msgspec.Raw(signed),
        keyid=fingerprint_of(public),
        sig=key.sign(signed, ec.ECDSA(hashes.SHA256())).hex(),
    )


def main(arguments: Sequence[str]) -> int:
    """Sign once and say what came of it; the exit code is 0 where it was said."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # It ends with whoever asked, without a word.
    parser = argparse.ArgumentParser(prog="python -m wherry_agent.attesting")
    parser.add_argument("home", type=Path)
    parser.add_argument("--at", type=float, required=True)
    options = parser.parse_args(arguments)
    claim = codec.decode(Claim, sys.stdin.buffer.read(LARGEST_CLAIM_BYTES + 1))
    try:
        attested = Attested(claim.deployment, sign(options.home, claim, at=options.at))
    except (*REFUSALS, OSError, ValueError) as error:
        attested = Attested(claim.deployment, None, detail(str(error)))
    sys.stdout.buffer.write(codec.encode(attested) + b"\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
