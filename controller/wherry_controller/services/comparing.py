"""What must hold before a rollout may run a version beside what devices serve.

An order that shadows or splits goes to no release that knows neither: it would put the version to
work at once. What carries state is compared only with what carries the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wherry.errors import Unsuitable
from wherry.names import DeviceId, Digest
from wherry.profile import version_key
from wherry.signature import states_of
from wherry_controller.core.rollout import Plan, devices_of
from wherry_controller.services.fleet import serving
from wherry_controller.services.shelving import manifest_in
from wherry_controller.store import devices, models
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import Device

COMPARES_SINCE = "0.5"
AGENT = "wherry-agent"
MOST_NAMED = 5


class NothingCompared(Unsuitable):
    """A gate that asks for agreement in a rollout that compares nothing."""

    def __str__(self) -> str:
        return (
            "the gate asks for min_agreement and the rollout shadows nothing: "
            "add --shadow, or leave min_agreement out of the gate."
        )


class OldAgents(Unsuitable):
    """Devices whose release knows neither shadowing nor split; `releases` by device."""

    def __init__(self, releases: Mapping[DeviceId, str]) -> None:
        super().__init__(releases)
        self.releases = dict(releases)

    def __str__(self) -> str:
        named = [f"{one} ({what})" for one, what in sorted(self.releases.items())[:MOST_NAMED]]
        others = len(self.releases) - len(named)
        rest = f" and {others} more" if others else ""
        return (
            f"{', '.join(named)}{rest} cannot shadow or split: have wherry-agent "
            f"{COMPARES_SINCE} or later report from there, or leave --shadow and --split out."
        )


class StatesDiffer(Unsuitable):
    """Devices that serve a bundle whose state signature is another one."""

    def __init__(self, members: Sequence[DeviceId]) -> None:
        super().__init__(members)
        self.members = tuple(members)

    def __str__(self) -> str:
        others = len(self.members) - MOST_NAMED
        rest = f" and {others} more" if others > 0 else ""
        return (
            f"the version carries other state than what {', '.join(self.members[:MOST_NAMED])}"
            f"{rest} serve, so requests to one tell nothing of the other: "
            "leave --shadow and --split out."
        )


def check_comparing(tx: Transaction, plan: Plan) -> None:
    """Raise `NothingCompared`, `OldAgents` or `StatesDiffer` where a plan cannot compare."""
    if plan.shadow is None and any(one.gate.min_agreement is not None for one in plan.stages):
        raise NothingCompared
    if plan.shadow is None and plan.split is None:
        return
    members = (devices.get_device(tx, device) for device in sorted(devices_of(plan)))
    old = {one.id: release_of(one) for one in members if one and not can_compare(one)}
    if old:
        raise OldAgents(old)
    differing = _differing(tx, plan)
    if differing:
        raise StatesDiffer(differing)


def can_compare(device: Device) -> bool:
    """Say whether a device's agent knows shadowing and split."""
    return version_key(release_of(device)) >= version_key(COMPARES_SINCE)


def release_of(device: Device) -> str:
    """Return the release that a device's agent says it is."""
    return device.reported.versions.get(AGENT, "unknown") if device.reported else "unknown"


def _differing(tx: Transaction, plan: Plan) -> Sequence[DeviceId]:
    """Return the devices whose incumbent is known here, and carries other state."""
    states: dict[Digest, object] = {}

    def states_in(bundle: Digest) -> object:
        if bundle not in states:
            envelope = models.get_envelope(tx, bundle)
            states[bundle] = envelope and states_of(manifest_in(envelope).signature)
        return states[bundle]

    wanted = {device: one for stage in plan.stages for device, one in stage.bundles.items()}
    incumbents = serving(tx, sorted(wanted), plan.alias)
    return [
        device
        for device, bundle in sorted(wanted.items())
        if (incumbent := incumbents[device]) is not None
        and states_in(incumbent) not in (None, states_in(bundle))
    ]
