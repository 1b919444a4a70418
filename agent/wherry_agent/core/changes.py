"""What the install machine hears of one alias, and what it orders."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from wherry import messages
from wherry.messages import Deployment, Split, Wanted
from wherry.names import DeploymentId, Digest
from wherry.reasons import Reason
from wherry_agent.core.standing import Shown

# Events: what happened, and to which deployment


class Ordered(msgspec.Struct, frozen=True):
    wanted: Wanted
    at_s: float
    revoked: frozenset[Digest] = frozenset()


class Denied(msgspec.Struct, frozen=True):
    """An order wants a bundle that this device must not install, and why."""

    wanted: Wanted
    reason: Reason
    detail: str = ""
    revoked: frozenset[Digest] = frozenset()


class Withdrawn(msgspec.Struct, frozen=True):
    """The order names this alias no more: what is in flight ends, what serves goes on."""

    revoked: frozenset[Digest] = frozenset()


class Fetched(msgspec.Struct, frozen=True):
    deployment: DeploymentId


class Refused(msgspec.Struct, frozen=True):
    """The bundle is none for this device, or cannot be compared here: it is not tried again."""

    deployment: DeploymentId
    reason: Reason
    detail: str = ""


class Loaded(msgspec.Struct, frozen=True):
    """It is resident, warm and checked; `alone`: what serves was unloaded to make room for it."""

    deployment: DeploymentId
    at_s: float
    shown: Shown | None = None
    alone: bool = False


class Compared(msgspec.Struct, frozen=True):
    """So many requests were compared since the shadowing began, and nothing speaks against it."""

    deployment: DeploymentId
    requests: int


class Sickened(msgspec.Struct, frozen=True):
    """Fetching, loading, the golden check, shadowing or probation found a fault."""

    deployment: DeploymentId
    reason: Reason
    detail: str = ""


class Unservable(msgspec.Struct, frozen=True):
    """A bundle that was to answer or to shadow cannot: its files are gone, or it does not run.

    Where the reason `may_pass`, the engine goes on trying until another one is to serve.
    """

    bundle: Digest
    may_pass: bool = False


class Tick(msgspec.Struct, frozen=True):
    at_s: float


class Restarted(msgspec.Struct, frozen=True):
    """The process came up and found this state on disk; nothing is serving."""

    at_s: float


Event: TypeAlias = (
    Ordered
    | Denied
    | Withdrawn
    | Fetched
    | Refused
    | Loaded
    | Compared
    | Sickened
    | Unservable
    | Tick
    | Restarted
)


# Effects: what to do; each may be done twice


class Fetch(msgspec.Struct, frozen=True):
    wanted: Wanted


class Load(msgspec.Struct, frozen=True):
    """Load beside the serving bundle, and answer `Loaded` or `Sickened`.

    `rival` is the incumbent that the candidate will be compared with: it must stay resident, and
    where the two pass other states around they cannot be compared: `Refused`.
    """

    wanted: Wanted
    rival: Digest | None = None


class Shadow(msgspec.Struct, frozen=True):
    """Send copies of requests to this bundle, which is resident, and answer none by it."""

    bundle: Digest
    shadow: messages.Shadow


class Share(msgspec.Struct, frozen=True):
    """Have this bundle, which is resident, answer a share; the one that serves answers the rest."""

    bundle: Digest
    split: Split


class Serve(msgspec.Struct, frozen=True):
    """Answer with this bundle alone from now on; None: with nothing. The others stay loaded."""

    bundle: Digest | None


class Retire(msgspec.Struct, frozen=True):
    """Drain and reap every worker but the serving one."""


class Keep(msgspec.Struct, frozen=True):
    """Delete every bundle of this alias from the disk but these."""

    bundles: tuple[Digest, ...]


class Report(msgspec.Struct, frozen=True):
    """Put the outcome in the outbox; the write that saves the state does it."""

    outcome: Deployment


EngineEffect: TypeAlias = Load | Shadow | Share | Serve | Retire
Effect: TypeAlias = Fetch | EngineEffect | Keep | Report
Effects: TypeAlias = tuple[Effect, ...]
