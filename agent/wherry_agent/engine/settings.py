"""How the engine runs models: what the agent's settings say of it, with the bounds of restarts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from wherry_agent.core.restarts import Bounds
from wherry_agent.settings import Isolation, ServingSettings


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """`queue_requests` may wait for an alias, each for `request_timeout_s`.

    With `batch_rows` above 1 those that wait are merged up to so many rows, and one waits for
    others for `batch_wait_s` at most. `reserve_bytes` are left free when it is decided whether two
    bundles are resident; `seen_share` and `optimized_folder` are for the runners.
    """

    isolation: Isolation = Isolation.WORKER
    fork_server: bool = True
    load_timeout_s: float = 60.0
    drain_timeout_s: float = 10.0
    request_timeout_s: float = 10.0
    queue_requests: int = 256
    batch_rows: int = 1
    batch_wait_s: float = 0.0
    reserve_bytes: int = 32 << 20
    seen_share: float = 0.0
    optimized_folder: Path | None = None
    restarts: Bounds = field(default_factory=Bounds)


def settings_of(
    serving: ServingSettings, *, seen_share: float, optimized_folder: Path
) -> EngineSettings:
    """Return what the agent's settings mean for the engine."""
    return EngineSettings(
        isolation=serving.isolation,
        fork_server=serving.fork_server,
        load_timeout_s=serving.load_timeout_s,
        drain_timeout_s=serving.drain_timeout_s,
        request_timeout_s=serving.request_timeout_s,
        queue_requests=serving.queue_requests,
        batch_rows=serving.batch_rows,
        batch_wait_s=serving.batch_wait_ms / 1000,
        reserve_bytes=serving.reserve_bytes,
        seen_share=seen_share,
        optimized_folder=optimized_folder if serving.optimized else None,
    )
