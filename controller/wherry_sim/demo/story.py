"""The demo's story, told as it happens: five versions, three profiles, eight devices."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console
from rich.live import Live
from rich.progress import Progress as Bar
from rich.progress import TaskID
from rich.table import Table

from wherry import codec, signing
from wherry.blobs import Blob
from wherry.manifest import MODEL_FILE, Manifest, blobs_of
from wherry.names import Digest, parse_device_id
from wherry_agent.settings import Broker
from wherry_controller.core.rollout import RolloutStatus
from wherry_controller.foundation import read_keys
from wherry_controller.settings import read_settings
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.records import BuildStatus
from wherry_sim.demo import gather
from wherry_sim.demo.intruder import Intruder
from wherry_sim.demo.operator import (
    Build,
    Operator,
    Progress,
    Rollout,
    Variant,
    wait_for,
)
from wherry_sim.demo.plan import (
    FIRST_EPOCHS,
    FLEET,
    FP32,
    INT8,
    KILLED_AFTER_FLIP,
    KILLED_IN_DOWNLOAD,
    LABEL_DELAY_S,
    MODEL,
    MORE_EPOCHS,
    SHADOWED_VERSION,
    SICK_VERSIONS,
    SLOW_LINK_BYTES_PER_S,
    STEADY_RATE,
    VERSIONS,
)
from wherry_sim.demo.processes import Agent, Controller, run_child
from wherry_sim.demo.report import Facts, RefusalRow
from wherry_sim.demo.traffic import Seen
from wherry_sim.demo.watch import Watch


class Story:
    """One run in a folder of its own; `tell` returns what was seen."""

    def __init__(self, folder: Path, console: Console) -> None:
        self._folder = folder
        self._console = console
        self._began_s = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("versions", "answers", "agents"):
            (folder / name).mkdir(parents=True)
        self._controller = Controller(folder / "controller")
        self._agents = [
            Agent(
                id=device,
                profile=profile,
                group=group,
                home=folder / "agents" / device,
                max_bytes_per_s=SLOW_LINK_BYTES_PER_S if device == KILLED_IN_DOWNLOAD else None,
            )
            for device, profile, group in FLEET
        ]
        self._watch = Watch(self._agents)
        self._variants: dict[str, Variant] = {}
        self._refusals: list[RefusalRow] = []

    def tell(self) -> Facts:
        """Play the whole story; stop every process at its end, however it ends."""
        self._train()
        remote = self._controller.start()
        try:
            return self._play(Operator(remote))
        finally:
            self._watch.stop()
            for agent in self._agents:
                if agent.program and agent.program.poll() is None:
                    agent.program.kill()
                agent.stop()
            self._controller.stop()

    def _play(self, operator: Operator) -> Facts:
        self._build(operator)
        self._start_fleet(operator)
        rollouts = [self._roll_out(operator, "v1", "the first model of every device")]
        self._aim_kills()
        rollouts.append(
            self._roll_out(
                operator,
                "v2",
                "trained longer; it shadows v1 first, two agents are killed and a chunk is altered",
                meanwhile=self._alter_chunk_once_canaries_have_it(),
            )
        )
        self._note_altered_chunk()
        rollouts.append(self._roll_out(operator, "v3", "labels shifted by one: only life can tell"))
        rollouts.append(self._roll_out(operator, "v4", "right answers, and far too slow"))
        self._offer_foreign_bundle(operator)
        return self._end(operator, rollouts)

    # 1 and 2: versions and variants

    def _train(self) -> None:
        self._say("Training on 3,300 real MNIST images: v1, v2 (longer), v3 (labels shifted)")
        epochs = {"v1": FIRST_EPOCHS, "v2": MORE_EPOCHS, "v3": FIRST_EPOCHS + MORE_EPOCHS}
        with Bar(console=self._console) as bar:
            tasks = {v: bar.add_task(v, total=total) for v, total in epochs.items()}
            for told in run_child(
                "wherry_sim.demo.training", [str(self._versions)], self._folder / "training.log"
            ):
                version = str(told["version"])
                if "epoch" in told:
                    bar.update(tasks[version], completed=int(str(told["epoch"])))

    def _build(self, operator: Operator) -> None:
        self._say("Building each version for three profiles; the build judges before any device")
        operator.put_profiles(Path(__file__).parent.parent / "profiles")
        builds: list[Build] = []
        with Bar(console=self._console) as bar:
            for version in VERSIONS:
                operator.register(self._versions / version)
                task = bar.add_task(f"build {version}", total=None)
                builds.append(operator.build(version, partial(_show_progress, bar, task)))
                bar.update(task, total=1, completed=1)
        for build in builds:
            if build.status is BuildStatus.SUCCEEDED:
                self._variants |= {variant.bundle: variant for variant in build.variants}
            else:
                self._refusals.append(
                    RefusalRow(what=build.version, by="build", reason=build.reason)
                )
                self._console.print(
                    f"  [red]{build.version} is refused by the build[/]: {build.detail}"
                )
        self._console.print(_variants_table(list(self._variants.values())))
        self._answer_offline(operator)

    def _answer_offline(self, operator: Operator) -> None:
        envelopes: list[str] = []
        for bundle in self._variants:
            path = self._folder / "answers" / f"{bundle}.json"
            path.write_bytes(operator.manifest(bundle))
            envelopes.append(str(path))
        blobs = read_settings(self._controller.folder, {}).blob_folder
        words = [str(self._versions / "live.npz"), str(blobs), str(self._answers), *envelopes]
        for _ in run_child("wherry_sim.demo.offline", words, self._folder / "offline.log"):
            pass

    # 3: the fleet

    def _start_fleet(self, operator: Operator) -> None:
        self._say(
            f"Starting {len(self._agents)} agents, each asked by a local program "
            f"{STEADY_RATE:.0f} times a second (labels follow after {LABEL_DELAY_S} s)"
        )
        for agent in self._agents:
            token = operator.give_token(agent.id, agent.profile)
            agent.enrol(door=self._controller.door, token=token)
        for group in ("canary", "field"):
            operator.put_group(group, [a.id for a in self._agents if a.group == group])
        for agent in self._agents:
            agent.start()
            agent.start_program(self._versions / "live.npz", self._answers)
        self._watch.start()

    # 4 to 7: rollouts

    def _roll_out(
        self,
        operator: Operator,
        version: str,
        what: str,
        meanwhile: Callable[[Rollout], None] = lambda _rollout: None,
    ) -> Rollout:
        self._say(f"Rolling out {version}: {what}")
        self._watch.restless = version in SICK_VERSIONS
        operator.start_rollout(version)
        with Live(console=self._console, refresh_per_second=4) as live:

            def ended() -> Rollout | None:
                rollout = operator.rollout(version)
                live.update(_rollout_table(rollout))
                meanwhile(rollout)
                return None if rollout.status.is_open else rollout

            rollout = wait_for(f"the rollout of {version}", ended)
        if not self._console.is_terminal:
            self._console.line()  # A live table leaves a log's line unfinished.
        by = f", stopped by the {rollout.stopped_by}: {rollout.why}" if rollout.stopped_by else ""
        color = "green" if rollout.status is RolloutStatus.SUCCEEDED else "yellow"
        self._console.print(f"  [{color}]{version} {rollout.status}[/]{by}")
        return rollout

    def _aim_kills(self) -> None:
        self._watch.kill_in_download = {KILLED_IN_DOWNLOAD: self._bundle("v2", FP32)}
        self._watch.kill_after_flip = {KILLED_AFTER_FLIP: self._bundle("v2", INT8)}

    def _alter_chunk_once_canaries_have_it(self) -> Callable[[Rollout], None]:
        done = False

        def alter(rollout: Rollout) -> None:
            nonlocal done
            canaries = rollout.stages[0].devices
            if done or not all(_has_fetched(self._agent(j.device), j.bundle) for j in canaries):
                return
            done = True
            intruder = self._intruder()
            chunk = intruder.alter_chunk(self._manifest(self._bundle("v2", INT8)), self._blobs)
            intruder.close()
            self._console.print(f"  an intruder has altered chunk {chunk[:12]} on the broker")

        return alter

    def _note_altered_chunk(self) -> None:
        for agent in self._agents:
            for line in agent.lines:
                if line.event == "bytes.refused":
                    reason = line.fields["reason"]
                    self._refusals.append(RefusalRow(what="chunk", by=agent.id, reason=reason))
                    self._console.print(f"  {agent.id} refused a chunk: {line.fields['why']}")
                    return

    # 9: a bundle that nobody vouches for

    def _offer_foreign_bundle(self, operator: Operator) -> None:
        self._say("Ordering a ninth agent, by the stolen director key, a bundle nobody vouches for")
        guest = Agent("guest", INT8, "", self._folder / "agents" / "guest")
        guest.enrol(door=self._controller.door, token=operator.give_token(guest.id, guest.profile))
        director = read_keys(read_settings(self._controller.folder, {})).director
        guest.start()
        # Before it is there the controller would have cleared the broker of what is not its own.
        wait_for("the guest", lambda: operator.is_online(guest.id) or None)
        intruder = self._intruder()
        try:
            foreign = intruder.publish_foreign_bundle(self._manifest(self._bundle("v2", INT8)))
            intruder.order(parse_device_id("guest"), foreign, director)
            refused = wait_for("the refusal of the foreign bundle", lambda: _rejection(guest))
        finally:
            intruder.close()
            guest.stop()
        reason, why = refused
        self._refusals.append(RefusalRow(what="foreign bundle", by="guest", reason=reason))
        self._console.print(f"  guest refused it: {why}")

    # The end

    def _end(self, operator: Operator, rollouts: list[Rollout]) -> Facts:
        self._say("Stopping the local programs and adding up")
        seen: dict[str, Seen] = {agent.id: agent.stop_program() for agent in self._agents}
        time.sleep(1.5)  # One more window of telemetry, with the last count of bytes.
        self._watch.stop()
        confirmed = gather.confirmed([operator.rollout(one.version) for one in rollouts])
        manifests = {bundle: self._manifest(bundle) for bundle in self._variants}
        return Facts(
            variants=gather.variants(list(self._variants.values())),
            rollouts=[gather.rollout(rollout) for rollout in rollouts],
            requests=gather.requests(seen, self._watch.kills, self._variants),
            swap=gather.swap(self._agents, seen),
            reverted_devices=gather.reverted(self._agents),
            field_devices_touched_by_sick_versions=gather.touched(
                [agent for agent in self._agents if agent.group == "field"],
                seen,
                {bundle for bundle, v in self._variants.items() if v.version in SICK_VERSIONS},
            ),
            bytes=gather.traffic(
                operator,
                self._agents,
                blobs={blob for manifest in manifests.values() for blob in blobs_of(manifest)},
                envelopes_bytes=sum(
                    (self._answers / f"{bundle}.json").stat().st_size for bundle in manifests
                ),
                deltas_bytes=sum(
                    int(line.fields["bytes"]) for line in self._controller.told("delta.made")
                ),
            ),
            deltas=gather.deltas(
                self._agents,
                self._controller.told("delta.made"),
                {blob.digest: blob for blob in self._models_of("v2")},
            ),
            shadowed=gather.shadowed(operator.sides(SHADOWED_VERSION)),
            confirmed=len(confirmed),
            receipts=sum(journey.receipt is not None for journey in confirmed),
            resume=gather.resume(
                self._agent(KILLED_IN_DOWNLOAD), self._bundle("v2", FP32), self._watch.kills
            ),
            kills=gather.kills(self._watch.kills),
            refusals=self._refusals,
            devices_back_on=gather.serving(self._agents, self._variants),
            seconds=time.monotonic() - self._began_s,
        )

    @property
    def _versions(self) -> Path:
        return self._folder / "versions"

    @property
    def _answers(self) -> Path:
        return self._folder / "answers"

    @property
    def _blobs(self) -> BlobFolder:
        return BlobFolder(read_settings(self._controller.folder, {}).blob_folder)

    def _agent(self, device: str) -> Agent:
        return next(agent for agent in self._agents if agent.id == device)

    def _bundle(self, version: str, profile: str) -> Digest:
        return next(
            Digest(bundle)
            for bundle, variant in self._variants.items()
            if (variant.version, variant.profile) == (version, profile)
        )

    def _manifest(self, bundle: str) -> Manifest:
        envelope = msgspec.json.decode(
            (self._answers / f"{bundle}.json").read_bytes(), type=signing.Envelope
        )
        return codec.decode(Manifest, bytes(envelope.signed))

    def _models_of(self, version: str) -> list[Blob]:
        """Return the model file of each of a version's variants."""
        return [
            self._manifest(bundle).files[MODEL_FILE]
            for bundle, variant in self._variants.items()
            if variant.version == version
        ]

    def _intruder(self) -> Intruder:
        return Intruder(Broker("127.0.0.1", self._controller.broker_port))

    def _say(self, sentence: str) -> None:
        at = time.monotonic() - self._began_s
        self._console.print(f"\n[bold]{at:5.0f} s  {sentence}[/]")


def _show_progress(bar: Bar, task: TaskID, progress: Progress) -> None:
    bar.update(task, total=progress.total, completed=progress.done)


def _has_fetched(agent: Agent, bundle: str) -> bool:
    return any(
        line.event == "deployment.in_progress"
        and line.fields.get("bundle") == bundle
        and line.fields.get("phase") in ("loading", "shadowing", "probation")
        for line in agent.lines
    )


def _rejection(agent: Agent) -> tuple[str, str] | None:
    for line in agent.new_lines():
        if line.event == "deployment.rejected":
            return line.fields["reason"], line.fields["why"]
    return None


def _variants_table(variants: list[Variant]) -> Table:
    table = Table(title=f"variants of {MODEL}, each beside its version's fp32")
    for column in ("version", "profile", "precision", "size", "accuracy", "fp32", "median"):
        table.add_column(column, justify="left" if column in ("version", "profile") else "right")
    for one in variants:
        table.add_row(
            one.version,
            one.profile,
            one.precision.value,
            f"{one.size_bytes / 1e6:.2f} MB",
            f"{one.report.value:.3f}",
            f"{one.report.reference_value:.3f}",
            f"{one.latency.p50_ms:.3f} ms",
        )
    measured = {one.latency.measured_on for one in variants}
    table.caption = "measured on " + "; ".join(sorted(measured))
    return table


def _rollout_table(rollout: Rollout) -> Table:
    table = Table(title=f"{rollout.name}: {rollout.status}")
    for column in ("stage", "gate", "device", "status", "reason"):
        table.add_column(column)
    back = {journey.device: journey for journey in rollout.ways_back}
    for stage in rollout.stages:
        verdict = stage.verdict or {}
        for number, journey in enumerate(stage.devices):
            way_back = back.get(journey.device)
            returned = f", back: {way_back.status}" if way_back else ""
            table.add_row(
                f"{stage.name} ({stage.status})" if number == 0 else "",
                str(verdict.get("sentence", "")) if number == 0 else "",
                journey.device,
                f"{journey.status or '-'}{returned}",
                journey.reason or "",
            )
    return table
