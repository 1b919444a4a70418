"""Whether two bundles are resident while one follows the other, by measured memory.

A candidate that is brought up beside what serves takes memory that must be there, and a reserve
must be left to others. Where it is not, the `auto` policy unloads what serves first.
"""

from __future__ import annotations

from dataclasses import dataclass

from wherry.manifest import MODEL_FILE, Manifest
from wherry.messages import SwapPolicy

# What a process with a runtime has of its own before it loads a model, and how many times its file
# a model takes while it is loaded (measured: 50 MB add 114).
WORKER_BYTES = 40 << 20
MODEL_SHARE = 2.3


@dataclass(frozen=True, slots=True)
class Resident:
    """What serves: its manifest, and the memory of its own that was measured (0: unknown)."""

    manifest: Manifest
    memory_bytes: int


def estimate_bytes(candidate: Manifest, resident: Resident | None) -> int:
    """Return the memory that bringing up the candidate takes.

    By what is measured of the bundle that serves, where there is one, and by the models' sizes; it
    is never above the profile's budget, which the build has held it to.
    """
    model_bytes = candidate.files[MODEL_FILE].size_bytes
    needed = WORKER_BYTES + round(MODEL_SHARE * model_bytes)
    if resident is not None and resident.memory_bytes:
        more_bytes = max(0, model_bytes - resident.manifest.files[MODEL_FILE].size_bytes)
        needed = max(
            resident.memory_bytes + round(MODEL_SHARE * more_bytes),
            round(MODEL_SHARE * model_bytes),
        )
    budget_bytes = candidate.profile.memory_bytes
    return needed if budget_bytes is None else min(needed, budget_bytes)


def choose_policy(
    wanted: SwapPolicy,
    candidate: Manifest,
    resident: Resident | None,
    *,
    available_bytes: int | None,
    reserve_bytes: int,
) -> SwapPolicy:
    """Return `availability` or `resource`.

    Where nothing is resident there is nothing to unload, and where the machine does not tell its
    free memory (`available_bytes` None) both are resident.
    """
    if resident is None:
        return SwapPolicy.AVAILABILITY
    if wanted is not SwapPolicy.AUTO:
        return wanted
    if available_bytes is None:
        return SwapPolicy.AVAILABILITY
    needed_bytes = estimate_bytes(candidate, resident) + reserve_bytes
    fits = needed_bytes <= available_bytes
    return SwapPolicy.AVAILABILITY if fits else SwapPolicy.RESOURCE
