"""Rights as values: a device may do what its topics say, and repairs end in what is wanted."""

from __future__ import annotations

import json
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from wherry.names import DeviceId, parse_device_id
from wherry_controller.core import rights
from wherry_controller.core.rights import Act, Command, Rule, Verdict

ONE, TWO = parse_device_id("one"), parse_device_id("two")
DEVICES = [parse_device_id(f"d-{number}") for number in range(6)]


class Plugin:
    """What the plugin does with commands, as far as names go."""

    def __init__(self, wanted: rights.Rights) -> None:
        self.roles = {role.name for role in wanted.roles}
        self.users = {user.name: user.roles for user in wanted.users}

    def follow(self, commands: Iterable[Command]) -> None:
        for command in commands:
            name = str(command.get("rolename") or command.get("username"))
            match command["command"]:
                case "createRole":
                    assert name not in self.roles
                    self.roles.add(name)
                case "deleteRole":
                    self.roles.remove(name)
                case "createClient":
                    assert name not in self.users
                    self.users[name] = _role_names(command)
                    assert set(self.users[name]) <= self.roles
                case "deleteClient":
                    del self.users[name]
                case _:
                    raise AssertionError(command)


def _role_names(command: Command) -> tuple[str, ...]:
    roles = command["roles"]
    assert isinstance(roles, list)
    return tuple(role["rolename"] for role in roles)


def names_of(plugin: Plugin) -> tuple[set[str], dict[str, tuple[str, ...]]]:
    return plugin.roles, plugin.users


def test_a_devices_own_role_names_no_other_device_and_no_wildcard() -> None:
    for rule in rights.role_of(ONE).rules:
        assert rule.topic.split("/")[2:4].count("one") == 1
        assert not set("+#") & set(rule.topic)
        assert rule.verdict is Verdict.ALLOW


def test_a_device_says_five_things_and_asks_for_two() -> None:
    said = {rule.topic for rule in rights.role_of(ONE).rules if rule.act is Act.SAY}
    asked = {rule.topic for rule in rights.role_of(ONE).rules if rule.act is Act.ASK}
    own = "wherry/v1/devices/one"
    kinds = ("reported", "events", "telemetry", "presence")
    assert said == {"wherry/v1/wants/one", *(f"{own}/{kind}" for kind in kinds)}
    assert asked == {f"{own}/desired", f"{own}/acks"}


def test_the_file_denies_what_no_role_allows() -> None:
    written = json.loads(rights.document(rights.rights_of([ONE])))
    access = written["defaultACLAccess"]
    assert {name for name, allowed in access.items() if allowed} == {"unsubscribe"}
    assert [user["username"] for user in written["clients"]] == [
        rights.CONTROLLER,
        "one",
        "CN=one",
    ]


def test_the_controllers_name_is_no_devices() -> None:
    assert ":" in rights.CONTROLLER
    assert rights.users_of(ONE)[0].name == ONE


def test_rights_of_another_edition_are_replaced() -> None:
    plugin = Plugin(rights.rights_of([]))
    plugin.follow(
        [
            {"command": "createRole", "rolename": "wherry:device/0/one"},
            {
                "command": "createClient",
                "username": "one",
                "roles": [{"rolename": "wherry:device/0/one"}],
            },
        ]
    )
    for commands in rights.repairs([ONE], roles=plugin.roles, users=plugin.users):
        plugin.follow(commands)
    assert names_of(plugin) == names_of(Plugin(rights.rights_of([ONE])))


@given(
    known=st.sets(st.sampled_from(DEVICES)),
    wanted=st.sets(st.sampled_from(DEVICES)),
    lost=st.sets(st.sampled_from([u.name for d in DEVICES for u in rights.users_of(d)])),
)
def test_repairs_end_in_what_is_wanted_and_leave_others_alone(
    known: set[DeviceId], wanted: set[DeviceId], lost: set[str]
) -> None:
    plugin = Plugin(rights.rights_of(known))
    plugin.roles.add("monitoring")
    plugin.users = {u: r for u, r in plugin.users.items() if u not in lost}
    plugin.users["grafana"] = ("monitoring",)
    for commands in rights.repairs(wanted, roles=plugin.roles, users=plugin.users):
        plugin.follow(commands)
    expected = Plugin(rights.rights_of(wanted))
    assert plugin.roles == expected.roles | {"monitoring"}
    assert plugin.users == expected.users | {"grafana": ("monitoring",)}
    assert not list(rights.repairs(wanted, roles=plugin.roles, users=plugin.users))


def test_a_device_whose_role_alone_was_lost_gets_it_again() -> None:
    whole = Plugin(rights.rights_of([ONE]))
    kept = whole.roles - {rights.role_of(ONE).name}
    (commands,) = rights.repairs([ONE], roles=kept, users=whole.users)
    whole.roles = set(kept)
    whole.follow(commands)
    assert names_of(whole) == names_of(Plugin(rights.rights_of([ONE])))


def test_a_role_of_others_that_looks_like_a_devices_is_left_alone() -> None:
    known = Plugin(rights.rights_of([]))
    assert not list(rights.repairs([], roles={*known.roles, "1/one"}, users=known.users))


def test_wildcards_below_chunks_and_manifests_are_denied_by_name() -> None:
    (fetch,) = [r for r in rights.rights_of([]).roles if r.name.startswith("wherry:fetch/")]
    for kind in ("blobs", "bundles"):
        assert Rule(Act.ASK, f"wherry/v1/{kind}/+", Verdict.DENY) in fetch.rules
