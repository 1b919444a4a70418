"""Which devices a stage of a rollout reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wherry.errors import Unsuitable
from wherry.names import DeviceId, GroupName


class EmptyStage(Unsuitable):
    """A stage whose group has no device that an earlier stage has not taken."""

    def __init__(self, group: GroupName) -> None:
        super().__init__(group)
        self.group = group

    def __str__(self) -> str:
        return (
            f"group {self.group!r} has no device that an earlier stage does not reach: "
            "add devices to it, or leave the stage out."
        )


def devices_of_stages(
    groups: Sequence[GroupName], members: Mapping[GroupName, Sequence[DeviceId]]
) -> list[tuple[DeviceId, ...]]:
    """Return each stage's devices in order; a device belongs to the first stage that names it.

    `groups` is the group of each stage. Raises `EmptyStage` where nothing is left for one.
    """
    taken: set[DeviceId] = set()
    stages: list[tuple[DeviceId, ...]] = []
    for group in groups:
        fresh = tuple(sorted(set(members[group]) - taken))
        if not fresh:
            raise EmptyStage(group)
        taken.update(fresh)
        stages.append(fresh)
    return stages
