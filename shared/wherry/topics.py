"""The MQTT topics, as one closed set of types with the text of each.

No other module spells a topic. `text` builds one, `parse_topic` reads one; `/` separates levels,
and names hold none of `/`, `+`, `#` (`names` sees to that).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from typing_extensions import assert_never

from wherry.errors import Malformed
from wherry.names import (
    DeviceId,
    Digest,
    RoleName,
    parse_device_id,
    parse_digest,
    parse_role_name,
)

ROOT = "wherry/v1"
_VERSION = "[1-9][0-9]{0,9}"


class BadTopic(Malformed):
    """A topic that Wherry does not use."""

    def __init__(self, topic: str) -> None:
        super().__init__(topic)
        self.topic = topic

    def __str__(self) -> str:
        return f"{self.topic[:120]!r} is none of Wherry's topics; see ARCHITECTURE.md for them."


@dataclass(frozen=True, slots=True)
class DesiredTopic:
    """A device's signed order with the trust metadata that it misses; retained."""

    device: DeviceId


@dataclass(frozen=True, slots=True)
class ReportedTopic:
    """What a device says it has; retained."""

    device: DeviceId


@dataclass(frozen=True, slots=True)
class EventsTopic:
    """A device's numbered progress and outcomes."""

    device: DeviceId


@dataclass(frozen=True, slots=True)
class AcksTopic:
    """How far the controller has a device's events in its database; retained."""

    device: DeviceId


@dataclass(frozen=True, slots=True)
class TelemetryTopic:
    """Counts and histograms of one window."""

    device: DeviceId


@dataclass(frozen=True, slots=True)
class PresenceTopic:
    """Online or offline; retained, and the device's will."""

    device: DeviceId


@dataclass(frozen=True, slots=True)
class BundleTopic:
    """A bundle's signed manifest; retained."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class BlobTopic:
    """The raw bytes of one chunk, named by its own digest; retained."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class TimestampTopic:
    """TUF's timestamp, one for the fleet; retained."""


@dataclass(frozen=True, slots=True)
class MetadataTopic:
    """One version of another TUF role; retained until it is superseded."""

    role: RoleName
    version: int


@dataclass(frozen=True, slots=True)
class WantsTopic:
    """Digests that a device misses."""

    device: DeviceId


Topic: TypeAlias = (
    DesiredTopic
    | ReportedTopic
    | EventsTopic
    | AcksTopic
    | TelemetryTopic
    | PresenceTopic
    | BundleTopic
    | BlobTopic
    | TimestampTopic
    | MetadataTopic
    | WantsTopic
)

_OfADevice: TypeAlias = (
    DesiredTopic | ReportedTopic | EventsTopic | AcksTopic | TelemetryTopic | PresenceTopic
)
_OF_A_DEVICE: dict[str, type[_OfADevice]] = {
    "desired": DesiredTopic,
    "reported": ReportedTopic,
    "events": EventsTopic,
    "acks": AcksTopic,
    "telemetry": TelemetryTopic,
    "presence": PresenceTopic,
}


def text(topic: Topic) -> str:
    """Return the topic as MQTT spells it."""
    match topic:
        case BundleTopic(digest):
            return f"{ROOT}/bundles/{digest}"
        case BlobTopic(digest):
            return f"{ROOT}/blobs/{digest}"
        case TimestampTopic():
            return f"{ROOT}/trust/timestamp"
        case MetadataTopic(role, version):
            return f"{ROOT}/trust/{role}/{version}"
        case WantsTopic(device):
            return f"{ROOT}/wants/{device}"
        case DesiredTopic(device):
            return f"{ROOT}/devices/{device}/desired"
        case ReportedTopic(device):
            return f"{ROOT}/devices/{device}/reported"
        case EventsTopic(device):
            return f"{ROOT}/devices/{device}/events"
        case AcksTopic(device):
            return f"{ROOT}/devices/{device}/acks"
        case TelemetryTopic(device):
            return f"{ROOT}/devices/{device}/telemetry"
        case PresenceTopic(device):
            return f"{ROOT}/devices/{device}/presence"
        case _:
            assert_never(topic)


def parse_topic(topic: str) -> Topic:
    """Return the topic that MQTT spelled; raise `BadTopic` or `BadName` for any other."""
    match topic.removeprefix(f"{ROOT}/").split("/") if topic.startswith(f"{ROOT}/") else []:
        case ["bundles", digest]:
            return BundleTopic(parse_digest(digest))
        case ["blobs", digest]:
            return BlobTopic(parse_digest(digest))
        case ["trust", "timestamp"]:
            return TimestampTopic()
        case ["trust", role, version] if re.fullmatch(_VERSION, version):
            return MetadataTopic(parse_role_name(role), int(version))
        case ["wants", device]:
            return WantsTopic(parse_device_id(device))
        case ["devices", device, leaf] if leaf in _OF_A_DEVICE:
            return _OF_A_DEVICE[leaf](parse_device_id(device))
        case _:
            raise BadTopic(topic)


def filter_of(kind: type[Topic]) -> str:
    """Return the subscription that matches every topic of one kind."""
    if kind is BundleTopic:
        return f"{ROOT}/bundles/+"
    if kind is BlobTopic:
        return f"{ROOT}/blobs/+"
    if kind is TimestampTopic:
        return text(TimestampTopic())
    if kind is MetadataTopic:
        return f"{ROOT}/trust/+/+"
    if kind is WantsTopic:
        return f"{ROOT}/wants/+"
    leaf = next(leaf for leaf, known in _OF_A_DEVICE.items() if known is kind)
    return f"{ROOT}/devices/+/{leaf}"
