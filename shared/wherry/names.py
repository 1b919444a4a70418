"""The names that things go by, parsed once at the door.

Only the `parse_` functions here and a strict decode (`codec`) make these types, so a value of
one is the proof that it is safe in a topic, a path, a table and a log. Names are short
lower-case words; digests are the sha256 of bytes in lower-case hexadecimal.
"""

from __future__ import annotations

import re
from typing import Annotated, NewType

import msgspec

from wherry.errors import Malformed

_NAME = r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
_DEPLOYMENT = r"[a-z0-9][a-z0-9._:-]{0,199}"
_ROLE = r"[a-z]{1,20}(?:-[0-9a-f]{1,8})?"
_HEX_32 = r"[0-9a-f]{32}"
_HEX_64 = r"[0-9a-f]{64}"

_Name = Annotated[str, msgspec.Meta(pattern=rf"\A{_NAME}\Z")]
_Deployment = Annotated[str, msgspec.Meta(pattern=rf"\A{_DEPLOYMENT}\Z")]
_Role = Annotated[str, msgspec.Meta(pattern=rf"\A{_ROLE}\Z")]
_Hex32 = Annotated[str, msgspec.Meta(pattern=rf"\A{_HEX_32}\Z")]
_Hex64 = Annotated[str, msgspec.Meta(pattern=rf"\A{_HEX_64}\Z")]

DeviceId = NewType("DeviceId", _Name)
GroupName = NewType("GroupName", _Name)
AliasName = NewType("AliasName", _Name)
ModelName = NewType("ModelName", _Name)
VersionName = NewType("VersionName", _Name)
ProfileName = NewType("ProfileName", _Name)
RolloutName = NewType("RolloutName", _Name)
DeploymentId = NewType("DeploymentId", _Deployment)
TrialId = NewType("TrialId", _Deployment)
RoleName = NewType("RoleName", _Role)  # TUF's: root, timestamp, snapshot, targets, a bin.
StoreId = NewType("StoreId", _Hex32)
KeyId = NewType("KeyId", _Hex64)
Digest = NewType("Digest", _Hex64)


class BadName(Malformed):
    """A text that cannot be the name of a thing of this kind."""

    def __init__(self, kind: str, text: str, form: str) -> None:
        super().__init__(kind, text, form)
        self.kind, self.text, self.form = kind, text, form

    def __str__(self) -> str:
        return f"{self.text[:80]!r} is no {self.kind}: use {self.form}."


_SHORT = "1 to 63 of a-z, 0-9, '.', '_' and '-', with a letter or digit at both ends"
_LONG = "1 to 200 of a-z, 0-9, '.', '_', ':' and '-', with a letter or digit first"


def parse_device_id(text: str) -> DeviceId:
    return DeviceId(_parse("device id", _NAME, _SHORT, text))


def parse_group_name(text: str) -> GroupName:
    return GroupName(_parse("group name", _NAME, _SHORT, text))


def parse_alias_name(text: str) -> AliasName:
    return AliasName(_parse("alias", _NAME, _SHORT, text))


def parse_model_name(text: str) -> ModelName:
    return ModelName(_parse("model name", _NAME, _SHORT, text))


def parse_version_name(text: str) -> VersionName:
    return VersionName(_parse("version name", _NAME, _SHORT, text))


def parse_profile_name(text: str) -> ProfileName:
    return ProfileName(_parse("profile name", _NAME, _SHORT, text))


def parse_rollout_name(text: str) -> RolloutName:
    return RolloutName(_parse("rollout name", _NAME, _SHORT, text))


def parse_deployment_id(text: str) -> DeploymentId:
    return DeploymentId(_parse("deployment id", _DEPLOYMENT, _LONG, text))


def parse_trial_id(text: str) -> TrialId:
    return TrialId(_parse("trial id", _DEPLOYMENT, _LONG, text))


def parse_store_id(text: str) -> StoreId:
    return StoreId(_parse("store id", _HEX_32, "32 lower-case hexadecimal digits", text))


def parse_role_name(text: str) -> RoleName:
    return RoleName(_parse("role", _ROLE, "a role of TUF metadata, as root or bins-0f", text))


def parse_digest(text: str) -> Digest:
    return Digest(_parse("digest", _HEX_64, "64 lower-case hexadecimal digits (sha256)", text))


def _parse(kind: str, pattern: str, form: str, text: str) -> str:
    if not re.fullmatch(pattern, text):
        raise BadName(kind, text, form)
    return text
