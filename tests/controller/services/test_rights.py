"""Rights on their way to a broker: one change at a time, a revocation ahead of all others."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from wherry.names import DeviceId, parse_device_id
from wherry_controller.core import rights
from wherry_controller.services.rights import MosquittoRights

ONE, TWO, GONE = map(parse_device_id, ("one", "two", "gone"))
GRANTED = ("createRole", "createClient", "createClient")
REVOKED = ("deleteClient", "deleteClient", "deleteRole")


class Plugin:
    """A broker that keeps what it is asked for, and answers when a test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.about: list[set[str]] = []

    def request(self, topic: str, payload: bytes) -> None:
        assert topic == rights.REQUESTS
        commands = json.loads(payload)["commands"]
        self.asked.append(tuple(one["command"] for one in commands))
        self.about.append({str(one.get("username")) for one in commands})


class Site:
    """The rights of `enrolled` devices on a broker that knows those of `known` ones."""

    def __init__(self, enrolled: Sequence[DeviceId] = (), known: Sequence[DeviceId] = ()) -> None:
        self.plugin = Plugin()
        self.rights = MosquittoRights(self.plugin, lambda: enrolled)
        self._known = rights.rights_of(known)

    def answer(self, command: str = "createRole", **data: object) -> None:
        told = {"responses": [{"command": command, **({"data": data} if data else {})}]}
        self.rights.on_answer(json.dumps(told).encode())

    def compare(self) -> None:
        """Answer what a connect asks."""
        roles = [role.name for role in self._known.roles]
        users = [user.name for user in self._known.users]
        self.answer("listRoles", totalCount=len(roles), roles=roles)
        self.answer("listClients", totalCount=len(users), clients=users)


def test_a_grant_waits_until_the_one_before_it_was_answered() -> None:
    site = Site()
    for device in (ONE, TWO):
        site.rights.grant(device)
    assert site.plugin.asked == [GRANTED]
    site.answer()
    assert site.plugin.asked == [GRANTED, GRANTED]
    assert "two" in site.plugin.about[1]
    site.answer()
    assert len(site.plugin.asked) == 2


def test_a_revocation_waits_for_nobody_and_takes_back_what_waits() -> None:
    site = Site()
    for device in (ONE, GONE, TWO):
        site.rights.grant(device)
    site.rights.revoke(GONE)
    assert site.plugin.asked == [GRANTED, REVOKED]
    site.answer()
    site.answer("deleteClient")
    assert site.plugin.asked == [GRANTED, REVOKED, GRANTED]
    assert "two" in site.plugin.about[2]


def test_a_repair_does_not_bring_back_a_device_that_was_revoked_meanwhile() -> None:
    site = Site(enrolled=(ONE, GONE))
    site.rights.on_connected()
    site.compare()
    site.rights.grant(TWO)
    site.rights.revoke(GONE if "one" in site.plugin.about[-1] else ONE)
    for _ in range(3):
        site.answer()
    assert [one for one in site.plugin.asked if one == GRANTED] == [GRANTED, GRANTED]


def test_a_new_connection_forgets_what_waited_and_compares() -> None:
    site = Site(enrolled=(ONE,), known=(ONE,))
    for device in (ONE, TWO):
        site.rights.grant(device)
    site.rights.on_connected()
    assert site.plugin.asked == [GRANTED, ("listRoles",)]
    site.compare()
    assert site.plugin.asked == [GRANTED, ("listRoles",), ("listClients",)]


def test_what_was_listed_before_a_connection_broke_counts_for_nothing() -> None:
    site = Site(enrolled=(ONE,), known=())
    stale = [role.name for role in rights.rights_of([ONE]).roles]
    site.rights.on_connected()
    site.answer("listRoles", totalCount=99, roles=stale)
    site.rights.on_connected()
    site.compare()
    assert site.plugin.asked[-1] == GRANTED


def test_a_second_comparison_begins_with_nothing() -> None:
    site = Site(enrolled=(ONE,), known=())
    for _ in range(2):
        site.rights.on_connected()
        site.compare()
        assert site.plugin.asked[-1] == GRANTED


@pytest.mark.parametrize("answer", [b"{}", b'{"responses":[{"command":"x","error":"no"}]}'])
def test_an_answer_of_any_kind_lets_the_next_change_go(answer: bytes) -> None:
    site = Site()
    for device in (ONE, TWO):
        site.rights.grant(device)
    site.rights.on_answer(answer)
    assert site.plugin.asked == [GRANTED, GRANTED]


def test_what_was_done_before_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    for error in ("Client already exists", "Role not found", "Internal error"):
        told = {"responses": [{"command": "createRole", "error": error}]}
        site.rights.on_answer(json.dumps(told).encode())
    assert [record.message for record in caplog.records] == ["rights.refused"]


def test_a_page_that_is_empty_ends_the_listing() -> None:
    site = Site(enrolled=())
    site.rights.on_connected()
    site.answer("listRoles", totalCount=99, roles=[])
    site.answer("listClients", totalCount=99, clients=[])
    assert site.plugin.asked[:2] == [("listRoles",), ("listClients",)]
    assert site.plugin.asked[2:] == [("createRole",)]
