"""The trust that vectors are of: a repository by the keys of `tests.trusted`, and its devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests import builders as a
from tests.builders import A_TIME
from tests.trusted import (
    ONLINE,
    ROOT_KEYS,
    a_repository,
    desired_of,
    sign_order,
    the_holders,
    with_min_release,
    with_next_root,
)
from tests.vectors.cases import Case, CondensedCase, PacketCase
from wherry import codec
from wherry.messages import Delta, Desired, Order, Pace
from wherry.names import VersionName
from wherry.trust.condense import condense
from wherry.trust.device import begin, follow, take_roots, take_timestamp
from wherry.trust.keeping import Followed, Offer, Trust
from wherry.trust.packet import pack, piece_name
from wherry.trust.repository import Repository, pieces_for, release
from wherry.trust.skeleton import SKELETON

LATER = A_TIME + 3600.0
V1 = a.a_bundle_of(b"one" * 500)
V2 = a.a_bundle_of(b"two" * 500, version=VersionName("v2"))
BUNDLES = (V1.digest, V2.digest)
DETECTOR = a.an_alias("detector")
# What is the detector's first release needs the second of what it looks at.
FIRST = release(
    a_repository([V1, V2]), DETECTOR, [V1.digest], ONLINE, A_TIME, needs={a.an_alias(): 2}
)
NEWEST = with_next_root(
    with_min_release(FIRST, {a.an_alias(): 2}, now=LATER),
    now=LATER,
    holders=the_holders(root_threshold=3),
    signed_by=ROOT_KEYS,
)


def order_for_v2() -> Order:
    return a.an_order(aliases={a.an_alias(): a.a_wanted(bundle=V2.digest)})


def every_piece() -> Mapping[str, bytes]:
    """Return every piece of both repositories, under the names that they have in packets."""
    pieces: dict[str, bytes] = {}
    for repository in (FIRST, NEWEST):
        pieces |= pieces_for(repository, BUNDLES)
        stamp = repository.timestamp
        pieces[piece_name("timestamp", stamp.signed.version)] = stamp.data
    return dict(sorted(pieces.items()))


def metadata() -> Iterator[Case]:
    for name, data in every_piece().items():
        yield Case(name, data.decode())


def packed() -> Mapping[str, Mapping[str, bytes]]:
    """Return what is in each packet, by its name."""
    newest = NEWEST.root.signed.version
    return {
        "nothing": {},
        "for_an_enrolled_device": pieces_for(FIRST, [V2.digest], root_after=1),
        "over_two_roots": pieces_for(NEWEST, [V2.digest]),
        "snapshot": pieces_for(NEWEST, (), root_after=newest, targets_after=newest),
    }


def packets() -> Iterator[PacketCase]:
    for name, pieces in packed().items():
        yield PacketCase(name, tuple(sorted(pieces)), pack(pieces))


def condensed() -> Iterator[CondensedCase]:
    texts = {name: data.decode() for name, data in every_piece().items()}
    texts["both roots"] = texts["root/1"] + texts["root/2"]
    for name in ("targets/1", "bins-cf/2", "both roots"):
        told = condense(texts[name])
        yield CondensedCase(name, texts[name], told.text, told.numbers, told.digests.hex())


def skeletons() -> Iterator[Case]:
    yield Case("dictionary", SKELETON)


def desired() -> dict[str, Desired]:
    """Return what a device is told: its order, with all or nothing beside it."""
    order = order_for_v2()
    whole = codec.decode(Desired, desired_of(NEWEST, order))
    return {
        "order_and_packet": whole,
        "order_alone": Desired(order=whole.order),
        "with_advice": Desired(
            order=whole.order,
            packet=whole.packet,
            deltas=(
                Delta(blob=a.a_digest("new"), base=a.a_digest("old"), index=a.a_digest("index")),
                Delta(blob=a.a_digest("other"), base=a.a_digest("old")),
            ),
            sources=("https://near.example/blobs",),
            pace=Pace(bytes_per_s=65536.0, bytes_per_day=1 << 28),
        ),
    }


def trusts() -> dict[str, Trust]:
    """Return what devices keep: one that has just enrolled, and one that follows."""
    first = begin(FIRST.roots[0].data, epoch=1)
    return {"enrolled": first, "following": followed(first)}


def followed(trust: Trust, repository: Repository = NEWEST) -> Trust:
    """Return what a device keeps that has followed its order under `repository`."""
    order = order_for_v2()
    pieces = pieces_for(repository, [V2.digest])
    trust = take_timestamp(take_roots(trust, pieces), repository.timestamp.data, LATER)
    offer = Offer(sign_order(order), pieces, order.device, a.a_profile().name)
    outcome = follow(trust, offer, LATER)
    assert isinstance(outcome, Followed)
    return outcome.trust
