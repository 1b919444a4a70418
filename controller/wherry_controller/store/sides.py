"""What both sides of a rollout did, in the database: windows of many devices at once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec
from sqlalchemy import select
from sqlmodel import col

from wherry.codec import learned
from wherry.histogram import Histogram
from wherry.measures import Feedback, ShadowCounts
from wherry.names import AliasName, DeviceId, Digest, ProfileName
from wherry_controller.store.database import Transaction
from wherry_controller.store.fetching import AT_ONCE
from wherry_controller.store.tables import DeviceRow, WindowRow


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What a window tells of the side that its bundle is on."""

    device: DeviceId
    bundle: Digest
    received_at: float
    requests: int
    errors: int
    labelled: int
    right: int
    latency: Histogram
    compute: Histogram
    feedback: Feedback | None
    shadow: ShadowCounts | None


FIELDS = Part.__struct_fields__
COLUMNS = tuple(col(getattr(WindowRow, name)) for name in FIELDS)


def list_parts(
    tx: Transaction,
    alias: AliasName,
    bundles: Collection[Digest],
    *,
    since: float,
    until: float,
) -> Iterator[Part]:
    """Yield what came of bundles under an alias in `since <= t < until`, of any device."""
    rows = tx.connection().execute(
        select(*COLUMNS).where(
            col(WindowRow.alias) == alias,
            col(WindowRow.bundle).in_(sorted(bundles)),
            col(WindowRow.received_at) >= since,
            col(WindowRow.received_at) < until,
        )
    )
    kind = learned(Part)
    return (msgspec.convert(dict(zip(FIELDS, row, strict=True)), kind) for row in rows)


def profiles_of(tx: Transaction, members: Sequence[DeviceId]) -> Mapping[DeviceId, ProfileName]:
    """Return the profile of each of some devices that is still there."""
    found: dict[DeviceId, ProfileName] = {}
    for at in range(0, len(members), AT_ONCE):
        some = col(DeviceRow.id).in_(members[at : at + AT_ONCE])
        rows = tx.execute(select(col(DeviceRow.id), col(DeviceRow.profile)).where(some))
        found |= {DeviceId(device): ProfileName(profile) for device, profile in rows}
    return found
