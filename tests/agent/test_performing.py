"""What the install machine orders reaches the engine, and what cannot be done is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.builders import a_digest, a_manifest, a_wanted, an_alias
from wherry.messages import Shadow, Split, SwapPolicy
from wherry.names import AliasName, DeploymentId, Digest
from wherry.reasons import Reason
from wherry.signature import StatePair
from wherry_agent import engine
from wherry_agent.asking import BundlePlace, Proof
from wherry_agent.core import install
from wherry_agent.core.agent import Event, Installed
from wherry_agent.performing import LONGEST_FLIP_S, Installer
from wherry_agent.probing import RuntimesProbed

ALIAS = an_alias()
OLD, NEW, STATEFUL = a_digest("old"), a_digest("new"), a_digest("stateful")
WANTED = a_wanted("d-1", bundle=NEW)
SOUND = RuntimesProbed({})


@dataclass
class Engine:
    """Notes what it is told."""

    told: list[tuple[object, ...]] = field(default_factory=list)

    def load(
        self,
        alias: AliasName,
        deployment: DeploymentId,
        place: BundlePlace,
        policy: SwapPolicy,
        duty: engine.Duty,
    ) -> None:
        self.told.append(("load", deployment, place.digest, policy, duty))

    def serve(self, alias: AliasName, place: BundlePlace | None) -> None:
        self.told.append(("serve", place.digest if place else None))

    def share(self, alias: AliasName, place: BundlePlace, split: Split) -> None:
        self.told.append(("share", place.digest, split))

    def shadow(self, alias: AliasName, place: BundlePlace, shadow: Shadow) -> None:
        self.told.append(("shadow", place.digest, shadow))

    def retire(self, alias: AliasName) -> None:
        self.told.append(("retire",))


class Shelf:
    """Has three bundles, of which one passes a state around."""

    def place(self, bundle: Digest) -> BundlePlace | None:
        manifest = a_manifest()
        if bundle == STATEFUL:
            signature = manifest.signature
            pair = StatePair(signature.outputs[0].name, signature.inputs[0].name)
            manifest = replace(manifest, signature=replace(signature, states=(pair,)))
        if bundle not in (OLD, NEW, STATEFUL):
            return None
        nowhere = Path("nowhere")
        return BundlePlace(
            digest=bundle, manifest_path=nowhere, blobs_folder=nowhere, manifest=manifest
        )


def an_installer(probed: RuntimesProbed | None = SOUND) -> tuple[Installer, Engine]:
    orders = Engine()
    installer = Installer(orders, Shelf())
    if probed is not None:
        assert list(installer.note_probes(probed)) == []
    return installer, orders


def perform(installer: Installer, effect: install.EngineEffect, now_s: float = 0.0) -> list[Event]:
    return list(installer.perform(effect, ALIAS, now_s))


def a_flip(bundle: Digest, *, share: float = 1.0) -> engine.Flipped:
    return engine.Flipped(ALIAS, bundle, None, 0, share)


@pytest.mark.parametrize(
    ("rival", "shadow", "duty"),
    [
        (None, None, engine.Duty.ANSWER),
        (None, Shadow(), engine.Duty.ANSWER),
        (OLD, None, engine.Duty.SHARE),
        (OLD, Shadow(), engine.Duty.SHADOW),
    ],
)
def test_a_load_says_what_it_is_for_and_by_which_policy(
    rival: Digest | None, shadow: Shadow | None, duty: engine.Duty
) -> None:
    installer, orders = an_installer()
    wanted = replace(WANTED, policy=SwapPolicy.RESOURCE, shadow=shadow)
    assert perform(installer, install.Load(wanted, rival)) == []
    assert orders.told == [("load", WANTED.deployment, NEW, SwapPolicy.RESOURCE, duty)]


def test_nothing_is_loaded_before_the_runtimes_were_tried() -> None:
    installer, orders = an_installer(None)
    perform(installer, install.Serve(OLD))  # What was confirmed does not wait.
    perform(installer, install.Load(WANTED))
    assert orders.told == [("serve", OLD)]
    assert list(installer.note_probes(SOUND)) == []
    assert orders.told[1][0] == "load"


def test_what_was_given_up_before_the_probes_is_not_loaded_after_them() -> None:
    installer, orders = an_installer(None)
    for effect in (install.Load(WANTED), install.Serve(OLD), install.Retire()):
        perform(installer, effect)
    assert list(installer.note_probes(SOUND)) == []
    assert orders.told == [("serve", OLD), ("retire",)]


def test_a_bundle_whose_runtime_does_not_run_here_is_refused() -> None:
    installer, orders = an_installer(None)
    perform(installer, install.Load(WANTED))
    (told,) = installer.note_probes(RuntimesProbed({"onnxruntime": "it ended by SIGILL"}))
    why = "onnxruntime does not run here: it ended by SIGILL"
    assert told == Installed(ALIAS, install.Refused(WANTED.deployment, Reason.BAD_RUNTIME, why))
    assert orders.told == []


def test_a_bundle_of_other_states_is_refused_where_it_would_be_compared_and_only_there() -> None:
    installer, orders = an_installer()
    wanted = replace(WANTED, bundle=STATEFUL, split=Split())
    (told,) = perform(installer, install.Load(wanted, OLD))
    assert isinstance(told, Installed) and isinstance(told.event, install.Refused)
    assert (told.event.reason, orders.told) == (Reason.STATE_DIFFERS, [])
    assert perform(installer, install.Load(wanted)) == []
    assert perform(installer, install.Load(wanted, STATEFUL)) == []


def test_what_is_gone_from_the_disk_is_neither_loaded_nor_served() -> None:
    installer, orders = an_installer()
    gone = a_digest("gone")
    (told,) = perform(installer, install.Load(replace(WANTED, bundle=gone)))
    assert isinstance(told, Installed) and isinstance(told.event, install.Sickened)
    unservable = [Installed(ALIAS, install.Unservable(gone))]
    assert perform(installer, install.Serve(gone)) == unservable
    assert perform(installer, install.Shadow(gone, Shadow())) == unservable
    assert perform(installer, install.Share(gone, Split())) == unservable
    assert orders.told == []


def test_shadows_shares_and_ends_reach_the_engine() -> None:
    installer, orders = an_installer()
    effects = (install.Shadow(NEW, Shadow()), install.Share(NEW, Split()), install.Serve(None))
    for effect in (*effects, install.Retire()):
        assert perform(installer, effect) == []
    assert [told[0] for told in orders.told] == ["shadow", "share", "serve", "retire"]


def test_why_what_shall_answer_does_not_come_up_is_known_until_it_answers() -> None:
    installer, _ = an_installer()
    perform(installer, install.Serve(OLD))
    why = "it was not ready within 60 s"
    lost = engine.Unservable(ALIAS, OLD, Reason.LOAD_TIMEOUT, why, is_tried_again=True)
    for answers_again in (
        partial(installer.note_flip, a_flip(OLD)),
        partial(installer.note_return, engine.CameBack(ALIAS, OLD)),
    ):
        told = list(installer.read(lost, install.Idle((OLD,)), 0.0))
        assert told == [Installed(ALIAS, install.Unservable(OLD, may_pass=True))]
        assert installer.missed == {ALIAS: Reason.LOAD_TIMEOUT}
        answers_again()
        assert installer.missed == {}
    loop = engine.Unservable(ALIAS, OLD, Reason.CRASH_LOOP, "it died 5 times within 120 s")
    list(installer.read(loop, install.Idle((OLD,)), 0.0))
    assert installer.missed == {}  # It answers between its deaths.


def test_why_something_is_missed_is_forgotten_once_another_one_shall_answer() -> None:
    installer, _ = an_installer()
    perform(installer, install.Serve(OLD))
    lost = engine.Unservable(ALIAS, OLD, Reason.WRONG_BYTES, "the model is not what was signed")
    told = list(installer.read(lost, install.Idle((OLD, NEW)), 0.0))
    assert told == [Installed(ALIAS, install.Unservable(OLD))]
    perform(installer, install.Serve(NEW))
    assert installer.missed == {}


def test_a_flip_is_on_its_way_until_the_engine_tells_of_it_or_takes_too_long() -> None:
    installer, _ = an_installer()
    perform(installer, install.Serve(OLD))
    assert installer.is_flipping(0.1)
    installer.note_flip(a_flip(NEW))
    assert installer.is_flipping(0.1)
    assert not installer.is_flipping(LONGEST_FLIP_S)
    installer.note_flip(a_flip(OLD))
    assert not installer.is_flipping(0.1)


def test_what_answers_already_is_no_flip_but_for_the_end_of_a_split() -> None:
    installer, _ = an_installer()
    installer.note_flip(a_flip(OLD))
    perform(installer, install.Serve(OLD))
    assert not installer.is_flipping(0.1)
    perform(installer, install.Share(NEW, Split()))
    installer.note_flip(a_flip(NEW, share=0.5))
    perform(installer, install.Serve(OLD))
    assert installer.is_flipping(0.1)


def a_loaded(policy: SwapPolicy) -> engine.Loaded:
    proof = Proof("1.31.1", a_digest("outputs"), 12.0, 60, 90)
    return engine.Loaded(ALIAS, WANTED.deployment, NEW, proof=proof, policy=policy)


@pytest.mark.parametrize("policy", [SwapPolicy.AVAILABILITY, SwapPolicy.RESOURCE])
def test_what_a_bundle_showed_comes_to_the_machine(policy: SwapPolicy) -> None:
    installer, _ = an_installer()
    (told,) = installer.read(a_loaded(policy), install.Idle(), 7.0)
    shown = install.Shown(
        runtime="onnxruntime",
        runtime_version="1.31.1",
        outputs=a_digest("outputs"),
        memory_bytes=60,
    )
    alone = policy is SwapPolicy.RESOURCE
    assert told == Installed(ALIAS, install.Loaded(WANTED.deployment, 7.0, shown, alone))


def test_a_worker_that_dies_ends_what_watches_it_and_nothing_else() -> None:
    installer, _ = an_installer()
    died = engine.WorkerDied(ALIAS, NEW, "SIGSEGV")
    watched = install.Probation(wanted=WANTED, confirmed=(OLD,), revoked=frozenset(), began_s=0.0)
    shadowing = install.Shadowing(wanted=WANTED, confirmed=(OLD,), revoked=frozenset(), began_s=0.0)
    for state in (watched, shadowing):
        (told,) = installer.read(died, state, 0.0)
        sickened = install.Sickened(WANTED.deployment, Reason.WORKER_DIED, "SIGSEGV")
        assert told == Installed(ALIAS, sickened)
    assert list(installer.read(died, install.Idle((NEW,)), 0.0)) == []
    assert list(installer.read(engine.WorkerDied(ALIAS, OLD, ""), watched, 0.0)) == []
