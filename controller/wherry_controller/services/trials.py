"""A build's candidates measured by devices: ordered, waited for, withdrawn.

    choose idle devices --> order as many candidates as the broker's budget takes --> wait
                                 ^          (again what was busy)                      |
                                 `-------------- the candidates that are left ---------'

The build's own thread waits; the deciding thread makes the orders. Whatever ends the waiting, the
trials leave the devices' orders, so the broker lets go of their chunks. Answers stay with the
build: one that is taken up again asks only for what it has not heard yet.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from msgspec.structs import replace

from wherry.errors import Malformed, Unsuitable
from wherry.messages import Trial, TrialResult
from wherry.names import (
    DeviceId,
    Digest,
    ProfileName,
    parse_device_id,
    parse_group_name,
    parse_trial_id,
)
from wherry.reasons import Reason
from wherry_controller.core.build import Offered
from wherry_controller.core.choice import DeviceFigures
from wherry_controller.core.rollout import devices_of
from wherry_controller.core.trial import MOST_DEVICES, Found, figures_of, trial_of
from wherry_controller.services.child import BuildCanceled, BuildStopped
from wherry_controller.services.fleet import Fleet, end_trials, needed_bundles, order_trials
from wherry_controller.services.machines import open_machines
from wherry_controller.services.missing import UnknownPlace
from wherry_controller.services.models import known_profiles
from wherry_controller.services.publisher import size_of_all
from wherry_controller.store import devices, models, trials
from wherry_controller.store.database import Store, Transaction
from wherry_controller.store.records import BuildStatus, Device, TrialRecord

log = logging.getLogger(__name__)

POLL_S = 0.5
MOST_TIMES = 3  # That a device is asked for one candidate, if it was busy.
CONCLUSIVE = frozenset({Reason.GOLDEN_MISMATCH, Reason.NOT_FINITE})

Asked = Mapping[ProfileName, Sequence[DeviceId]]
Tell = Callable[[int, int], None]


class AtDesk(Protocol):
    """Has the deciding thread do something with the fleet, and waits for it."""

    def __call__(self, work: Callable[[Fleet], None], /) -> None: ...


class BundleKeyApart(Unsuitable):
    """Candidates that no device would measure before a person has signed for them elsewhere."""

    def __str__(self) -> str:
        return (
            "the bundle key is kept apart, so devices would refuse the candidates of a build: "
            "build without --measure-on, and try the version out on a first stage of its rollout."
        )


@dataclass(frozen=True, slots=True)
class _Wish:
    """A candidate that one device is asked to measure."""

    device: DeviceId
    offer: Offered


class Trials:
    """Measures candidates on devices; the threads of builds call it.

    `silence_s` is how long it waits for devices none of which says anything; `pause` waits, unless
    it is to end: then it says so.
    """

    def __init__(
        self,
        store: Store,
        at_desk: AtDesk,
        *,
        budget_bytes: int,
        silence_s: float,
        clock: Callable[[], float],
        pause: Callable[[float], bool] | None = None,
    ) -> None:
        self._store = store
        self._at_desk = at_desk
        self._budget_bytes = budget_bytes
        self._silence_s = silence_s
        self._clock = clock
        self._is_stopped = threading.Event()
        self._pause = pause or self._is_stopped.wait

    def stop(self) -> None:
        """Let nobody wait any more."""
        self._is_stopped.set()

    def devices_for(self, place: str, profiles: Sequence[ProfileName]) -> Asked:
        """Return idle online devices of each profile in the group or of the device `place`."""
        with self._store.reading() as tx:
            return choose_devices(tx, place, profiles)

    def measure(
        self, build: str, offers: Sequence[Offered], asked: Asked, tell: Tell
    ) -> tuple[DeviceFigures, ...]:
        """Have devices measure what a build offers; return what they found.

        `tell` is called with how many answers are there of how many. Raises `BuildCanceled` once
        the build is, and `BuildStopped`.
        """
        left, someone_answers = list(offers), True
        while left and someone_answers:
            with self._withdrawing(build):
                begun = self._begin(build, left, asked)
                if not begun:
                    log.warning("trials.too_large", extra={"build": build, "left": len(left)})
                    break
                left = [one for one in left if one not in begun]
                someone_answers = self._await(build, lambda done: tell(done, _total(offers, asked)))
        with self._store.reading() as tx:
            records = trials.trials_of_build(tx, build)
        return tuple(
            figures
            for profile in asked
            for figures in _figures_of_profile(profile, offers, records)
        )

    def _begin(self, build: str, offers: Sequence[Offered], asked: Asked) -> Collection[Offered]:
        """Order the candidates that fit the broker's budget together; return those."""
        begun: list[Offered] = []

        def order(fleet: Fleet) -> None:
            with self._store.transaction() as tx:
                begun.extend(_fitting(tx, fleet, offers, self._budget_bytes))
                known = trials.trials_of_build(tx, build)
                wishes = [
                    _Wish(device, offer)
                    for offer in begun
                    for device in asked.get(offer.profile, ())
                    if not _is_answered(known, device, offer.bundle)
                ]
                _order(tx, build, wishes, self._clock())
            fleet.publish(self._clock())

        self._at_desk(order)
        return begun

    def _await(self, build: str, tell: Callable[[int], None]) -> bool:
        """Wait until every trial is answered; say False if no device answers for too long."""
        heard, since = -1, self._clock()
        while True:
            records = self._look(build)
            waiting = [one for one in records if one.ended_at is None]
            answered = len(_answers(records))
            if answered != heard:
                heard, since = answered, self._clock()
                tell(answered)
            busy = _to_ask_again(records)
            if busy:
                self._ask_again(build, busy)
            elif not waiting:
                return True
            elif self._clock() - since > self._silence_s:
                silent = sorted({one.device for one in waiting})
                log.warning("trials.silent", extra={"build": build, "devices": silent})
                return False
            if self._pause(POLL_S):
                raise BuildStopped

    def _look(self, build: str) -> Sequence[TrialRecord]:
        with self._store.reading() as tx:
            found = models.get_build(tx, build)
            if found is None or found.status is not BuildStatus.MEASURING:
                raise BuildCanceled
            return trials.trials_of_build(tx, build)

    def _ask_again(self, build: str, records: Sequence[TrialRecord]) -> None:
        wishes = [
            _Wish(one.device, Offered(one.profile, one.recipe, one.bundle)) for one in records
        ]

        def order(fleet: Fleet) -> None:
            with self._store.transaction() as tx:
                _order(tx, build, wishes, self._clock())
            fleet.publish(self._clock())

        self._at_desk(order)

    @contextmanager
    def _withdrawing(self, build: str) -> Iterator[None]:
        """Take the build's trials out of every order at the end of the block."""

        def withdraw(fleet: Fleet) -> None:
            with self._store.transaction() as tx:
                _withdraw(tx, trials.trials_of_build(tx, build), self._clock())
            fleet.publish(self._clock())

        try:
            yield
        finally:
            self._at_desk(withdraw)


def withdraw_all(tx: Transaction, now: float) -> None:
    """Take every trial out of every order: of an earlier process, or where the broker is needed.

    A build that waits for one of them goes on without it.
    """
    _withdraw(tx, trials.open_trials(tx), now)
    for desired in devices.list_desired(tx):  # Those that were answered stand there, too.
        end_trials(tx, desired.device, {one.trial for one in desired.trials})


def check_place(tx: Transaction, place: str) -> None:
    """Raise `UnknownPlace` where neither a group nor a device has that name."""
    _members(tx, place)


def choose_devices(tx: Transaction, place: str, profiles: Sequence[ProfileName]) -> Asked:
    """Return the devices that may measure, by profile; a profile without any is absent."""
    in_rollouts = {
        device for state in open_machines(tx).values() for device in devices_of(state.plan)
    }
    chosen: dict[ProfileName, list[DeviceId]] = {}
    for device in _members(tx, place):
        record = devices.get_device(tx, device)
        if record is None or record.profile not in profiles or device in in_rollouts:
            continue
        if _can_measure(record) and not devices.open_journeys(tx, device):
            chosen.setdefault(record.profile, []).append(device)
    return {profile: members[:MOST_DEVICES] for profile, members in chosen.items()}


def _members(tx: Transaction, place: str) -> Sequence[DeviceId]:
    try:
        group = devices.get_group(tx, parse_group_name(place))
        device = parse_device_id(place)
    except Malformed as error:
        raise UnknownPlace(place) from error
    if group is not None:
        return group.devices
    if devices.get_device(tx, device) is None:
        raise UnknownPlace(place)
    return (device,)


def _can_measure(device: Device) -> bool:
    """Say whether a device is there, is what it says, and has an agent that knows trials.

    An agent that tells no facts is of a release before them.
    """
    said = device.reported
    return device.online and said is not None and said.facts is not None and not said.simulated


def _fitting(
    tx: Transaction, fleet: Fleet, offers: Sequence[Offered], budget_bytes: int
) -> list[Offered]:
    needed = needed_bundles(tx)
    chosen: list[Offered] = []
    for offer in offers:
        bundles = needed | {one.bundle for one in (*chosen, offer)}
        size_bytes = size_of_all(fleet.shelved(tx, digest) for digest in bundles)
        if size_bytes <= budget_bytes:
            chosen.append(offer)
    return chosen


def _order(tx: Transaction, build: str, wishes: Iterable[_Wish], now: float) -> None:
    """Keep the trials and name them in the devices' orders, each order made anew once."""
    ordered: dict[DeviceId, list[Trial]] = {}
    for wish in wishes:
        if devices.get_device(tx, wish.device) is None:
            continue  # It was removed since it was chosen.
        (profile,) = known_profiles(tx, [wish.offer.profile])
        record = TrialRecord(
            id=parse_trial_id(f"{build}:{uuid.uuid4().hex[:12]}"),
            build=build,
            device=wish.device,
            profile=wish.offer.profile,
            recipe=wish.offer.recipe,
            bundle=wish.offer.bundle,
            ordered_at=now,
        )
        trials.save_trials(tx, [record])
        ordered.setdefault(wish.device, []).append(trial_of(record.id, record.bundle, profile))
    for device, wanted in ordered.items():
        order_trials(tx, device, wanted)


def _withdraw(tx: Transaction, records: Sequence[TrialRecord], now: float) -> None:
    trials.save_trials(tx, [replace(one, ended_at=now) for one in records if one.ended_at is None])
    for device in {one.device for one in records}:
        end_trials(tx, device, {one.id for one in records})


def _answers(records: Sequence[TrialRecord]) -> Mapping[tuple[DeviceId, Digest], TrialResult]:
    """Return the last answer of each device to each candidate, `busy` being none."""
    return {
        (one.device, one.bundle): one.result
        for one in records
        if one.result is not None and one.result.reason is not Reason.BUSY
    }


def _is_answered(records: Sequence[TrialRecord], device: DeviceId, bundle: Digest) -> bool:
    """Say whether a device told what will not change: figures, or other outputs than golden."""
    result = _answers(records).get((device, bundle))
    return result is not None and (result.figures is not None or result.reason in CONCLUSIVE)


def _to_ask_again(records: Sequence[TrialRecord]) -> Sequence[TrialRecord]:
    """Return the last trials of those that were only ever answered `busy`, and not too often."""
    times: dict[tuple[DeviceId, Digest], list[TrialRecord]] = {}
    for one in records:
        times.setdefault((one.device, one.bundle), []).append(one)
    return [
        asked[-1]
        for asked in times.values()
        if len(asked) < MOST_TIMES
        and all(one.result is not None and one.result.reason is Reason.BUSY for one in asked)
    ]


def _total(offers: Sequence[Offered], asked: Asked) -> int:
    return sum(len(asked.get(offer.profile, ())) for offer in offers)


def _figures_of_profile(
    profile: ProfileName, offers: Sequence[Offered], records: Sequence[TrialRecord]
) -> tuple[DeviceFigures, ...]:
    mine = [offer for offer in offers if offer.profile == profile]
    if not mine:
        return ()
    recipes = {offer.bundle: offer.recipe for offer in mine}
    found = [
        Found(device, recipes[bundle], result)
        for (device, bundle), result in _answers(records).items()
        if bundle in recipes
    ]
    return figures_of(profile, mine[0].recipe, found)
