"""Names: what is no name is refused at both doors, by the parsers and by a strict decode."""

from __future__ import annotations

import json
import string
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wherry import names
from wherry.codec import BadDocument, decode
from wherry.names import BadName


class Named(msgspec.Struct):
    device: names.DeviceId | None = None
    group: names.GroupName | None = None
    alias: names.AliasName | None = None
    model: names.ModelName | None = None
    version: names.VersionName | None = None
    profile: names.ProfileName | None = None
    rollout: names.RolloutName | None = None
    deployment: names.DeploymentId | None = None
    store: names.StoreId | None = None
    key: names.KeyId | None = None
    digest: names.Digest | None = None


PARSERS: dict[str, Callable[[str], str]] = {
    "device": names.parse_device_id,
    "group": names.parse_group_name,
    "alias": names.parse_alias_name,
    "model": names.parse_model_name,
    "version": names.parse_version_name,
    "profile": names.parse_profile_name,
    "rollout": names.parse_rollout_name,
    "deployment": names.parse_deployment_id,
    "store": names.parse_store_id,
    "digest": names.parse_digest,
}
SHORT = ["device", "group", "alias", "model", "version", "profile", "rollout"]
NEARLY = st.text(string.ascii_lowercase + string.digits + "._-:/+#A\n\0é", max_size=70)
HEXADECIMAL = st.text("0123456789abcdef", min_size=30, max_size=66)


def is_parsed(kind: str, text: str) -> bool:
    try:
        return PARSERS[kind](text) == text
    except BadName:
        return False


def is_decoded(kind: str, text: str) -> bool:
    try:
        return text in msgspec.structs.astuple(decode(Named, json.dumps({kind: text}).encode()))
    except BadDocument:
        return False


@given(st.sampled_from(sorted(PARSERS)), NEARLY | HEXADECIMAL)
@example("device", "a\n")
@example("digest", "a" * 64 + "\n")
@example("digest", "A" * 64)
@example("store", "٣" * 32)
@example("deployment", "digits-v1:canary:pi-1")
def test_both_doors_refuse_the_same_names(kind: str, text: str) -> None:
    assert is_parsed(kind, text) == is_decoded(kind, text)


@given(st.sampled_from(SHORT), st.from_regex(r"\A[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?\Z"))
@example("device", "a")
@example("device", "0" * 63)
@example("device", "a..b")
def test_a_short_lower_case_word_is_a_name(kind: str, text: str) -> None:
    assert is_parsed(kind, text)


@pytest.mark.parametrize("kind", SHORT)
@pytest.mark.parametrize(
    "text", ["", "a" * 64, "-a", "a-", ".", "..", "a/b", "a+", "#", "A", "a b", "a:b", "é", "a\0"]
)
def test_what_is_unsafe_in_a_topic_or_a_path_is_no_name(kind: str, text: str) -> None:
    assert not is_parsed(kind, text)


@pytest.mark.parametrize(("kind", "length"), [("store", 32), ("digest", 64)])
def test_hexadecimal_has_one_length_and_lower_case(kind: str, length: int) -> None:
    assert is_parsed(kind, "0a" * (length // 2))
    assert not is_parsed(kind, "a" * (length - 1))
    assert not is_parsed(kind, "a" * (length + 1))
    assert not is_parsed(kind, "A" * length)
    assert not is_parsed(kind, "g" * length)


def test_a_deployment_id_may_be_long_and_hold_colons() -> None:
    assert is_parsed("deployment", "a" * 200)
    assert is_parsed("deployment", "a:b:")
    assert not is_parsed("deployment", "a" * 201)
    assert not is_parsed("deployment", ":a")
    assert not is_parsed("deployment", "a/b")


def test_a_refusal_says_what_a_name_looks_like_and_bounds_what_it_repeats() -> None:
    with pytest.raises(BadName, match="is no device id: use 1 to 63 of") as refused:
        names.parse_device_id("X" * 5000)
    assert refused.value.text == "X" * 5000
    assert len(str(refused.value)) < 250
