"""The tables of the database.

Names and digests are text, times UNIX seconds, documents JSON. A device's rows go with the
device; a version that a rollout or a variant names stays. Change a table together with a new
file in `migrations/versions`: a test compares the two.
"""

from __future__ import annotations

from typing import ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    ForeignKeyConstraint,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
)
from sqlmodel import Field, SQLModel


class Row(SQLModel):
    """Keeps Wherry's tables apart from those of other users of SQLModel in one process."""

    metadata: ClassVar[MetaData] = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


def _document() -> Column[object]:
    return Column(JSON(none_as_null=True), nullable=False)


def _optional_document() -> Column[object]:
    return Column(JSON(none_as_null=True), nullable=True)


def _of_a_version(*, column: str) -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["model", column], ["version.model", "version.name"])


class ModelRow(Row, table=True):
    __tablename__ = "model"

    name: str = Field(primary_key=True)
    created_at: float


class VersionRow(Row, table=True):
    __tablename__ = "version"

    model: str = Field(primary_key=True, foreign_key="model.name")
    name: str = Field(primary_key=True)
    card: str = Field(sa_type=Text)
    lineage: str
    reference: str | None = None
    status: str
    reason: str = Field(default="", sa_type=Text)
    created_at: float


class VersionFileRow(Row, table=True):
    __tablename__ = "version_file"
    __table_args__ = (_of_a_version(column="version"),)

    model: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    digest: str
    size_bytes: int


class ProfileRow(Row, table=True):
    __tablename__ = "profile"

    name: str = Field(primary_key=True)
    document: object = Field(sa_column=_document())


class BuildRow(Row, table=True):
    __tablename__ = "build"
    __table_args__ = (_of_a_version(column="version"),)

    id: str = Field(primary_key=True)
    model: str
    version: str
    profiles: object = Field(sa_column=_document())
    status: str = Field(index=True)
    reason: str = ""
    detail: str = Field(default="", sa_type=Text)
    progress: object = Field(sa_column=_document())
    attempts: int = 0
    measure_on: str | None = None
    created_at: float
    started_at: float | None = None
    ended_at: float | None = None


class BundleRow(Row, table=True):
    __tablename__ = "bundle"

    digest: str = Field(primary_key=True)
    envelope: bytes = Field(sa_type=LargeBinary)


class VariantRow(Row, table=True):
    __tablename__ = "variant"
    __table_args__ = (_of_a_version(column="version"),)

    model: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    profile: str = Field(primary_key=True, foreign_key="profile.name")
    bundle: str = Field(foreign_key="bundle.digest", index=True)
    precision: str
    size_bytes: int
    report: object = Field(sa_column=_document())
    latency: object = Field(default=None, sa_column=_optional_document())
    created_at: float


class ReportRow(Row, table=True):
    """A profile that was refused has one too, so it needs no variant."""

    __tablename__ = "report"
    __table_args__ = (_of_a_version(column="version"),)

    model: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    profile: str = Field(primary_key=True, foreign_key="profile.name")
    build: str = Field(foreign_key="build.id")
    document: object = Field(sa_column=_document())
    tools: object = Field(sa_column=_document())
    created_at: float


class DeviceRow(Row, table=True):
    __tablename__ = "device"

    id: str = Field(primary_key=True)
    profile: str = Field(foreign_key="profile.name")
    tags: object = Field(sa_column=_document())
    registered_at: float
    store_id: str | None = None
    report_seq: int | None = None
    generation: int = 0
    online: bool = False
    last_seen_at: float | None = None
    reported: object = Field(default=None, sa_column=_optional_document())
    epoch: int = 0
    root: int = 0
    flagged: str | None = None
    earlier: object = Field(sa_column=_document())


class GroupRow(Row, table=True):
    __tablename__ = "device_group"

    name: str = Field(primary_key=True)


class MemberRow(Row, table=True):
    __tablename__ = "device_group_member"

    group: str = Field(primary_key=True, foreign_key="device_group.name", ondelete="CASCADE")
    device: str = Field(primary_key=True, foreign_key="device.id", ondelete="CASCADE")


class RolloutRow(Row, table=True):
    """The state and the effects that it orders are one row, and so one write."""

    __tablename__ = "rollout"
    __table_args__ = (_of_a_version(column="version"),)

    name: str = Field(primary_key=True)
    model: str
    version: str
    alias: str
    groups: object = Field(sa_column=_document())
    status: str
    state: str = Field(sa_type=Text)
    effects: str = Field(sa_type=Text)
    created_at: float
    ended_at: float | None = Field(default=None, index=True)


class DesiredRow(Row, table=True):
    __tablename__ = "desired"

    device: str = Field(primary_key=True, foreign_key="device.id", ondelete="CASCADE")
    generation: int
    aliases: object = Field(sa_column=_document())
    revoked: object = Field(sa_column=_document())
    trials: object = Field(sa_column=_document())
    epoch: int = 0
    issued_at: int = Field(default=0, sa_type=BigInteger)
    expires_at: int = Field(default=0, sa_type=BigInteger)
    snapshot: int = 0
    enclosure: str | None = Field(default=None, foreign_key="enclosure.digest", index=True)


class EnclosureRow(Row, table=True):
    """What travels beside orders, once for all that it is the same for."""

    __tablename__ = "enclosure"

    digest: str = Field(primary_key=True)
    body: bytes = Field(sa_type=LargeBinary)


class TrialRow(Row, table=True):
    __tablename__ = "trial"

    id: str = Field(primary_key=True)
    build: str = Field(foreign_key="build.id", index=True)
    device: str = Field(foreign_key="device.id", ondelete="CASCADE", index=True)
    profile: str
    recipe: str
    bundle: str = Field(foreign_key="bundle.digest")
    result: object = Field(default=None, sa_column=_optional_document())
    ordered_at: float
    ended_at: float | None = Field(default=None, index=True)


class DeploymentRow(Row, table=True):
    __tablename__ = "deployment"

    id: str = Field(primary_key=True)
    device: str = Field(foreign_key="device.id", ondelete="CASCADE", index=True)
    rollout: str | None = Field(default=None, foreign_key="rollout.name", index=True)
    alias: str
    bundle: str = Field(foreign_key="bundle.digest")
    status: str
    phase: str | None = None
    reason: str | None = None
    detail: str = Field(default="", sa_type=Text)
    ordered_at: float
    started_at: float | None = None
    ended_at: float | None = None


class ReceiptRow(Row, table=True):
    """What a device attested of a deployment, as it signed it."""

    __tablename__ = "receipt"

    deployment: str = Field(primary_key=True, foreign_key="deployment.id", ondelete="CASCADE")
    device: str = Field(foreign_key="device.id", ondelete="CASCADE", index=True)
    body: str = Field(sa_type=Text)
    received_at: float


class EventRow(Row, table=True):
    __tablename__ = "event"

    device: str = Field(primary_key=True, foreign_key="device.id", ondelete="CASCADE")
    store_id: str = Field(primary_key=True)
    seq: int = Field(primary_key=True)
    body: str = Field(sa_type=Text)
    received_at: float


class AckRow(Row, table=True):
    """The highest event of a device's store below which none is missing."""

    __tablename__ = "event_ack"

    device: str = Field(primary_key=True, foreign_key="device.id", ondelete="CASCADE")
    store_id: str = Field(primary_key=True)
    seq: int


class WindowRow(Row, table=True):
    __tablename__ = "telemetry_window"

    device: str = Field(primary_key=True, foreign_key="device.id", ondelete="CASCADE")
    store_id: str = Field(primary_key=True)
    seq: int = Field(primary_key=True)
    alias: str
    bundle: str
    received_at: float = Field(index=True)
    window_s: float
    requests: int = Field(sa_type=BigInteger)
    errors: int = Field(sa_type=BigInteger)
    latency: object = Field(sa_column=_document())
    compute: object = Field(sa_column=_document())
    labelled: int = Field(sa_type=BigInteger)
    right: int = Field(sa_type=BigInteger)
    sent_bytes: int = Field(sa_type=BigInteger)
    received_bytes: int = Field(sa_type=BigInteger)
    host: object = Field(sa_column=_document())
    error_classes: object = Field(default=None, sa_column=_optional_document())
    feedback: object = Field(default=None, sa_column=_optional_document())
    inputs: object = Field(default=None, sa_column=_optional_document())
    outputs: object = Field(default=None, sa_column=_optional_document())
    shadow: object = Field(default=None, sa_column=_optional_document())
    worker_bytes: int | None = Field(default=None, sa_type=BigInteger)
    restarts: int | None = Field(default=None, sa_type=BigInteger)
    dropped_windows: int | None = Field(default=None, sa_type=BigInteger)


class MetadataRow(Row, table=True):
    """One version of a role of TUF metadata; what has no `published_at` waits for a signature."""

    __tablename__ = "trust_metadata"

    role: str = Field(primary_key=True)
    version: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    data: bytes = Field(sa_type=LargeBinary)
    made_at: float
    published_at: float | None = None


class ReleaseRow(Row, table=True):
    """Which release of an alias a version is; no two have one counter."""

    __tablename__ = "release"
    __table_args__ = (_of_a_version(column="version"), UniqueConstraint("alias", "counter"))

    alias: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    version: str = Field(primary_key=True)
    counter: int
    released_at: float


class AuditRow(Row, table=True):
    """One entry of the audit log; the database refuses to change or to remove it."""

    __tablename__ = "audit"

    seq: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    kind: str = Field(index=True)
    body: str = Field(sa_type=Text)
    digest: str


class TokenRow(Row, table=True):
    __tablename__ = "token"

    id: str = Field(primary_key=True)
    digest: str = Field(unique=True)
    device: str = Field(foreign_key="device.id", ondelete="CASCADE", index=True)
    created_at: float
    expires_at: float
    used_at: float | None = None
    csr: str | None = None
    revoked_at: float | None = None


class IdentityRow(Row, table=True):
    """A certificate outlives the device's row: its revocation must be told until it has ended."""

    __tablename__ = "identity"

    serial: str = Field(primary_key=True)
    device: str = Field(index=True)
    epoch: int
    csr: str = Field(index=True)
    fingerprint: str
    pem: str = Field(sa_type=Text)
    not_before: float
    not_after: float
    issued_at: float
    renews: str | None = None
    revoked_at: float | None = Field(default=None, index=True)


class PendingRow(Row, table=True):
    __tablename__ = "pending"

    fingerprint: str = Field(primary_key=True)
    csr: str
    device: str | None = None
    profile: str | None = None
    facts: object = Field(default=None, sa_column=_optional_document())
    address: str
    asked_at: float
    seen_at: float
    decision: str
    decided_at: float | None = None


class DeltaRow(Row, table=True):
    """A delta that was tried; one without an index is of no use, for the reason that stands there.

    Digests of blobs and of the index's bytes, all in the blob folder.
    """

    __tablename__ = "delta"

    base: str = Field(primary_key=True)
    blob: str = Field(primary_key=True)
    index: str | None = None
    size_bytes: int
    problem: str = Field(default="", sa_type=Text)
    made_at: float
