"""Topics: built and parsed both ways, and closed."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.builders import a_device_id, a_digest
from wherry.names import BadName, parse_device_id, parse_role_name
from wherry.topics import (
    AcksTopic,
    BadTopic,
    BlobTopic,
    BundleTopic,
    DesiredTopic,
    EventsTopic,
    MetadataTopic,
    PresenceTopic,
    ReportedTopic,
    TelemetryTopic,
    TimestampTopic,
    Topic,
    WantsTopic,
    filter_of,
    parse_topic,
    text,
)

OF_A_DEVICE = (
    DesiredTopic,
    ReportedTopic,
    EventsTopic,
    AcksTopic,
    TelemetryTopic,
    PresenceTopic,
    WantsTopic,
)
OF_A_DIGEST = (BundleTopic, BlobTopic)
NAMED: tuple[type[Topic], ...] = (*OF_A_DEVICE, *OF_A_DIGEST)
KINDS: tuple[type[Topic], ...] = (*NAMED, TimestampTopic, MetadataTopic)

DEVICES = st.from_regex(r"\A[a-z0-9]([a-z0-9._-]{0,10}[a-z0-9])?\Z").map(parse_device_id)
DIGESTS = st.integers(0, 99).map(lambda number: a_digest(str(number)))
ROLES = st.sampled_from(["root", "snapshot", "targets", "bins-0f"]).map(parse_role_name)
TOPICS: st.SearchStrategy[Topic] = st.one_of(
    *(st.builds(kind, DEVICES) for kind in OF_A_DEVICE),
    *(st.builds(kind, DIGESTS) for kind in OF_A_DIGEST),
    st.just(TimestampTopic()),
    st.builds(MetadataTopic, ROLES, st.integers(1, 9_999_999_999)),
)


def one_of_each() -> list[Topic]:
    of_a_device: list[Topic] = [kind(a_device_id()) for kind in OF_A_DEVICE]
    of_trust: list[Topic] = [TimestampTopic(), MetadataTopic(parse_role_name("snapshot"), 12)]
    return [*of_a_device, *(kind(a_digest()) for kind in OF_A_DIGEST), *of_trust]


def matches(pattern: str, topic: str) -> bool:
    """Say whether an MQTT filter matches a topic (MQTT 5, 4.7.1; `#` is in none of ours)."""
    wanted, levels = pattern.split("/"), topic.split("/")
    return len(wanted) == len(levels) and all(
        want in ("+", level) for want, level in zip(wanted, levels, strict=True)
    )


@given(TOPICS)
def test_a_topic_that_was_built_is_parsed_as_itself(topic: Topic) -> None:
    assert parse_topic(text(topic)) == topic


@given(TOPICS, TOPICS)
def test_two_topics_have_two_texts(one: Topic, other: Topic) -> None:
    assert (text(one) == text(other)) == (one == other)


@given(TOPICS, st.sampled_from(KINDS))
def test_a_filter_matches_its_own_kind_and_no_other(topic: Topic, kind: type[Topic]) -> None:
    assert matches(filter_of(kind), text(topic)) == isinstance(topic, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_filter_spells_every_level_but_the_names(kind: type[Topic]) -> None:
    names = {TimestampTopic: 0, MetadataTopic: 2}.get(kind, 1)
    assert filter_of(kind).count("+") == names
    assert "#" not in filter_of(kind)


@given(TOPICS, st.integers(0, 200), st.sampled_from(["/", "x", "+", "#", "A", "\0", " "]))
@example(DesiredTopic(a_device_id()), 200, "/")
def test_a_topic_with_a_character_more_is_another_topic_or_none(
    topic: Topic, at: int, extra: str
) -> None:
    spelled = text(topic)
    strange = spelled[:at] + extra + spelled[at:]
    with suppress(BadTopic, BadName):
        assert text(parse_topic(strange)) == strange


@given(st.text(max_size=60))
@example("")
@example("wherry/v1")
@example("wherry/v1/")
@example("wherry/v2/devices/pi-1/desired")
@example("wherry/v1/wherry/v1/devices/pi-1/desired")
@example("devices/pi-1/desired")
@example("/wherry/v1/devices/pi-1/desired")
@example("wherry/v1/devices/pi-1")
@example("wherry/v1/devices/pi-1/desired/x")
@example("wherry/v1/devices/pi-1/commands")
@example("wherry/v1/trust/root/0")
@example("wherry/v1/trust/snapshot")
@example("wherry/v1/trust/snapshot/01")
@example("$SYS/broker/uptime")
def test_every_other_topic_is_refused(topic: str) -> None:
    with pytest.raises((BadTopic, BadName)):
        parse_topic(topic)


@pytest.mark.parametrize("name", ["", "+", "#", "..", "PI-1", "a" * 64])
@pytest.mark.parametrize(
    "form", ["devices/{}/desired", "wants/{}", "bundles/{}", "blobs/{}", "devices/{}/events"]
)
def test_a_topic_with_what_is_no_name_is_refused(form: str, name: str) -> None:
    topic = f"wherry/v1/{form.format(name)}"
    if name == "a" * 64 and form.startswith(("bundles", "blobs")):
        assert text(parse_topic(topic)) == topic
    else:
        with pytest.raises(BadName):
            parse_topic(topic)


def test_a_refusal_bounds_what_it_repeats() -> None:
    with pytest.raises(BadTopic, match="is none of Wherry's topics") as refused:
        parse_topic("x" * 60_000)
    assert len(str(refused.value)) < 250
