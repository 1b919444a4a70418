"""Who may do what on the broker: rights as values, and as mosquitto's dynamic-security takes them.

A device is two users, one a listener: on the control listener the username is its certificate's
common name, on the fetch listener the whole subject. The broker binds the client id to it, so one
certificate cannot take the other's connection, nor another device's. Whoever is not named may do
nothing. Names of roles carry `EDITION`: rights that a later release changes are new roles.

A device reads chunks and manifests by name only: one that could ask for all of them would be sent
all that the broker retains. The plugin looks at literal rules before patterns, which makes the
exception. It matches a shared subscription (`$share/…`) as it is spelled, so none is allowed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TypeAlias

from wherry import codec
from wherry.names import DeviceId, parse_device_id
from wherry.topics import (
    ROOT,
    AcksTopic,
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
    text,
)

EDITION = 1
# No device id holds a colon, so no device is ever taken for the controller.
CONTROLLER = "wherry:controller"
REQUESTS = "$CONTROL/dynamic-security/v1"
ANSWERS = "$CONTROL/dynamic-security/v1/response"

_OF_A_DEVICE = f"wherry:device/{EDITION}/"
_OF_ANY_DEVICE = "wherry:device/"
_SAID_BY_DEVICES = (ReportedTopic, EventsTopic, TelemetryTopic, PresenceTopic, WantsTopic)
_HEARD_BY_DEVICES = (DesiredTopic, AcksTopic)
_FETCHED = (BundleTopic, BlobTopic)
_TRUST = (TimestampTopic, MetadataTopic)
# `reported` and `presence` to clear what a removed device left.
_SAID_BY_THE_CONTROLLER = (*_HEARD_BY_DEVICES, *_FETCHED, *_TRUST, ReportedTopic, PresenceTopic)

Command: TypeAlias = dict[str, object]


class Act(StrEnum):
    """What a rule is about, as the plugin spells it."""

    SAY = "publishClientSend"
    HEAR = "publishClientReceive"
    ASK = "subscribeLiteral"
    ASK_LIKE = "subscribePattern"


class Verdict(Enum):
    ALLOW = True
    DENY = False


@dataclass(frozen=True, slots=True)
class Rule:
    act: Act
    topic: str
    verdict: Verdict = Verdict.ALLOW


@dataclass(frozen=True, slots=True)
class Role:
    name: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class User:
    name: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rights:
    """All that the broker shall know."""

    roles: tuple[Role, ...]
    users: tuple[User, ...]


def rights_of(devices: Collection[DeviceId]) -> Rights:
    """Return the rights of the controller and of `devices`."""
    return Rights(
        roles=(_controller(), _control(), _fetch(), *map(role_of, sorted(devices))),
        users=(
            User(CONTROLLER, (_controller().name,)),
            *(user for device in sorted(devices) for user in users_of(device)),
        ),
    )


def role_of(device: DeviceId) -> Role:
    """Return what one device alone may do: speak as itself, and ask for what is said to it."""
    return Role(
        f"{_OF_A_DEVICE}{device}",
        (
            *(Rule(Act.SAY, text(kind(device))) for kind in _SAID_BY_DEVICES),
            *(Rule(Act.ASK, text(kind(device))) for kind in _HEARD_BY_DEVICES),
        ),
    )


def users_of(device: DeviceId) -> tuple[User, User]:
    """Return the users that a device is, by its certificate: to be told, and to fetch."""
    return (
        User(device, (role_of(device).name, _control().name)),
        User(f"CN={device}", (_fetch().name,)),
    )


def document(rights: Rights) -> bytes:
    """Return the file that the plugin reads when the broker starts."""
    return codec.encode(
        {
            "defaultACLAccess": {
                "publishClientSend": False,
                "publishClientReceive": False,
                "subscribe": False,
                "unsubscribe": True,
            },
            "clients": [_user(user) for user in rights.users],
            "groups": [],
            "roles": [_role(role) for role in rights.roles],
        }
    )


def request(commands: Collection[Command]) -> bytes:
    """Return the message that has the plugin of a running broker follow `commands`."""
    return codec.encode({"commands": list(commands)})


def grant(device: DeviceId) -> tuple[Command, ...]:
    """Return what lets a device in."""
    return (
        {"command": "createRole", **_role(role_of(device))},
        *({"command": "createClient", **_user(user)} for user in users_of(device)),
    )


def revoke(device: DeviceId) -> tuple[Command, ...]:
    """Return what takes a device's rights and ends both of its connections.

    The plugin's own "disable" would not do: it judges passwords, which certificates never show.
    """
    return (*map(_end_user, users_of(device)), _end_role(role_of(device).name))


def concerns(commands: Collection[Command], device: DeviceId) -> bool:
    """Say whether commands change the rights of a device."""
    names = {role_of(device).name, *(user.name for user in users_of(device))}
    return any(one.get("rolename") in names or one.get("username") in names for one in commands)


def list_roles(start: int, count: int) -> Command:
    return {"command": "listRoles", "offset": start, "count": count}


def list_users(start: int, count: int) -> Command:
    return {"command": "listClients", "offset": start, "count": count}


def repairs(
    devices: Collection[DeviceId], *, roles: Collection[str], users: Collection[str]
) -> Iterator[tuple[Command, ...]]:
    """Yield what the broker lacks of the rights of `devices`, and what it has too much.

    `roles` and `users` are the names that it knows. Others' roles and users are left alone.
    """
    known, wanted, users = _of_devices(roles), set(devices), set(users)
    for device in sorted(known.keys() - wanted):
        yield _clear(device, known[device], users)
    for shared in (_control(), _fetch()):
        if shared.name not in roles:
            yield ({"command": "createRole", **_role(shared)},)
    for device in sorted(wanted):
        names = {user.name for user in users_of(device)}
        own = known.get(device, [])
        if role_of(device).name not in own or not names <= users:
            yield (*_clear(device, own, users), *grant(device))


def _clear(device: DeviceId, roles: Collection[str], users: Collection[str]) -> tuple[Command, ...]:
    """Return the end of what the broker knows of a device: its users, and `roles`."""
    return (
        *(_end_user(user) for user in users_of(device) if user.name in users),
        *map(_end_role, roles),
    )


def _end_user(user: User) -> Command:
    return {"command": "deleteClient", "username": user.name}


def _end_role(name: str) -> Command:
    return {"command": "deleteRole", "rolename": name}


def _of_devices(roles: Collection[str]) -> dict[DeviceId, list[str]]:
    """Return the roles that are a single device's, of any edition."""
    found: dict[DeviceId, list[str]] = {}
    for role in sorted(roles):
        edition, _, device = role.removeprefix(_OF_ANY_DEVICE).partition("/")
        if role.startswith(_OF_ANY_DEVICE) and edition.isdecimal():
            found.setdefault(parse_device_id(device), []).append(role)
    return found


def _control() -> Role:
    """Return what every device may do on its control connection."""
    return Role(
        f"wherry:control/{EDITION}",
        (*(Rule(Act.HEAR, filter_of(kind)) for kind in _HEARD_BY_DEVICES), *_reads_trust()),
    )


def _fetch() -> Role:
    """Return what every device may do on its fetch connection: read, by exact names."""
    by_name = [rule for kind in _FETCHED for rule in _reads_by_name(kind)]
    return Role(f"wherry:fetch/{EDITION}", (*by_name, *_reads_trust()))


def _reads_by_name(kind: type[Topic]) -> tuple[Rule, ...]:
    every = filter_of(kind)
    return (
        Rule(Act.ASK, every, Verdict.DENY),
        Rule(Act.ASK_LIKE, every),
        Rule(Act.HEAR, every),
    )


def _reads_trust() -> Iterator[Rule]:
    for kind in _TRUST:
        yield Rule(Act.ASK_LIKE, filter_of(kind))
        yield Rule(Act.HEAR, filter_of(kind))


def _controller() -> Role:
    return Role(
        f"wherry:controller/{EDITION}",
        (
            *(Rule(Act.SAY, filter_of(kind)) for kind in _SAID_BY_THE_CONTROLLER),
            Rule(Act.SAY, REQUESTS),
            *(Rule(act, f"{ROOT}/#") for act in (Act.ASK_LIKE, Act.HEAR)),
            *(Rule(act, ANSWERS) for act in (Act.ASK, Act.HEAR)),
        ),
    )


def _role(role: Role) -> Command:
    rules = [
        {"acltype": r.act.value, "topic": r.topic, "priority": 0, "allow": r.verdict.value}
        for r in role.rules
    ]
    return {"rolename": role.name, "acls": rules}


def _user(user: User) -> Command:
    return {"username": user.name, "roles": [{"rolename": name} for name in user.roles]}
