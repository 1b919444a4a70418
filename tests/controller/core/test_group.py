"""Which devices a stage reaches."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import a_device_id
from tests.laws import tried
from wherry.names import GroupName, parse_group_name
from wherry_controller.core.group import EmptyStage, devices_of_stages

CANARY, FIELD = parse_group_name("canary"), parse_group_name("field")
A, B, C = (a_device_id(name) for name in "abc")


def test_a_device_belongs_to_the_first_stage_that_names_it() -> None:
    members = {CANARY: [B], FIELD: [C, A, B]}
    assert devices_of_stages([CANARY, FIELD], members) == [(B,), (A, C)]


def test_a_stage_without_a_device_of_its_own_is_refused_by_name() -> None:
    with pytest.raises(EmptyStage, match=r"'field'.*leave the stage out"):
        devices_of_stages([CANARY, FIELD], {CANARY: [A, B], FIELD: [B]})
    with pytest.raises(EmptyStage, match="'canary'"):
        devices_of_stages([CANARY], {CANARY: []})


groups = st.sampled_from([parse_group_name(name) for name in ("canary", "field", "rest")])


@tried
@given(
    st.lists(groups, unique=True),
    st.fixed_dictionaries(
        {
            parse_group_name(name): st.lists(st.sampled_from([A, B, C]), max_size=4)
            for name in ("canary", "field", "rest")
        }
    ),
)
def test_no_device_is_in_two_stages_and_none_is_left_out(
    stages: list[GroupName], members: dict[GroupName, list[str]]
) -> None:
    known = {group: [a_device_id(name) for name in names] for group, names in members.items()}
    asked = {device for group in stages for device in known[group]}
    try:
        reached = devices_of_stages(stages, known)
    except EmptyStage as refusal:
        earlier = stages[: stages.index(refusal.group)]
        asked = {device for group in earlier for device in known[group]}
        empty, reached = set(known[refusal.group]), devices_of_stages(earlier, known)
        if empty - asked:
            raise
    flat = [device for stage in reached for device in stage]
    assert len(flat) == len(set(flat))
    assert set(flat) == asked
