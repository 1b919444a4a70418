"""A rollout as an operator wishes it, and the plan that comes of it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from wherry.errors import Unsuitable
from wherry.messages import Shadow, Split, SwapPolicy
from wherry.names import (
    AliasName,
    DeviceId,
    Digest,
    GroupName,
    ModelName,
    ProfileName,
    RolloutName,
    VersionName,
)
from wherry_controller.core.gate import Gate
from wherry_controller.core.group import devices_of_stages
from wherry_controller.core.rollout import Plan, Stage, devices_of
from wherry_controller.services.fleet import InARollout, device_of, group_of
from wherry_controller.services.machines import open_machines
from wherry_controller.store import models
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import Version


class NoVariant(Unsuitable):
    """Devices whose profile the version was not built for."""

    def __init__(self, version: str, profiles: Sequence[ProfileName], waiting: int) -> None:
        super().__init__(version, profiles, waiting)
        self.version, self.profiles, self.waiting = version, tuple(profiles), waiting

    def __str__(self) -> str:
        return (
            f"{self.version} has no variant for {', '.join(self.profiles)}, "
            f"and {self.waiting} devices of the groups need one: "
            f"build it with `wherry build {self.version}`, or take the devices out of the groups."
        )


class StageWish(msgspec.Struct, frozen=True, kw_only=True):
    """One stage as an operator wishes it; without a gate of its own it has the rollout's."""

    name: str
    group: GroupName
    gate: Gate | None = None


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout as an operator wishes it.

    `needs` is the least release of other aliases that a device must have before it takes this one.
    `shadow` and `split` run the version beside what devices serve, before it answers all requests.
    """

    name: RolloutName
    model: ModelName
    version: VersionName
    alias: AliasName
    stages: tuple[StageWish, ...]
    gate: Gate = Gate()
    probation_s: float = 60.0
    deadline_s: float = 3600.0
    needs: dict[AliasName, int] = {}
    policy: SwapPolicy = SwapPolicy.AUTO
    shadow: Shadow | None = None
    split: Split | None = None


def plan_of(tx: Transaction, wish: Wish, version: Version) -> Plan:
    """Return which device of the wish gets which bundle in which stage.

    Raises `UnknownGroup`, `EmptyStage` and `NoVariant`.
    """
    groups = [stage.group for stage in wish.stages]
    members = {group: group_of(tx, group).devices for group in groups}
    parts = devices_of_stages(groups, members)
    bundles = _bundles(tx, version, [device for part in parts for device in part])
    stages = tuple(
        Stage(
            name=stage.name,
            bundles={device: bundles[device] for device in part},
            gate=stage.gate or wish.gate,
        )
        for stage, part in zip(wish.stages, parts, strict=True)
    )
    return Plan(
        name=wish.name,
        alias=wish.alias,
        stages=stages,
        probation_s=wish.probation_s,
        deadline_s=wish.deadline_s,
        needs=wish.needs,
        policy=wish.policy,
        shadow=wish.shadow,
        split=wish.split,
    )


def _bundles(
    tx: Transaction, version: Version, members: Sequence[DeviceId]
) -> dict[DeviceId, Digest]:
    """Return each device's bundle of a version; raise `NoVariant`."""
    variants = models.list_variants(tx, version.model, version.name)
    built = {variant.profile: variant.bundle for variant in variants}
    profiles = {device: device_of(tx, device).profile for device in members}
    waiting = [device for device, profile in profiles.items() if profile not in built]
    if waiting:
        missing = sorted({profiles[device] for device in waiting})
        raise NoVariant(f"{version.model}:{version.name}", missing, len(waiting))
    return {device: built[profile] for device, profile in profiles.items()}


def check_free(tx: Transaction, wanted: frozenset[DeviceId], *, but: RolloutName) -> None:
    """Raise `InARollout` where an open rollout other than `but` reaches one of the devices."""
    for name, state in open_machines(tx).items():
        taken = wanted & devices_of(state.plan)
        if taken and name != but:
            raise InARollout(min(taken), name)


def bundles_of(plan: Plan) -> frozenset[Digest]:
    """Return what a plan brings to its devices."""
    return frozenset(bundle for stage in plan.stages for bundle in stage.bundles.values())
