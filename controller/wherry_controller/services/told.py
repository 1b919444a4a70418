"""What a person is told of a build: how far it is, why it ended so, and where its log is."""

from __future__ import annotations

from collections.abc import Sequence

from wherry.names import ProfileName
from wherry_controller.core import build as said
from wherry_controller.core.build import Refused
from wherry_controller.core.choice import DeviceFigures
from wherry_controller.store.records import Build, ProfileProgress, Progress, TrialRecord


def advanced(progress: Progress, message: said.Progress) -> Progress:
    """Return a build's progress after a message of its builder."""
    profiles = dict(progress.profiles)
    if message.profile is not None:
        profiles[message.profile] = ProfileProgress(message.step.value, message.done, message.total)
    step = f"{message.step.value} {message.profile or ''}".strip()
    return Progress(step, message.done, message.total, profiles)


def sentence_of(refusal: Refused) -> str:
    return f"{refusal.profile}: {refusal.detail}" if refusal.profile else refusal.detail


def where_log(build: Build, profiles: Sequence[ProfileName] = ()) -> str:
    """Say where the logs are of a build, and of those of its profiles that were refused."""
    which = f" --profile {profiles[0]}" if len(profiles) == 1 else ""
    return f"Its log: `wherry model log {build.id}{which}`."


def unmeasured(
    build: Build, measured: Sequence[DeviceFigures], trials: Sequence[TrialRecord]
) -> str:
    """Say of which profiles no device measured anything though some were asked to, and why."""
    silent = sorted(set(build.profiles) - {one.profile for one in measured})
    if build.measure_on is None or not silent:
        return ""
    said = {
        one.device: f"{one.device}: {one.result.reason.value}, {one.result.detail}"
        for one in trials
        if one.result is not None and one.result.reason is not None and one.profile in silent
    }
    why = f" ({'; '.join(said[device] for device in sorted(said))})" if said else ""
    return (
        f"No device in {build.measure_on!r} measured for {', '.join(silent)}{why}, so none judged: "
        "see with `wherry device list` that one of the profile is online and idle."
    )


def why_failed(build: Build) -> str:
    return (
        f"the controller died {build.attempts} times while this build ran: look into "
        f"`wherry model log {build.id}` and the controller's log, and order it again."
    )
