"""What the agent's machine hears and what it orders, beside the words of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from wherry.messages import Deployment, Order
from wherry.names import AliasName, Digest, TrialId
from wherry.reasons import Reason
from wherry.trust.target import Verdict
from wherry_agent.core import download, install, receipts, session, trial
from wherry_agent.core.health import Window

# Events. Those of the session, of the download, of trials and of receipts are theirs.


class OrderCame(msgspec.Struct, frozen=True):
    """A newer order for this device was accepted; the targets allow each bundle, or deny it."""

    order: Order
    verdicts: Mapping[AliasName, Verdict]
    trials: Mapping[TrialId, Verdict] = {}


class Reenrolled(msgspec.Struct, frozen=True):
    """The device has a new enrolment: what was ordered under the last one is nobody's wish now."""


class ManifestAccepted(msgspec.Struct, frozen=True):
    """The bundle suits this device; `missing` are its chunks that are not on disk, in bytes."""

    bundle: Digest
    missing: dict[Digest, int]
    measuring: bool = False


class BundleRefused(msgspec.Struct, frozen=True):
    bundle: Digest
    reason: Reason
    detail: str


class Assembled(msgspec.Struct, frozen=True):
    """Every blob of the bundle is on disk and hashes to its name."""

    bundle: Digest


class FetchLink(msgspec.Struct, frozen=True):
    """The connection for fetching came up or went down; `chance` is uniform in [0, 1)."""

    online: bool
    chance: float = 0.0


class Installed(msgspec.Struct, frozen=True):
    """What the engine did for an alias."""

    alias: AliasName
    event: install.Loaded | install.Refused | install.Sickened | install.Unservable


class Measured(msgspec.Struct, frozen=True):
    """One window of one bundle under one alias."""

    alias: AliasName
    bundle: Digest
    window: Window


class Tick(msgspec.Struct, frozen=True):
    pass


Event: TypeAlias = (
    OrderCame
    | Reenrolled
    | ManifestAccepted
    | BundleRefused
    | Assembled
    | FetchLink
    | Installed
    | Measured
    | Tick
    | session.Connected
    | session.Lost
    | session.Stored
    | session.Acked
    | session.Advised
    | download.ChunkCame
    | download.Flowing
    | download.ChunkSpoiled
    | download.StillMissing
    | download.Awaits
    | download.LookAgain
    | download.Advised
    | download.FromSource
    | trial.Ran
    | receipts.Attested
)


# Effects. Those of the session, of the download, of trials and of receipts are theirs.


class For(msgspec.Struct, frozen=True):
    """Perform an install effect for one alias."""

    alias: AliasName
    effect: install.EngineEffect | install.Keep


class Tell(msgspec.Struct, frozen=True):
    """Put the deployment's progress or outcome in the outbox, and say `reported` anew."""

    alias: AliasName
    deployment: Deployment


class OpenFetch(msgspec.Struct, frozen=True):
    """Connect for fetching."""


class CloseFetch(msgspec.Struct, frozen=True):
    """Nothing is left to fetch."""


class Assemble(msgspec.Struct, frozen=True):
    """Make the bundle's blobs of their chunks, and answer `Assembled` or `BundleRefused`."""

    bundle: Digest


Effect: TypeAlias = (
    For
    | Tell
    | OpenFetch
    | CloseFetch
    | Assemble
    | session.Connect
    | session.Announce
    | session.Send
    | session.Forget
    | download.AskManifest
    | download.DropManifest
    | download.AskChunks
    | download.DropChunks
    | download.Want
    | download.AskSource
    | trial.Effect
    | receipts.Attest
    | receipts.TellReceipt
)
Effects: TypeAlias = tuple[Effect, ...]
