"""What the engine tells of bundles under an alias; each is told on its own thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from wherry.messages import SwapPolicy
from wherry.names import AliasName, DeploymentId, Digest
from wherry.reasons import Reason
from wherry_agent.asking import Proof


@dataclass(frozen=True, slots=True)
class Loaded:
    """The bundle stands in memory, warm and checked.

    `policy` is what was decided: with `resource` what serves was unloaded for it, and requests
    wait until it is known which bundle serves.
    """

    alias: AliasName
    deployment: DeploymentId
    bundle: Digest
    proof: Proof = field(kw_only=True)
    policy: SwapPolicy = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """What was unloaded for the bundle is brought up again by the engine itself."""

    alias: AliasName
    deployment: DeploymentId
    bundle: Digest
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Flipped:
    """From now on `bundle` answers; `replaced` still owed `in_flight` answers at that instant.

    With a `share` below 1 it answers so many of the requests, and `replaced` the others.
    """

    alias: AliasName
    bundle: Digest
    replaced: Digest | None
    in_flight: int
    share: float = 1.0
    policy: SwapPolicy = SwapPolicy.AVAILABILITY


@dataclass(frozen=True, slots=True)
class Unservable:
    """A bundle that was to serve does not come up, or does not stay up (`crash_loop`).

    What served before goes on. This one `is_tried_again` all the same where it serves already, and
    where it was to be the first after a start and the reason may pass.
    """

    alias: AliasName
    bundle: Digest
    reason: Reason
    detail: str
    is_tried_again: bool = False


@dataclass(frozen=True, slots=True)
class CameBack:
    """What was told as unservable is up again, and answers."""

    alias: AliasName
    bundle: Digest


@dataclass(frozen=True, slots=True)
class WorkerDied:
    """A worker that answers or shadows ended; the engine starts it again by itself."""

    alias: AliasName
    bundle: Digest
    detail: str


EngineEvent: TypeAlias = Loaded | LoadFailed | Flipped | Unservable | CameBack | WorkerDied
