"""The whole agent as one machine: its parts keep in step, and a kill changes only the time."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import (
    a_digest,
    a_histogram,
    a_target,
    a_trial,
    a_wanted,
    an_alias,
    an_order,
    trial_figures,
)
from tests.laws import tried
from wherry.measures import ShadowCounts
from wherry.messages import Deployment, Order, Shadow, SignedReceipt, Split, Trial, TrialResult
from wherry.names import AliasName, Digest, TrialId
from wherry.reasons import Phase, Reason, Status
from wherry.trust.target import Denied, Verdict
from wherry_agent.core import download, install, receipts, session, trial
from wherry_agent.core.agent import (
    Agent,
    Assemble,
    Assembled,
    BundleRefused,
    CloseFetch,
    Effect,
    Effects,
    Event,
    FetchLink,
    For,
    Installed,
    ManifestAccepted,
    Measured,
    OpenFetch,
    OrderCame,
    Reenrolled,
    Saved,
    Tell,
    Tick,
    Window,
    concludes,
    must_save,
    saved_of,
    step,
    wake,
)
from wherry_agent.core.health import FEWEST_ERRORS, PROBATION_LATENCY, Bounds

DEFAULT, DETECTOR = an_alias(), an_alias("detector")
OLD, NEW, OTHER = a_digest("old"), a_digest("new"), a_digest("other")
PROBATION_S = 5.0
WINDOW = PROBATION_LATENCY.window_requests
SHOWN = install.Shown(
    runtime="onnxruntime", runtime_version="1.31.1", outputs=a_digest("outputs"), memory_bytes=9
)
SIGNED = SignedReceipt(signed=msgspec.Raw(b'{"at":1}'), keyid="key", sig="00")
SHADOW = Shadow(for_s=0.0, min_requests=100)


def chunks_of(bundle: Digest) -> dict[Digest, int]:
    return {a_digest(f"{bundle} {part}"): 1000 for part in range(3)}


def an_order_for(
    generation: int,
    bundles: dict[AliasName, Digest],
    *,
    round_of: str = "first",
    trials: tuple[Trial, ...] = (),
    shadow: Shadow | None = None,
    split: Split | None = None,
) -> Order:
    aliases = {
        alias: msgspec.structs.replace(
            a_wanted(f"{round_of}:{alias}:{bundle[:8]}", bundle=bundle, probation_s=PROBATION_S),
            shadow=shadow,
            split=split,
        )
        for alias, bundle in bundles.items()
    }
    return an_order(generation=generation, aliases=aliases, trials=trials)


def came(order: Order, verdicts: Mapping[AliasName, Verdict] | None = None) -> OrderCame:
    """Return an accepted order; the targets allow what no verdict of a test denies."""
    allowed: dict[AliasName, Verdict] = {
        alias: a_target(releases={alias: 1}) for alias in order.aliases
    }
    targets: dict[TrialId, Verdict] = {one.trial: a_target(measuring=True) for one in order.trials}
    return OrderCame(order, {**allowed, **(verdicts or {})}, targets)


@dataclass
class Device:
    """Performs what the agent orders, and is killed before each effect that `kills` numbers.

    The state, the generation that it follows and what it tells go to disk in one write; the broker
    keeps the newest order.
    `deaf` names effects that get no answer; bundles in `for_measuring` are never served.
    """

    kills: frozenset[int] = frozenset()
    deaf: tuple[type[object], ...] = ()
    for_measuring: frozenset[Digest] = frozenset()
    answers: list[TrialResult] = field(default_factory=list)
    disk: Saved = field(default_factory=lambda: Saved(aliases={DEFAULT: install.Idle((OLD,))}))
    chunks: set[Digest] = field(default_factory=set)
    outbox: list[tuple[AliasName, Deployment]] = field(default_factory=list)
    broker: Order | None = None
    followed: int = 0
    agent: Agent = field(init=False)
    serving: dict[AliasName, Digest | None] = field(default_factory=dict)
    performed: list[Effect] = field(default_factory=list)
    receipts: list[AliasName] = field(default_factory=list)
    received: list[Digest] = field(default_factory=list)
    now_s: float = 1000.0

    def __post_init__(self) -> None:
        self._carry_on(self._wake())

    def hear(self, event: Event) -> Effects:
        effects = self._step(event)
        self._carry_on(effects)
        return effects

    def _step(self, event: Event) -> Effects:
        before = self.agent
        self.agent, effects = step(before, event, self.now_s)
        told = [(effect.alias, effect.deployment) for effect in effects if isinstance(effect, Tell)]
        self.outbox += told
        self.answers += _answers(effects)
        if must_save(before, self.agent):
            self.disk = saved_of(self.agent)
        if isinstance(event, OrderCame):
            self.followed = event.order.generation
        return effects

    def _wake(self) -> Effects:
        self.serving = {}
        self.agent, effects = wake(
            self.disk, self.now_s, outbox_first=1, outbox_last=len(self.outbox)
        )
        self.answers += _answers(effects)
        if saved_of(self.agent) != self.disk:
            self.outbox += [(e.alias, e.deployment) for e in effects if isinstance(e, Tell)]
            self.disk = saved_of(self.agent)
        return effects

    def _carry_on(self, first: Effects) -> None:
        effects, news = deque(first), deque[Event]()
        while effects or news:
            if not effects:
                effects.extend(self._step(news.popleft()))
                continue
            effect = effects.popleft()
            self.performed.append(effect)
            if len(self.performed) in self.kills:
                news.clear()
                effects = deque(self._wake())
            elif not isinstance(effect, self.deaf):
                news.extend(self._perform(effect))

    def _perform(self, effect: Effect) -> list[Event]:
        match effect:
            case session.Connect():
                is_new = self.broker and self.broker.generation > self.followed
                orders = [came(self.broker)] if self.broker and is_new else []
                return [session.Connected(self.now_s), *orders]
            case OpenFetch() | CloseFetch():
                return [FetchLink(isinstance(effect, OpenFetch))]
            case download.AskManifest(bundle):
                missing = {c: s for c, s in chunks_of(bundle).items() if c not in self.chunks}
                return [ManifestAccepted(bundle, missing, bundle in self.for_measuring)]
            case download.AskChunks(chunks):
                self.received += chunks
                self.chunks |= set(chunks)
                return [download.ChunkCame(chunk, self.now_s) for chunk in chunks]
            case Assemble(bundle):
                assert chunks_of(bundle).keys() <= self.chunks
                return [Assembled(bundle)]
            case For(alias, install.Load(wanted)):
                return [Installed(alias, install.Loaded(wanted.deployment, self.now_s, SHOWN))]
            case receipts.Attest(claim):
                return [receipts.Attested(claim.deployment, SIGNED)]
            case receipts.TellReceipt(alias):
                self.receipts.append(alias)
                return []
            case trial.Run(wanted, _):
                return [trial.Ran(wanted.trial, trial_figures())]
            case For(alias, install.Serve(bundle)):
                self.serving[alias] = bundle
                return []
            case _:
                return []

    def order(self, order: Order, verdicts: Mapping[AliasName, Verdict] | None = None) -> Effects:
        self.broker = order
        return self.hear(came(order, verdicts))

    def tick(self, seconds: float = 1.0) -> Effects:
        self.now_s += seconds
        return self.hear(Tick())

    def state(self, alias: AliasName = DEFAULT) -> install.State:
        return self.agent.aliases[alias]

    def downloads(self) -> Digest | None:
        return self.agent.download.bundle if self.agent.download else None

    def measure(
        self,
        bundle: Digest,
        median_ms: float,
        *,
        alias: AliasName = DEFAULT,
        errors: int = 0,
        requests: int = WINDOW,
    ) -> Effects:
        errors_by_class = {"runtime": errors} if errors else {}
        compute = a_histogram(*[median_ms] * requests)
        window = Window(requests=requests, errors=errors_by_class, compute=compute)
        return self.hear(Measured(alias, bundle, window))

    def told(self, alias: AliasName = DEFAULT) -> list[tuple[Status, Phase | None]]:
        return [(told.status, told.phase) for name, told in self.outbox if name == alias]

    def outcomes(self) -> list[Status]:
        return [told.status for _, told in self.outbox if told.status.is_final]


def online(**facts: object) -> Device:
    device = Device(**facts)  # type: ignore[arg-type]
    device.tick(0.0)
    return device


def on_probation() -> Device:
    """Return a device that tries `NEW` out, after windows of `OLD` of a millisecond."""
    device = online()
    for _ in range(3):
        device.measure(OLD, 1.0)
    device.order(an_order_for(1, {DEFAULT: NEW}))
    return device


def _answers(effects: Effects) -> list[TrialResult]:
    return [effect.result for effect in effects if isinstance(effect, trial.Answer)]


IN_PROGRESS = Status.IN_PROGRESS
THE_WAY = [
    (IN_PROGRESS, Phase.FETCHING),
    (IN_PROGRESS, Phase.LOADING),
    (IN_PROGRESS, Phase.PROBATION),
    (Status.SUCCEEDED, None),
]


def test_an_order_leads_to_a_confirmed_bundle_and_each_step_is_told_once() -> None:
    device = on_probation()
    assert device.serving[DEFAULT] == NEW
    device.tick(PROBATION_S - 0.1)
    assert device.told() == THE_WAY[:3]
    device.tick(0.1)
    assert device.told() == THE_WAY
    assert device.state().confirmed == (NEW, OLD)
    device.tick()
    assert device.told() == THE_WAY


def test_a_device_serves_what_it_had_before_it_has_a_connection() -> None:
    device = Device(deaf=(session.Connect,))
    assert device.serving == {DEFAULT: OLD}


def test_a_renewed_order_is_announced_and_changes_nothing_in_flight() -> None:
    device = on_probation()
    before = device.agent
    renewed = an_order_for(2, {DEFAULT: NEW})
    assert device.order(renewed) == (session.Announce(),)
    assert device.agent.aliases == before.aliases


def test_an_alias_that_the_order_names_no_more_is_withdrawn() -> None:
    device = on_probation()
    device.order(an_order_for(2, {}))
    assert device.outcomes() == [Status.CANCELED]
    assert device.serving[DEFAULT] == OLD


def test_the_download_follows_the_states() -> None:
    device = online(deaf=(download.AskChunks,))
    assert device.downloads() is None
    effects = device.order(an_order_for(1, {DEFAULT: NEW}))
    assert OpenFetch() in effects
    assert device.downloads() == NEW
    effects = device.order(an_order_for(2, {DEFAULT: OTHER}))
    assert download.DropChunks(tuple(chunks_of(NEW))) in effects
    assert download.AskManifest(OTHER) in effects
    assert device.downloads() == OTHER
    effects = device.order(an_order_for(3, {}))
    assert CloseFetch() in effects
    assert device.downloads() is None


def test_a_manifest_that_is_wanted_no_more_is_dropped() -> None:
    device = online(deaf=(download.AskManifest,))
    device.order(an_order_for(1, {DEFAULT: NEW}))
    assert download.DropManifest(NEW) in device.order(an_order_for(2, {DEFAULT: OTHER}))
    late = ManifestAccepted(NEW, {})
    assert device.hear(late) == ()


def test_a_fetch_connection_that_broke_is_opened_again_after_a_wait() -> None:
    device = online(deaf=(download.AskChunks, OpenFetch))
    device.order(an_order_for(1, {DEFAULT: NEW}))
    device.hear(FetchLink(False, 0.5))
    assert OpenFetch() not in device.tick(0.4)
    assert OpenFetch() in device.tick(0.2)
    assert OpenFetch() not in device.tick(100.0)
    device.hear(FetchLink(False, 0.5))
    assert OpenFetch() not in device.tick(0.9)
    assert OpenFetch() in device.tick(0.2)
    device.hear(FetchLink(True))
    assert device.agent.download is not None and device.agent.download.connected
    device.hear(FetchLink(False, 0.5))
    assert OpenFetch() in device.tick(0.6)


def test_a_closed_fetch_connection_stays_closed_and_the_next_order_opens_one() -> None:
    device = on_probation()
    device.tick(PROBATION_S)
    assert OpenFetch() not in device.tick(500.0)
    opened = device.order(an_order_for(2, {DEFAULT: OTHER}))
    assert opened.count(OpenFetch()) == 1


def test_a_wanted_close_is_no_failure_and_waits_for_nothing() -> None:
    device = online(deaf=(download.AskChunks, OpenFetch, CloseFetch))
    device.order(an_order_for(1, {DEFAULT: NEW}))
    device.hear(FetchLink(True))
    assert CloseFetch() in device.order(an_order_for(2, {}))
    # The connection that is on its way down serves no other download.
    assert OpenFetch() in device.order(an_order_for(3, {DEFAULT: OTHER}))
    assert CloseFetch() in device.order(an_order_for(4, {}))
    device.hear(FetchLink(False, 0.9))
    assert OpenFetch() not in device.tick(500.0)
    assert device.agent.fetch_failures == 0


def test_a_chunk_of_which_every_copy_is_spoiled_fails_the_deployment() -> None:
    device = online(deaf=(download.AskChunks,))
    device.order(an_order_for(1, {DEFAULT: NEW}))
    chunk = next(iter(chunks_of(NEW)))
    for _ in range(download.SPOILS_ALLOWED + 1):
        device.hear(download.ChunkSpoiled(chunk, device.now_s))
        device.tick(100.0)
    outcome = device.outbox[-1][1]
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.WRONG_BYTES)
    assert outcome.detail.endswith(f"{download.SPOILS_ALLOWED + 1} times")
    assert device.agent.download is None


def test_a_refused_bundle_is_rejected_for_every_alias_that_fetches_it() -> None:
    device = online(deaf=(download.AskManifest,))
    device.order(an_order_for(1, {DEFAULT: NEW, DETECTOR: NEW}))
    device.hear(BundleRefused(OTHER, Reason.UNSUITABLE_PROFILE, "needs ARM"))
    assert device.outcomes() == []
    device.hear(BundleRefused(NEW, Reason.UNSUITABLE_PROFILE, "needs ARM"))
    assert device.outcomes() == [Status.REJECTED, Status.REJECTED]
    assert device.outbox[-1][1].detail == "needs ARM"


def test_one_alias_at_a_time_is_past_fetching_and_the_other_waits_on_disk() -> None:
    device = online()
    device.order(an_order_for(1, {DEFAULT: NEW, DETECTOR: OTHER}))
    assert isinstance(device.state(DEFAULT), install.Probation)
    assert isinstance(device.state(DETECTOR), install.Fetching)
    assert set(device.received) == chunks_of(NEW).keys() | chunks_of(OTHER).keys()
    assert device.agent.download is None
    device.tick(PROBATION_S)
    assert isinstance(device.state(DETECTOR), install.Probation)
    device.tick(PROBATION_S)
    assert device.outcomes() == [Status.SUCCEEDED, Status.SUCCEEDED]
    assert device.serving == {DEFAULT: NEW, DETECTOR: OTHER}


def test_a_waiting_bundle_whose_deployment_ended_does_not_load() -> None:
    device = online()
    device.order(an_order_for(1, {DEFAULT: NEW, DETECTOR: OTHER}))
    device.order(an_order_for(2, {DEFAULT: NEW}))
    device.tick(PROBATION_S)
    assert device.agent.fetched == frozenset()
    assert isinstance(device.state(DETECTOR), install.Idle)


def test_one_slow_window_is_no_reason_and_two_in_a_row_revert_the_bundle() -> None:
    device = on_probation()
    device.measure(NEW, 5.0)
    device.measure(NEW, 1.0)
    device.measure(NEW, 5.0)
    assert isinstance(device.state(), install.Probation)
    device.measure(NEW, 5.0)
    outcome = device.outbox[-1][1]
    assert (outcome.status, outcome.reason) == (Status.REVERTED, Reason.SLOW)
    assert device.serving[DEFAULT] == OLD


def test_errors_in_probation_revert_the_bundle() -> None:
    device = on_probation()
    device.measure(NEW, 1.0, errors=FEWEST_ERRORS, requests=100)
    assert device.outbox[-1][1].reason is Reason.ERRORS


def test_the_windows_of_another_bundle_are_no_evidence() -> None:
    device = on_probation()
    for _ in range(3):
        device.measure(OLD, 9.0)
        device.measure(OTHER, 9.0)
    assert isinstance(device.state(), install.Probation)
    incumbent = device.agent.watching.watches[DEFAULT].incumbent
    assert incumbent.compute.total == 3 * WINDOW


def test_a_confirmed_bundle_is_the_next_ones_incumbent() -> None:
    device = on_probation()
    device.measure(NEW, 1.5)
    device.tick(PROBATION_S)
    device.measure(NEW, 1.5)
    assert [window.total for window in device.agent.watching.recent[DEFAULT]] == [WINDOW, WINDOW]
    device.order(an_order_for(2, {DEFAULT: OTHER}))
    for _ in range(2):
        device.measure(OTHER, 2.5)  # Slow beside OLD's 1 ms, and not beside NEW's 1.5 ms.
    assert isinstance(device.state(), install.Probation)


def test_after_a_revert_the_incumbents_windows_are_the_old_ones() -> None:
    device = on_probation()
    before = device.agent.watching.recent
    for _ in range(2):
        device.measure(NEW, 9.0)
    assert device.agent.watching.recent == before
    assert device.agent.watching.watches == {}


def test_late_windows_of_a_bundle_that_serves_no_more_are_not_the_incumbents() -> None:
    device = online()
    device.measure(OTHER, 9.0)
    assert device.agent.watching.recent == {}


def test_each_alias_has_an_incumbent_of_its_own() -> None:
    device = online()
    device.order(an_order_for(1, {DEFAULT: NEW, DETECTOR: OTHER}))
    device.tick(PROBATION_S)
    device.tick(PROBATION_S)
    device.measure(OTHER, 4.0, alias=DETECTOR)
    device.order(an_order_for(2, {DEFAULT: OLD, DETECTOR: OTHER}))
    device.tick(PROBATION_S)
    assert device.state(DEFAULT).confirmed == (OLD, NEW)
    assert [window.total for window in device.agent.watching.recent[DETECTOR]] == [WINDOW]


def test_measured_windows_alone_are_not_worth_a_write() -> None:
    device = on_probation()
    before = device.agent
    device.measure(NEW, 1.0)
    assert before != device.agent
    assert not must_save(before, device.agent)
    assert must_save(before, msgspec.structs.replace(before, aliases={}))
    assert must_save(before, msgspec.structs.replace(before, releases={DEFAULT: {NEW: 2}}))


def test_what_is_saved_survives_the_disk() -> None:
    device = on_probation()
    saved = saved_of(device.agent)
    assert msgspec.json.decode(msgspec.json.encode(saved), type=Saved) == saved
    device.tick(PROBATION_S)
    saved = saved_of(device.agent)
    assert saved.receipts == {DEFAULT: SIGNED}
    assert msgspec.json.decode(msgspec.json.encode(saved), type=Saved) == saved


def test_a_probation_is_concluded_once_its_time_is_over() -> None:
    device = on_probation()
    assert not concludes(device.agent, device.now_s + PROBATION_S - 0.1)
    assert concludes(device.agent, device.now_s + PROBATION_S)
    device.tick(PROBATION_S)
    assert not concludes(device.agent, device.now_s + PROBATION_S)


# Shadowing, splits and receipts


def compared(device: Device, requests: int, agreed: int) -> Effects:
    counts = ShadowCounts(requests=requests, rows=requests, agreed=agreed)
    return device.hear(Measured(DEFAULT, NEW, Window(shadow=counts)))


def on_shadowing(shadow: Shadow = SHADOW, split: Split | None = None) -> Device:
    device = online()
    device.order(an_order_for(1, {DEFAULT: NEW}, shadow=shadow, split=split))
    assert isinstance(device.state(), install.Shadowing)
    return device


def test_a_candidate_that_was_compared_enough_is_tried_out() -> None:
    device = on_shadowing()
    compared(device, 60, 60)
    device.tick()
    assert device.serving[DEFAULT] == OLD
    compared(device, 40, 40)
    device.tick()
    assert device.serving[DEFAULT] == NEW
    assert (IN_PROGRESS, Phase.SHADOWING) in device.told()


def test_a_candidate_that_disagrees_never_answers() -> None:
    device = on_shadowing(msgspec.structs.replace(SHADOW, min_agreement=0.9))
    compared(device, 100, 89)
    outcome = device.outbox[-1][1]
    assert (outcome.status, outcome.reason) == (Status.FAILED, Reason.DISAGREES)
    assert NEW not in device.serving.values()


def test_another_alias_waits_while_one_is_shadowing() -> None:
    device = online()
    both = {DEFAULT: NEW, DETECTOR: OTHER}
    device.order(an_order_for(1, both, shadow=SHADOW))
    assert isinstance(device.state(DETECTOR), install.Fetching)
    compared(device, 100, 100)
    device.tick()
    device.tick(PROBATION_S)
    assert isinstance(device.state(DETECTOR), install.Probation)  # Nothing served there before.


def test_a_candidate_that_is_slow_beside_the_incumbent_is_reverted_from_a_split() -> None:
    device = online()
    for _ in range(2):
        device.measure(OLD, 1.0)
    device.order(an_order_for(1, {DEFAULT: NEW}, split=Split(share=0.5)))
    for _ in range(2):  # The whole device is slow, and the candidate no slower.
        device.measure(OLD, 5.0)
        device.measure(NEW, 5.0)
    assert isinstance(device.state(), install.Probation)
    for _ in range(2):
        device.measure(OLD, 1.0)
        device.measure(NEW, 5.0)
    assert device.outbox[-1][1].reason is Reason.SLOW
    assert For(DEFAULT, install.Share(NEW, Split(share=0.5))) in device.performed


def test_a_confirmed_deployment_is_attested_with_what_was_measured_and_told_once() -> None:
    device = on_probation()
    device.measure(NEW, 2.0)
    device.tick(PROBATION_S)
    (attest,) = [effect for effect in device.performed if isinstance(effect, receipts.Attest)]
    claim = attest.claim
    assert (claim.alias, claim.bundle, claim.outputs) == (DEFAULT, NEW, SHOWN.outputs)
    assert claim.requests == WINDOW
    assert claim.p50_ms is not None and 1.9 < claim.p50_ms < 2.1
    assert (claim.memory_bytes, claim.runtime_version) == (9, "1.31.1")
    assert device.receipts == [DEFAULT]
    assert (device.disk.claims, device.disk.receipts) == ((), {DEFAULT: SIGNED})
    settle(device)
    assert device.receipts == [DEFAULT]


def test_nothing_is_attested_of_what_was_reverted_or_served_already() -> None:
    device = on_probation()
    device.measure(NEW, 1.0, errors=FEWEST_ERRORS, requests=100)
    device.order(an_order_for(2, {DEFAULT: OLD}))
    assert device.outcomes() == [Status.REVERTED, Status.SUCCEEDED]
    assert device.receipts == []


def test_a_claim_outlives_the_process_and_a_new_enrolment_ends_it() -> None:
    device = on_probation()
    device.deaf = (receipts.Attest,)
    device.tick(PROBATION_S)
    assert len(device.disk.claims) == 1
    agent, effects = wake(device.disk, 0.0, outbox_first=1, outbox_last=0)
    assert effects[-1] == receipts.Attest(device.disk.claims[0])
    after, _ = step(agent, Reenrolled(), 1.0)
    assert saved_of(after).claims == ()


def test_the_bounds_of_the_settings_reach_the_verdict() -> None:
    strict = Bounds(largest_temperature_c=20.0)
    agent, _ = wake(Saved(), 0.0, outbox_first=1, outbox_last=0, bounds=strict)
    assert agent.watching.bounds == strict


def test_a_woken_agent_remembers_its_incumbents_windows_and_its_outbox() -> None:
    device = on_probation()
    agent, _ = wake(device.disk, 0.0, outbox_first=4, outbox_last=9, limit_bytes_per_s=10.0)
    assert agent.watching.recent == device.disk.recent
    assert (agent.session.acked, agent.session.last) == (3, 9)
    assert (agent.releases, agent.limit_bytes_per_s) == ({DEFAULT: {NEW: 1}}, 10.0)


def test_the_limit_reaches_the_download() -> None:
    agent, _ = wake(Saved(), 0.0, outbox_first=1, outbox_last=0, limit_bytes_per_s=7.0)
    agent, _ = step(agent, came(an_order_for(1, {DEFAULT: NEW})), 1.0)
    assert agent.download is not None and agent.download.limit_bytes_per_s == 7.0


def test_events_go_out_and_are_forgotten_through_the_session() -> None:
    device = online()
    assert session.Send(0, 2) in device.hear(session.Stored(2, device.now_s))
    assert session.Forget(2) in device.hear(session.Acked(2, device.now_s))
    device.hear(session.Lost(device.now_s, 0.5))
    assert session.Connect() in device.tick(60.0)


def settle(device: Device) -> None:
    for _ in range(8):
        device.tick(PROBATION_S)


@pytest.mark.parametrize("later", [None, 1, 3, 8])
def test_a_kill_at_any_instant_changes_nothing_but_the_time(later: int | None) -> None:
    for first in range(1, 40):
        device = Device(kills=frozenset({first, first + later} if later else {first}))
        device.tick(0.0)
        device.order(an_order_for(1, {DEFAULT: NEW}))
        settle(device)
        assert device.state().confirmed == (NEW, OLD), first
        assert device.serving[DEFAULT] == NEW, first
        assert device.outcomes() == [Status.SUCCEEDED], first
        assert sorted(device.received) == sorted(chunks_of(NEW)), first


def test_a_kill_on_the_way_through_shadowing_and_a_split_changes_nothing_but_the_time() -> None:
    for kill in range(1, 40):
        device = Device(kills=frozenset({kill}))
        device.tick(0.0)
        device.order(an_order_for(1, {DEFAULT: NEW}, shadow=SHADOW, split=Split()))
        for _ in range(8):
            compared(device, 100, 100)
            device.tick(PROBATION_S)
        assert device.serving[DEFAULT] == NEW, kill
        assert device.outcomes() == [Status.SUCCEEDED], kill
        assert device.disk.receipts.keys() == {DEFAULT}, kill


def test_a_kill_of_a_device_with_two_aliases_changes_nothing_but_the_time() -> None:
    for kill in range(1, 60):
        device = Device(kills=frozenset({kill}))
        device.tick(0.0)
        device.order(an_order_for(1, {DEFAULT: NEW, DETECTOR: OTHER}))
        settle(device)
        assert device.serving == {DEFAULT: NEW, DETECTOR: OTHER}, kill
        assert sorted(device.outcomes()) == [Status.SUCCEEDED] * 2, kill
        assert len(device.received) == len(set(device.received)), kill


# What the targets say


def a_release(number: int, alias: AliasName = DEFAULT, **needs: int) -> Verdict:
    return a_target(
        releases={alias: number}, needs={an_alias(name): least for name, least in needs.items()}
    )


def reason_told(device: Device, alias: AliasName) -> tuple[Status, Reason | None]:
    told = [outcome for name, outcome in device.outbox if name == alias][-1]
    return told.status, told.reason


def test_a_denied_bundle_is_rejected_once_and_the_rest_of_the_order_is_followed() -> None:
    device = online()
    denied = {DEFAULT: Denied(Reason.BELOW_MIN_RELEASE, "it is release 2 and 3 is the least")}
    device.order(an_order_for(1, {DEFAULT: NEW, DETECTOR: OTHER}), denied)
    device.order(an_order_for(2, {DEFAULT: NEW, DETECTOR: OTHER}), denied)
    device.tick(PROBATION_S)
    assert reason_told(device, DEFAULT) == (Status.REJECTED, Reason.BELOW_MIN_RELEASE)
    assert len(device.told(DEFAULT)) == 1
    assert device.serving == {DEFAULT: OLD, DETECTOR: OTHER}
    assert chunks_of(NEW).keys().isdisjoint(device.received)


def test_a_denied_trial_is_answered_with_the_reason() -> None:
    device = online(for_measuring=MEASURING)
    order = an_order_for(1, {}, trials=(TRIAL,))
    denied = Denied(Reason.NOT_IN_TARGETS, "the director names it and targets do not")
    for _ in range(2):
        device.hear(OrderCame(order, {}, {TRIAL.trial: denied}))
    assert [one.reason for one in device.answers] == [Reason.NOT_IN_TARGETS]
    assert device.received == []


def test_a_trial_under_way_whose_bundle_is_denied_is_stopped_and_answered() -> None:
    device = on_trial(deaf=(trial.Run,))
    order = an_order_for(2, {}, trials=(TRIAL,))
    effects = device.hear(OrderCame(order, {}, {TRIAL.trial: Denied(Reason.REVOKED, "it is")}))
    assert trial.Stop() in effects
    assert [one.reason for one in device.answers] == [Reason.REVOKED]


def test_a_bundle_that_needs_a_release_waits_for_no_other_order() -> None:
    device = online()
    order = an_order_for(1, {DEFAULT: NEW})
    device.order(order, {DEFAULT: a_release(5, detector=2)})
    assert reason_told(device, DEFAULT) == (Status.REJECTED, Reason.MISSING_DEPENDENCY)
    assert "release 2 of detector" in device.outbox[-1][1].detail
    assert device.serving == {DEFAULT: OLD}


def test_what_a_bundle_needs_may_come_with_the_same_order() -> None:
    device = online()
    needing = {DEFAULT: a_release(5, detector=2), DETECTOR: a_release(2, DETECTOR)}
    device.order(an_order_for(1, {DEFAULT: NEW, DETECTOR: OTHER}), needing)
    settle(device)
    assert device.serving == {DEFAULT: NEW, DETECTOR: OTHER}


def test_what_a_bundle_needs_may_serve_already_also_after_a_restart() -> None:
    device = online()
    device.order(an_order_for(1, {DETECTOR: OTHER}), {DETECTOR: a_release(2, DETECTOR)})
    settle(device)
    device.agent, _ = wake(device.disk, device.now_s, outbox_first=1, outbox_last=0)
    denied = Denied(Reason.REVOKED, "the order that wants it revokes it")
    both = an_order_for(2, {DETECTOR: NEW, DEFAULT: NEW}, round_of="second")
    device.order(both, {DEFAULT: a_release(5, detector=2), DETECTOR: denied})
    settle(device)
    assert device.serving == {DEFAULT: NEW, DETECTOR: OTHER}


def test_a_release_that_failed_here_is_none_that_others_can_need() -> None:
    device = online(deaf=(download.AskManifest,))
    first = an_order_for(1, {DETECTOR: OTHER})
    device.order(first, {DETECTOR: a_release(2, DETECTOR)})
    device.hear(BundleRefused(OTHER, Reason.MISSING_RUNTIME, "none"))
    needing = {DEFAULT: a_release(5, detector=2), DETECTOR: a_release(2, DETECTOR)}
    device.order(an_order_for(2, {DEFAULT: NEW, DETECTOR: OTHER}), needing)
    assert reason_told(device, DEFAULT) == (Status.REJECTED, Reason.MISSING_DEPENDENCY)


def test_a_release_that_is_on_its_way_since_an_earlier_order_counts() -> None:
    device = online(deaf=(download.AskManifest,))
    coming = {DETECTOR: a_release(2, DETECTOR)}
    device.order(an_order_for(1, {DETECTOR: OTHER}), coming)
    both = an_order_for(2, {DETECTOR: OTHER, DEFAULT: NEW})
    device.order(both, {**coming, DEFAULT: a_release(5, detector=2)})
    assert isinstance(device.state(), install.Fetching)


def test_a_release_that_came_and_was_lost_again_does_not_count() -> None:
    device = online()
    came_first = {DETECTOR: a_release(2, DETECTOR)}
    device.order(an_order_for(1, {DETECTOR: OTHER}), came_first)
    settle(device)
    device.hear(Installed(DETECTOR, install.Unservable(OTHER)))
    both = an_order_for(2, {DETECTOR: OTHER, DEFAULT: NEW})
    device.order(both, {**came_first, DEFAULT: a_release(5, detector=2)})
    assert reason_told(device, DEFAULT) == (Status.REJECTED, Reason.MISSING_DEPENDENCY)


def test_an_order_that_takes_a_needed_release_away_does_not_disturb_what_serves() -> None:
    device = online()
    needing = {DEFAULT: a_release(5, detector=2), DETECTOR: a_release(2, DETECTOR)}
    device.order(an_order_for(1, {DEFAULT: NEW, DETECTOR: OTHER}), needing)
    settle(device)
    lower = {**needing, DETECTOR: a_release(1, DETECTOR)}
    device.order(an_order_for(2, {DEFAULT: NEW, DETECTOR: NEW}), lower)
    settle(device)
    assert device.serving == {DEFAULT: NEW, DETECTOR: NEW}


def test_a_new_enrolment_ends_what_the_last_one_ordered_and_serving_goes_on() -> None:
    device = on_probation()
    device.hear(Reenrolled())
    assert reason_told(device, DEFAULT) == (Status.CANCELED, Reason.WITHDRAWN)
    assert device.serving == {DEFAULT: OLD}
    trying = on_trial(deaf=(trial.Run,))
    assert trial.Stop() in trying.hear(Reenrolled())


def test_what_was_revoked_stays_so_until_the_new_enrolments_first_order() -> None:
    device = online()
    device.order(msgspec.structs.replace(an_order_for(1, {}), revoked=(OLD,)))
    device.hear(Reenrolled())
    assert install.serves_revoked(device.state())
    device.order(an_order_for(2, {}))
    assert not install.serves_revoked(device.state())


CANDIDATE = a_digest("candidate")
TRIAL = a_trial(bundle=CANDIDATE, deadline_s=3600.0)
MEASURING = frozenset({CANDIDATE})


def on_trial(**facts: object) -> Device:
    """Return a device that serves `OLD` and is ordered a trial."""
    device = online(for_measuring=MEASURING, **facts)
    device.order(an_order_for(1, {}, trials=(TRIAL,)))
    return device


def test_a_trial_is_fetched_measured_and_answered_while_the_old_bundle_serves() -> None:
    device = on_trial()
    assert [(one.trial, one.figures) for one in device.answers] == [(TRIAL.trial, trial_figures())]
    assert sorted(device.received) == sorted(chunks_of(CANDIDATE))
    assert device.serving == {DEFAULT: OLD}
    assert device.outbox == []
    assert device.agent.download is None


def test_a_trial_waits_for_the_end_of_a_deployment() -> None:
    device = online(for_measuring=MEASURING)
    device.order(an_order_for(1, {DEFAULT: NEW}, trials=(TRIAL,)))
    device.tick(PROBATION_S - 0.1)
    assert (device.answers, device.serving[DEFAULT]) == ([], NEW)
    device.tick(0.1)
    assert [one.reason for one in device.answers] == [None]


def test_a_deployment_that_arrives_stops_a_trial_and_is_not_held_up() -> None:
    device = on_trial(deaf=(trial.Run,))
    effects = device.order(an_order_for(2, {DEFAULT: NEW}, trials=(TRIAL,)))
    assert trial.Stop() in effects
    assert [one.reason for one in device.answers] == [Reason.BUSY]
    device.tick(PROBATION_S)
    assert device.outcomes() == [Status.SUCCEEDED]
    assert len(device.answers) == 1


def test_a_trial_that_takes_too_long_ends_at_its_deadline() -> None:
    device = on_trial(deaf=(trial.Run,))
    device.tick(TRIAL.deadline_s)
    assert device.answers == []
    device.tick(1.0)
    assert [one.reason for one in device.answers] == [Reason.DEADLINE]


def test_a_bundle_for_measuring_is_not_deployed() -> None:
    device = online(for_measuring=MEASURING)
    device.order(an_order_for(1, {DEFAULT: CANDIDATE}))
    outcome = device.outbox[-1][1]
    assert (outcome.status, outcome.reason) == (Status.REJECTED, Reason.ONLY_FOR_MEASURING)
    assert (device.serving[DEFAULT], device.received) == (OLD, [])


def test_a_bundle_to_serve_is_not_measured() -> None:
    device = online()
    device.order(an_order_for(1, {}, trials=(TRIAL,)))
    assert [one.reason for one in device.answers] == [Reason.NOT_FOR_MEASURING]
    assert device.received == []


def test_a_trial_whose_bundle_is_refused_is_answered_with_the_reason() -> None:
    device = on_trial(deaf=(download.AskManifest,))
    device.hear(BundleRefused(CANDIDATE, Reason.UNSUITABLE_PROFILE, "no VNNI"))
    (answer,) = device.answers
    assert (answer.reason, answer.detail) == (Reason.UNSUITABLE_PROFILE, "no VNNI")


def test_a_trial_of_which_every_copy_of_a_chunk_is_spoiled_is_answered() -> None:
    device = on_trial(deaf=(download.AskChunks,))
    chunk = next(iter(chunks_of(CANDIDATE)))
    for _ in range(download.SPOILS_ALLOWED + 1):
        device.hear(download.ChunkSpoiled(chunk, device.now_s))
        device.tick(100.0)
    assert [one.reason for one in device.answers] == [Reason.WRONG_BYTES]


def test_a_kill_during_a_trial_changes_nothing_but_the_time() -> None:
    for kill in range(1, 25):
        device = on_trial(kills=frozenset({kill}))
        settle(device)
        assert [one.trial for one in device.answers] == [TRIAL.trial], kill
        assert device.serving == {DEFAULT: OLD}, kill


bundles = st.sampled_from([OLD, NEW, OTHER])
orders = st.dictionaries(st.sampled_from([DEFAULT, DETECTOR]), bundles, max_size=2)


@tried
@given(st.lists(st.tuples(orders, st.integers(0, 6)), max_size=5), st.integers(1, 60))
def test_the_last_order_is_where_every_story_ends(
    story: list[tuple[dict[AliasName, Digest], int]], kill: int
) -> None:
    device = Device(kills=frozenset({kill}))
    device.tick(0.0)
    for generation, (wanted, seconds) in enumerate(story, start=1):
        device.order(an_order_for(generation, wanted, round_of=str(generation)))
        device.tick(float(seconds))
        past_fetching = [
            state
            for state in device.agent.aliases.values()
            if isinstance(state, install.PAST_FETCHING)
        ]
        assert len(past_fetching) <= 1
    settle(device)
    for alias, bundle in (story[-1][0] if story else {}).items():
        assert device.serving[alias] == bundle
    final = [told.deployment for _, told in device.outbox if told.status.is_final]
    assert len(final) == len(set(final))
    assert device.agent.download is None
