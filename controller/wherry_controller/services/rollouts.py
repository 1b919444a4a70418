"""Rollouts: created by an operator, moved by evidence, performed as orders to devices.

Each wish, report and verdict is an event of the machine in `core.rollout`. Its new state and the
effects that it orders are one write; the effects are then performed and struck off in a second,
together with the orders that they make. A controller that dies in between finds them at its next
start, and performing them twice changes nothing. What devices say is read from their deployments
in the database, so nothing that was taken in is lost on the way to the machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from wherry.errors import Unsuitable
from wherry.messages import Wanted
from wherry.names import DeviceId, RolloutName
from wherry.reasons import Reason, Status
from wherry_controller.core import rollout as core
from wherry_controller.core.gate import Evidence, judge
from wherry_controller.core.rollout import (
    Canceled,
    DeviceReported,
    Effect,
    Event,
    Judged,
    Order,
    Paused,
    Plan,
    Resumed,
    RevertOrdered,
    Rollout,
    RolloutStatus,
    Scheduled,
    Serving,
    Started,
    Tick,
    Withdraw,
    devices_of,
    gate_of,
    stage_devices,
)
from wherry_controller.services import fleet
from wherry_controller.services.comparing import can_compare, check_comparing, release_of
from wherry_controller.services.fleet import Fleet
from wherry_controller.services.machines import (
    effects_of,
    open_machines,
    state_of,
    written,
)
from wherry_controller.services.missing import Taken, UnknownRollout
from wherry_controller.services.models import sound_version_of
from wherry_controller.services.plan import Wish, bundles_of, check_free, plan_of
from wherry_controller.services.publisher import size_of_all
from wherry_controller.services.releases import WAITS_FOR_SIGNATURE, Releasing, release
from wherry_controller.services.telemetry import Sides
from wherry_controller.services.trials import withdraw_all
from wherry_controller.store import devices, models, rollouts
from wherry_controller.store.database import Store, Transaction
from wherry_controller.store.records import Journey, RolloutRecord


class OverBudget(Unsuitable):
    """More bundles than the broker may retain at once."""

    def __init__(self, needed_bytes: int, budget_bytes: int) -> None:
        super().__init__(needed_bytes, budget_bytes)
        self.needed_bytes, self.budget_bytes = needed_bytes, budget_bytes

    def __str__(self) -> str:
        return (
            f"the version's bundles take {self.needed_bytes} bytes on the broker, whose budget is "
            f"{self.budget_bytes}: raise broker.budget_bytes in wherry.toml."
        )


class Rollouts:
    """The rollouts of this controller; one thread calls it."""

    def __init__(
        self,
        store: Store,
        the_fleet: Fleet,
        trust: Releasing,
        *,
        incumbent_span_s: float,
        budget_bytes: int,
    ) -> None:
        self._store = store
        self._fleet = the_fleet
        self._trust = trust
        self._incumbent_span_s = incumbent_span_s
        self._budget_bytes = budget_bytes
        self._sides = Sides()

    def create(self, wish: Wish, now: float) -> RolloutRecord:
        """Create a rollout that has not started, and make its version a release of the alias.

        Raises `Taken`, `UnknownVersion`, `RefusedVersion`, `UnknownGroup`, `EmptyStage`,
        `NoVariant`, `OverBudget`, `NeedsNothing`, `InARollout` where a device is in an open one,
        and what `check_comparing` raises.
        """
        with self._store.transaction() as tx:
            if rollouts.get_rollout(tx, wish.name) is not None:
                raise Taken("rollout", wish.name)
            version = sound_version_of(tx, wish.model, wish.version)
            plan = plan_of(tx, wish, version)
            check_free(tx, devices_of(plan), but=wish.name)
            check_comparing(tx, plan)
            self._find_room(tx, plan, now)
            release(tx, self._trust, version, plan, now)
            record = RolloutRecord(
                name=wish.name,
                model=wish.model,
                version=wish.version,
                alias=wish.alias,
                groups=tuple(stage.group for stage in wish.stages),
                status="",
                state="",
                effects="",
                created_at=now,
            )
            record = written(record, Rollout(plan=plan), (), now=now)
            rollouts.save_rollout(tx, record)
        return record

    def start(self, name: RolloutName, now: float) -> RolloutRecord:
        """Begin the first stage, or wait for the release's signature and begin then.

        Raises `UnknownRollout` or `NotNow`, as the others do, and what `check_comparing` raises.
        """
        with self._store.reading() as tx:
            plan = state_of(rollout_of(tx, name)).plan
            check_comparing(tx, plan)
            start = self._started(tx, plan, now)
        return self._step(name, start or Scheduled(WAITS_FOR_SIGNATURE), now)

    def pause(self, name: RolloutName, now: float) -> RolloutRecord:
        return self._step(name, Paused(), now)

    def resume(self, name: RolloutName, now: float) -> RolloutRecord:
        return self._step(name, Resumed(), now)

    def cancel(self, name: RolloutName, now: float) -> RolloutRecord:
        return self._step(name, Canceled(now), now)

    def revert(self, name: RolloutName, now: float) -> RolloutRecord:
        """Order every device back; raises `InARollout` where a newer one has begun on a device."""
        with self._store.reading() as tx:
            plan = state_of(rollout_of(tx, name)).plan
            check_free(tx, devices_of(plan), but=name)
        return self._step(name, RevertOrdered(now), now)

    def resume_all(self, now: float) -> None:
        """Perform what an earlier process left undone, and hear what devices said since."""
        with self._store.reading() as tx:
            names = [record.name for record in rollouts.list_rollouts(tx)]
        for name in names:
            self._perform(name, now)
        self.follow(names, now)

    def follow(self, names: Iterable[RolloutName], now: float) -> None:
        """Tell machines how far the deployments that they ordered have come."""
        for name in names:
            with self._store.reading() as tx:
                state = state_of(rollout_of(tx, name))
                news = _news(tx, state, now)
            for event in news:
                self._step(name, event, now)

    def tick(self, now: float) -> None:
        """Judge the stages of running rollouts, and the way back of those that revert."""
        with self._store.reading() as tx:
            machines = open_machines(tx)
        if not machines:
            self._sides.forget()
        self.follow(machines, now)
        for name in machines:
            start = self._start_now(name, now)
            self._step(name, start or self._verdict(name, now) or Tick(now), now)

    def _start_now(self, name: RolloutName, now: float) -> Started | None:
        """Return the start of a rollout that waits for its release no more."""
        with self._store.reading() as tx:
            state = state_of(rollout_of(tx, name))
            is_waiting = state.status is RolloutStatus.SCHEDULED
            return self._started(tx, state.plan, now) if is_waiting else None

    def _started(self, tx: Transaction, plan: Plan, now: float) -> Started | None:
        """Return the start of a rollout whose devices would take its release."""
        if self._trust.unpublished(tx, plan.alias, bundles_of(plan)):
            return None
        return Started(now, _serving(tx, plan))

    def _verdict(self, name: RolloutName, now: float) -> Judged | None:
        """Judge the stage that runs, if one does."""
        with self._store.reading() as tx:
            state = state_of(rollout_of(tx, name))
            if state.status is not RolloutStatus.RUNNING:
                return None
            number = len(state.records) - 1
            began_s = state.records[number].began_s
            verdict = judge(
                gate_of(state.plan, number),
                [self._evidence(tx, state, device, now) for device in stage_devices(state)],
                since_s=began_s,
                now_s=now,
            )
            serving = _serving(tx, state.plan)
        return Judged(number, verdict, now, serving)

    def _evidence(self, tx: Transaction, state: Rollout, device: DeviceId, now: float) -> Evidence:
        journey = state.journeys[device]
        began_s = state.records[-1].began_s
        earlier = None
        if journey.before is not None:
            since = began_s - self._incumbent_span_s
            earlier = self._sides.incumbent(tx, device, journey.before, since=since, until=now)
        return Evidence(
            device=device,
            status=journey.status,
            reason=journey.reason,
            ended_s=journey.ended_s,
            candidate=self._sides.candidate(tx, device, journey.bundle, since=began_s, until=now),
            incumbent=earlier,
        )

    def _step(self, name: RolloutName, event: Event, now: float) -> RolloutRecord:
        """Feed one event: state and effects in one write, then the effects."""
        with self._store.transaction() as tx:
            record = rollout_of(tx, name)
            before = state_of(record)
            state, effects = core.step(before, event)
            if state == before and not effects:
                return record
            record = written(record, state, (*effects_of(record), *effects), now=now)
            rollouts.save_rollout(tx, record)
        if effects:
            return self._perform(name, now)
        if state.status is not before.status:
            self._fleet.publish(now)  # What only this rollout needed may go.
        return record

    def _perform(self, name: RolloutName, now: float) -> RolloutRecord:
        """Make the orders that effects ask for, and strike the effects off."""
        with self._store.transaction() as tx:
            record = rollout_of(tx, name)
            effects = effects_of(record)
            for effect in effects:
                _perform(tx, name, effect, now)
            if effects:
                record = written(record, state_of(record), (), now=now)
                rollouts.save_rollout(tx, record)
        if effects:
            self._fleet.publish(now)
        return record

    def _find_room(self, tx: Transaction, plan: Plan, now: float) -> None:
        """Make room on the broker at the cost of trials; raise `OverBudget` where that is none."""
        if self._size_with(tx, plan) > self._budget_bytes:
            withdraw_all(tx, now)
        size_bytes = self._size_with(tx, plan)
        if size_bytes > self._budget_bytes:
            raise OverBudget(size_bytes, self._budget_bytes)

    def _size_with(self, tx: Transaction, plan: Plan) -> int:
        needed = bundles_of(plan) | fleet.needed_bundles(tx)
        return size_of_all(self._fleet.shelved(tx, digest) for digest in needed)


def rollout_of(tx: Transaction, name: RolloutName) -> RolloutRecord:
    """Return a rollout; raise `UnknownRollout`."""
    record = rollouts.get_rollout(tx, name)
    if record is None:
        raise UnknownRollout(name)
    return record


def _news(tx: Transaction, state: Rollout, now: float) -> list[DeviceReported]:
    """Return what the database knows of the rollout's deployments and its machine does not."""
    known = {
        journey.deployment: journey
        for journeys in (state.journeys, state.ways_back)
        for journey in journeys.values()
    }
    return [
        DeviceReported(
            device=row.device,
            deployment=row.id,
            status=row.status,
            at_s=row.ended_at or now,
            reason=row.reason,
            detail=row.detail,
        )
        for row in devices.journeys_of_rollout(tx, state.plan.name)
        if row.id in known
        and not known[row.id].status.is_final
        and row.status is not known[row.id].status
    ]


def _serving(tx: Transaction, plan: Plan) -> Serving:
    """Return what each device serves, None too where no way back could be ordered to it."""
    told = fleet.serving(tx, sorted(devices_of(plan)), plan.alias)
    kept = {one for one in set(told.values()) if one and models.get_envelope(tx, one)}
    return {device: bundle if bundle in kept else None for device, bundle in told.items()}


def _perform(tx: Transaction, name: RolloutName, effect: Effect, now: float) -> None:
    device = devices.get_device(tx, effect.device)
    if device is None:
        return  # It was removed since; a revert ends without it at its deadline.
    match effect:
        case Order() if effect.compares and not can_compare(device):
            _reject(tx, name, effect, release_of(device), now)
        case Order():
            wanted = Wanted(
                deployment=effect.deployment,
                bundle=effect.bundle,
                probation_s=effect.probation_s,
                deadline_s=effect.deadline_s,
                policy=effect.policy,
                shadow=effect.shadow,
                split=effect.split,
            )
            fleet.order(
                tx,
                effect.device,
                effect.alias,
                wanted,
                rollout=name,
                now=now,
                revoked=effect.revoked,
            )
        case Withdraw():
            fleet.withdraw(tx, effect.device, effect.alias)
        case _:
            assert_never(effect)


def _reject(tx: Transaction, name: RolloutName, order: Order, release: str, now: float) -> None:
    """End a deployment whose device went back to a release that would not compare."""
    if devices.get_journey(tx, order.deployment) is not None:
        return
    journey = Journey(
        id=order.deployment,
        device=order.device,
        rollout=name,
        alias=order.alias,
        bundle=order.bundle,
        status=Status.REJECTED,
        reason=Reason.UNSUITABLE_PROFILE,
        detail=f"its agent is {release}, which knows neither shadowing nor split: update it",
        ordered_at=now,
        ended_at=now,
    )
    devices.save_journey(tx, journey)
