"""What the engine tells whoever keeps counts of it, on its own thread: the recorder's part."""

from __future__ import annotations

from typing import Protocol

from wherry.measures import Seen
from wherry.names import AliasName, Digest
from wherry_agent.asking import Compared


class Recording(Protocol):
    def saw(
        self,
        alias: AliasName,
        bundle: Digest,
        inputs: tuple[Seen, ...],
        outputs: tuple[Seen, ...],
    ) -> None: ...

    def restarted(self, alias: AliasName, bundle: Digest) -> None: ...

    def shadowed(self, alias: AliasName, compared: Compared, *, incumbent_ns: int) -> None:
        """Count a copy: how `compared.bundle` stood to the answer that took `incumbent_ns`."""

    def failed_to_shadow(self, alias: AliasName, bundle: Digest, error: str) -> None:
        """Count a copy for which the candidate gave no outputs, under its class of error."""

    def skipped_shadowing(self, alias: AliasName, bundle: Digest, cause: str) -> None:
        """Count a request that was sampled and not copied."""
