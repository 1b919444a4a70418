"""`wherry rollout`: one version's way to some groups, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from wherry.messages import Shadow, SwapPolicy
from wherry_controller.cli import show
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.cli.profile import read_file
from wherry_controller.cli.quantities import seconds_of, share_of
from wherry_controller.cli.remote import Remote, connect
from wherry_controller.cli.replies import (
    Finding,
    Page,
    Rollout,
    Stage,
    StageDevice,
    read,
    reference,
)
from wherry_controller.core.rollout import RolloutStatus
from wherry_controller.core.sides import COLUMNS as SIDES
from wherry_controller.core.sides import Compared, RolloutSides, cells_of, shown
from wherry_controller.core.written import tables_in

app = typer.Typer(no_args_is_help=True, help="Versions on their way through groups.")

POLL_S = 1.0
COLUMNS = (
    "device",
    "bundle",
    "status",
    "reason",
    "attested p50 / p99 ms",
    "agreement",
    "accuracy / before",
    "labels",
    "median ms / before",
)
OPTIONAL = ("attested p50 / p99 ms", "agreement")
Name = Annotated[str, typer.Argument(metavar="ROLLOUT")]


@app.command()
def create(
    name: Name,
    version: Annotated[str, typer.Argument(metavar="MODEL:VERSION")],
    stages: Annotated[
        list[str],
        typer.Option(
            "--stage",
            "-s",
            metavar="[NAME=]GROUP",
            help="A stage, in order; the first is the canary.",
        ),
    ],
    *,
    alias: Annotated[str, typer.Option(help="The name that applications ask for.")] = "default",
    gate: Annotated[
        Path | None, typer.Option(help="What every stage must show, in TOML; else the defaults.")
    ] = None,
    probation_s: Annotated[float | None, typer.Option("--probation-s", min=0)] = None,
    deadline_s: Annotated[float | None, typer.Option("--deadline-s", min=0)] = None,
    needs: Annotated[
        list[str] | None,
        typer.Option(
            "--needs",
            metavar="ALIAS=RELEASE",
            help="The least release of another alias that a device must have; repeatable.",
        ),
    ] = None,
    policy: Annotated[
        SwapPolicy | None,
        typer.Option(help="What is resident while one bundle follows another."),
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="First give it copies of this share of the requests, as 10%."
        ),
    ] = None,
    shadow_for: Annotated[
        str | None, typer.Option(metavar="TIME", help="Shadow at least so long, as 5m.")
    ] = None,
    shadow_requests: Annotated[
        int | None, typer.Option(min=0, help="Shadow until so many requests were compared.")
    ] = None,
    shadow_within: Annotated[
        str | None, typer.Option(metavar="TIME", help="Give up shadowing after so long, as 1h.")
    ] = None,
    min_agreement: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE", help="A device refuses a candidate that agrees less often, as 0.9."
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="While watched it answers only this share, as 20%."),
    ] = None,
    start: Annotated[bool, typer.Option("--start", help="Start it at once.")] = False,
    json: show.Json = False,
) -> None:
    """Create a rollout; it orders nothing before it is started."""
    model, version_name = reference(version)
    wish: dict[str, object] = {
        "name": name,
        "model": model,
        "version": version_name,
        "alias": alias,
        "stages": [_stage(text) for text in stages],
        "needs": dict(_need(text) for text in needs or []),
    }
    given = {"probation_s": probation_s, "deadline_s": deadline_s}
    wish |= {key: value for key, value in given.items() if value is not None}
    spans = {"for_s": shadow_for, "deadline_s": shadow_within}
    shares = {"share": shadow, "min_agreement": min_agreement}
    shadowing = _shadow(shares, spans, shadow_requests)
    dividing = None if split is None else {"share": share_of(split)}
    chosen = {"policy": policy, "shadow": shadowing, "split": dividing}
    wish |= {key: value for key, value in chosen.items() if value is not None}
    if gate is not None:
        wish["gate"] = _read_gate(gate)
    remote = connect()
    body = remote.post("/rollouts", wish)
    if start:
        body = remote.post(f"/rollouts/{name}/start")
    _say(body, json=json)


@app.command("list")
def list_rollouts(
    *, json: show.Json = False, limit: show.Limit = 100, cursor: show.Cursor = None
) -> None:
    """List the rollouts, the newest first."""
    body = connect().get("/rollouts", limit=limit, cursor=cursor)
    if json:
        show.raw(body)
        return
    page = read(Page[Rollout], body)
    rows = [
        (one.name, f"{one.model}:{one.version}", one.alias, one.status, one.why)
        for one in page.items
    ]
    columns = ("rollout", "version", "alias", "status", "why")
    show.table(columns, rows, more=page.next_cursor)


@app.command()
def status(name: Name, *, json: show.Json = False) -> None:
    """Show a rollout: its stages, the verdict on each with the evidence, and the devices."""
    body = connect().get(f"/rollouts/{name}")
    if json:
        show.raw(body)
    else:
        _show(read(Rollout, body))


@app.command()
def sides(
    name: Name,
    *,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write it as a page into this file instead.")
    ] = None,
    json: show.Json = False,
) -> None:
    """Compare the candidate with the devices' incumbents, by profile and by device."""
    path = f"/rollouts/{name}/sides"
    if html is not None:
        html.write_bytes(connect().get(f"{path}.html"))
        show.line(f"{html} is written.")
        return
    body = connect().get(path)
    if json:
        show.raw(body)
        return
    found = read(RolloutSides, body)
    show.line("each figure is candidate / incumbent")
    _show_sides(("profile",), [((name,), one) for name, one in found.profiles.items()])
    show.line("")
    devices = [((one.device, one.profile), one.sides) for one in found.devices]
    _show_sides(("device", "profile"), devices)


@app.command()
def watch(name: Name, *, json: show.Json = False) -> None:
    """Follow a rollout to its end; exit status 1 if that is not success."""
    body = _follow(connect(), name)
    rollout = read(Rollout, body)
    if json:
        show.raw(body)
    else:
        _show(rollout)
    if rollout.status is not RolloutStatus.SUCCEEDED:
        why = rollout.why or "nobody said why"
        problem = f"rollout {name} is {rollout.status}: {why}; see `wherry rollout status {name}`."
        raise Ended(Exit.FAILED, problem)


@app.command()
def start(name: Name, *, json: show.Json = False) -> None:
    """Begin the first stage."""
    _say(connect().post(f"/rollouts/{name}/start"), json=json)


@app.command()
def pause(name: Name, *, json: show.Json = False) -> None:
    """Begin no further stage until it is resumed."""
    _say(connect().post(f"/rollouts/{name}/pause"), json=json)


@app.command()
def resume(name: Name, *, json: show.Json = False) -> None:
    """Go on where it was paused."""
    _say(connect().post(f"/rollouts/{name}/resume"), json=json)


@app.command()
def cancel(name: Name, *, json: show.Json = False) -> None:
    """End it where it stands: devices under way go back, confirmed ones keep the version."""
    _say(connect().post(f"/rollouts/{name}/cancel"), json=json)


@app.command()
def revert(name: Name, *, json: show.Json = False) -> None:
    """Order every device that it reached back to what it served before."""
    _say(connect().post(f"/rollouts/{name}/revert"), json=json)


def _stage(text: str) -> dict[str, str]:
    name, _, group = text.rpartition("=")
    return {"name": name or group, "group": group}


def _shadow(
    shares: Mapping[str, str | None], spans: Mapping[str, str | None], least: int | None
) -> dict[str, object] | None:
    """Return how to shadow, of what was said of it; None where nothing was."""
    said: dict[str, object] = {name: share_of(one) for name, one in shares.items() if one}
    said |= {name: seconds_of(one) for name, one in spans.items() if one}
    said |= {} if least is None else {"min_requests": least}
    if said and "share" not in said:
        raise Ended(Exit.USAGE, "it says how to shadow and not how much: add --shadow, as 10%.")
    return said or None


def _need(text: str) -> tuple[str, int]:
    alias, _, release = text.partition("=")
    if not (alias and release.isdecimal()):
        raise Ended(Exit.USAGE, f"{text!r} names no release: write it ALIAS=RELEASE.")
    return alias, int(release)


def _read_gate(file: Path) -> dict[str, object]:
    try:
        return tables_in(read_file(file))
    except ValueError as error:
        raise Ended(Exit.USAGE, f"{file} is no TOML ({error}): correct the file.") from error


def _say(body: bytes, *, json: bool) -> None:
    if json:
        show.raw(body)
    else:
        rollout = read(Rollout, body)
        why = f": {rollout.why}" if rollout.status is RolloutStatus.SCHEDULED else ""
        show.line(f"rollout {rollout.name} is {rollout.status}{why}.")


def _show(rollout: Rollout) -> None:
    show.facts(
        [
            ("rollout", rollout.name),
            ("version", f"{rollout.model}:{rollout.version} as {rollout.alias}"),
            ("release", "" if rollout.release is None else str(rollout.release)),
            ("needs", ", ".join(f"{alias}={least}" for alias, least in rollout.needs.items())),
            ("policy", "" if rollout.policy is SwapPolicy.AUTO else rollout.policy.value),
            ("shadow", _shadowing(rollout.shadow)),
            ("split", f"{rollout.split.share:.0%}" if rollout.split else ""),
            ("status", rollout.status),
            ("stopped by", rollout.stopped_by or ""),
            ("why", rollout.why),
        ]
    )
    for stage in rollout.stages:
        show.line("")
        show.line(f"stage {stage.name} ({stage.group}): {stage.status}")
        if stage.verdict is not None:
            show.line(f"  {stage.verdict.decision}: {stage.verdict.sentence}")
        _show_devices(stage)


def _shadowing(shadow: Shadow | None) -> str:
    if shadow is None:
        return ""
    agreeing = shadow.min_agreement
    least = "" if agreeing is None else f", agreeing on {agreeing:.0%} at least"
    return (
        f"{shadow.share:.0%} for {shadow.for_s:g} s and {shadow.min_requests} requests, "
        f"within {shadow.deadline_s:g} s{least}"
    )


def _show_devices(stage: Stage) -> None:
    """Print a row a device, without the columns that nothing stands in."""
    findings = {one.device: one for one in stage.verdict.findings} if stage.verdict else {}
    rows = [(*_place(one), *_evidence(findings.get(one.device))) for one in stage.devices]
    kept = [
        index
        for index, name in enumerate(COLUMNS)
        if name not in OPTIONAL or any(row[index] for row in rows)
    ]
    show.table([COLUMNS[i] for i in kept], [[row[i] for i in kept] for row in rows])


def _place(device: StageDevice) -> tuple[str, ...]:
    receipt = device.receipt
    attested = ""
    if receipt is not None:
        attested = f"{show.milliseconds(receipt.p50_ms)} / {show.milliseconds(receipt.p99_ms)}"
    bundle = show.short(device.bundle)
    return device.device, bundle, _standing(device), device.reason or "", attested


def _evidence(found: Finding | None) -> tuple[str, ...]:
    if found is None:
        return "", "", "", ""
    return (
        show.share(found.agreement),
        f"{show.share(found.accuracy)} / {show.share(found.incumbent_accuracy)}",
        str(found.labels),
        f"{show.milliseconds(found.median_ms)} / {show.milliseconds(found.incumbent_median_ms)}",
    )


def _show_sides(names: Sequence[str], found: Sequence[tuple[Sequence[str], Compared]]) -> None:
    cells = [cells_of(one) for _, one in found]
    kept = shown(cells)
    rows = [
        (*words, *(row[at] for at in kept)) for (words, _), row in zip(found, cells, strict=True)
    ]
    show.table((*names, *(SIDES[at] for at in kept)), rows)


def _standing(device: StageDevice) -> str:
    """Say where a device stands: what it is at, as long as it is under way."""
    return device.phase or device.status or ""


def _follow(remote: Remote, name: str) -> bytes:
    """Return the rollout's last state, drawing a bar for each stage until then."""
    columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn())
    with show.bars(*columns, TextColumn("{task.fields[verdict]}", markup=False)) as bars:
        tasks: dict[str, TaskID] = {}
        while True:
            body = remote.get(f"/rollouts/{name}")
            rollout = read(Rollout, body)
            for stage in rollout.stages:
                if stage.name not in tasks:
                    tasks[stage.name] = bars.add_task(stage.name, verdict="")
                _draw(bars, tasks[stage.name], stage)
            if rollout.is_over:
                return body
            time.sleep(POLL_S)


def _draw(bars: Progress, task: TaskID, stage: Stage) -> None:
    done = sum(device.is_over for device in stage.devices)
    verdict = stage.verdict.sentence if stage.verdict else stage.status
    bars.update(task, total=len(stage.devices), completed=done, verdict=verdict)
