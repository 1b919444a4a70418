"""The rights of devices on a running mosquitto: granted, taken, and repaired when it is back.

    Connected --> list roles, list users, page by page --> repair, some devices at a time --> done

The broker is a cache here too. What it lacks of the rights of enrolled devices, and what it has
too much, is found after each connect; a grant or a revocation that it never heard of is among it.
Each change makes the plugin write its whole file anew, so a fleet is put there by
`wherry broker config` before the broker starts, and not one by one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection
from typing import Annotated, Protocol

import msgspec

from wherry import codec
from wherry.codec import BadDocument
from wherry.names import DeviceId
from wherry_controller.core import rights
from wherry_controller.core.rights import Command

log = logging.getLogger(__name__)

PAGE = 2000
AT_ONCE = 4  # Devices to repair with one request: the broker serves nobody meanwhile.
LARGEST_ANSWER_BYTES = 2 << 20
# What a change answers that was made before.
_DONE_BEFORE = ("already exists", "not found")

Name = Annotated[str, msgspec.Meta(max_length=65_535)]


class Plugin(Protocol):
    """A broker that takes requests for itself; see `mqtt.Link`."""

    def request(self, topic: str, payload: bytes) -> None: ...


class _Listed(msgspec.Struct, frozen=True):
    """One page of names; `total` of all pages."""

    total: Annotated[int, msgspec.Meta(ge=0)] = msgspec.field(name="totalCount", default=0)
    roles: tuple[Name, ...] = ()
    clients: tuple[Name, ...] = ()


class _Response(msgspec.Struct, frozen=True):
    command: str
    error: str | None = None
    data: _Listed = _Listed()


class _Answer(msgspec.Struct, frozen=True):
    responses: tuple[_Response, ...]


class MosquittoRights:
    """What a mosquitto lets devices do; one thread calls it.

    `enrolled` says which devices have a live identity.
    """

    def __init__(self, plugin: Plugin, enrolled: Callable[[], Collection[DeviceId]]) -> None:
        self._plugin = plugin
        self._enrolled = enrolled
        self._roles: list[str] = []
        self._users: list[str] = []
        self._repairs: deque[tuple[Command, ...]] = deque()

    def grant(self, device: DeviceId) -> None:
        """Let a device connect as itself; twice is the same as once."""
        self._request(rights.grant(device))

    def revoke(self, device: DeviceId) -> None:
        """Take all rights of a device and end its live connections."""
        self._request(rights.revoke(device))

    def on_connected(self) -> None:
        """Begin to compare what the broker knows with what it shall know."""
        self._roles, self._users = [], []
        self._repairs.clear()
        self._request([rights.list_roles(0, PAGE)])

    def on_answer(self, payload: bytes) -> None:
        """Take what the plugin answered to one request."""
        try:
            answer = codec.decode(_Answer, payload, limit_bytes=LARGEST_ANSWER_BYTES)
        except BadDocument as error:
            log.error("rights.not_understood", extra={"problem": str(error)})
            return
        for response in answer.responses:
            self._take(response)
        if self._repairs and not any(r.command.startswith("list") for r in answer.responses):
            self._repair()

    def _take(self, response: _Response) -> None:
        listed = response.data
        match response.command:
            case _ if response.error is not None:
                _note(response.command, response.error)
            case "listRoles":
                self._roles += listed.roles
                if listed.roles and len(self._roles) < listed.total:
                    self._request([rights.list_roles(len(self._roles), PAGE)])
                else:
                    self._request([rights.list_users(0, PAGE)])
            case "listClients":
                self._users += listed.clients
                if listed.clients and len(self._users) < listed.total:
                    self._request([rights.list_users(len(self._users), PAGE)])
                else:
                    self._begin_to_repair()
            case _:
                pass  # A change that was made.

    def _begin_to_repair(self) -> None:
        lacking = rights.repairs(self._enrolled(), roles=self._roles, users=self._users)
        self._repairs.extend(lacking)
        if self._repairs:
            log.warning("rights.differed", extra={"devices": len(self._repairs)})
        self._roles, self._users = [], []
        self._repair()

    def _repair(self) -> None:
        some = [self._repairs.popleft() for _ in range(min(AT_ONCE, len(self._repairs)))]
        if some:
            self._request([command for one in some for command in one])

    def _request(self, commands: Collection[Command]) -> None:
        self._plugin.request(rights.REQUESTS, rights.request(commands))


def _note(command: str, error: str) -> None:
    """Log what the plugin refused, unless it was done before."""
    if not any(said in error for said in _DONE_BEFORE):
        log.error("rights.refused", extra={"command": command, "problem": error})
