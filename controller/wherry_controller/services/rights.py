"""The rights of devices on a running mosquitto: granted, taken, and repaired when it is back.

    Connected --> list roles, list users, page by page --> repair, device after device --> done

The broker is a cache here too. What it lacks of the rights of enrolled devices, and what it has
too much, is found after each connect; a grant or a revocation that it never heard of is among it.

Each of a device's three commands makes the plugin write its whole file anew, and the broker serves
nobody meanwhile: 0.5 s a device where it knows 10,000 (measured with 2.0.11). Several devices in
one request save none of it: 4 took 1.6 s and 64 took 31 s, in one piece. So a grant waits until the
one before it was answered, and whoever else speaks to the broker comes in between; a revocation
waits for none. What is enrolled before the broker starts costs nothing: `wherry broker config`
writes it all at once.
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
        self._waiting: deque[tuple[Command, ...]] = deque()
        self._is_asked = False  # For a change that is not answered yet.

    def grant(self, device: DeviceId) -> None:
        """Let a device connect as itself; twice is the same as once."""
        self._waiting.append(rights.grant(device))
        self._go_on()

    def revoke(self, device: DeviceId) -> None:
        """Take all rights of a device and end its live connections, ahead of what waits."""
        others = [one for one in self._waiting if not rights.concerns(one, device)]
        self._waiting = deque(others)
        self._request(rights.revoke(device))

    def on_connected(self) -> None:
        """Begin to compare what the broker knows with what it shall know."""
        self._roles, self._users = [], []
        self._waiting.clear()
        self._is_asked = False
        self._request([rights.list_roles(0, PAGE)])

    def on_answer(self, payload: bytes) -> None:
        """Take what the plugin answered to one request."""
        try:
            answer = codec.decode(_Answer, payload, limit_bytes=LARGEST_ANSWER_BYTES)
        except BadDocument as error:
            log.error("rights.not_understood", extra={"problem": str(error)})
            answer = _Answer(())
        for response in answer.responses:
            self._take(response)
        if not any(response.command.startswith("list") for response in answer.responses):
            self._is_asked = False
            self._go_on()

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
        lacking = list(rights.repairs(self._enrolled(), roles=self._roles, users=self._users))
        if lacking:
            log.warning("rights.differed", extra={"devices": len(lacking)})
        self._waiting.extend(lacking)
        self._roles, self._users = [], []
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting and not self._is_asked:
            self._is_asked = True
            self._request(self._waiting.popleft())

    def _request(self, commands: Collection[Command]) -> None:
        self._plugin.request(rights.REQUESTS, rights.request(commands))


def _note(command: str, error: str) -> None:
    """Log what the plugin refused, unless it was done before."""
    if not any(said in error for said in _DONE_BEFORE):
        log.error("rights.refused", extra={"command": command, "problem": error})
