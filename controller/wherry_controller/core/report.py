"""What builds found of a version, and how a person is told the figures of it."""

from __future__ import annotations

import msgspec

from wherry.names import Digest, ModelName, VersionName
from wherry_controller.core.choice import Candidate, ProfileReport, Score


class ProfilePart(msgspec.Struct, frozen=True, kw_only=True):
    """A profile's report; `bundle` is the variant that stands, `tools` are versions by name."""

    build: str
    built_at: float
    bundle: Digest | None
    tools: dict[str, str]
    report: ProfileReport


class VersionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What builds found of a version, by profile; `reference` are its weights as safetensors."""

    model: ModelName
    version: VersionName
    lineage: Digest
    reference: Digest | None
    profiles: tuple[ProfilePart, ...]


FIGURES = ("size", "smaller", "p50 ms", "faster", "metric", "drop [95 %]", "agreement")


def figures_of(candidate: Candidate, base: Candidate) -> tuple[str, ...]:
    """Return the `FIGURES` of a candidate in words, empty where nothing was measured.

    Smaller and faster are by how many times in comparison with `base`, the float candidate.
    """
    latency, score = candidate.latency, score_of(candidate)
    return (
        size(candidate.size_bytes),
        _times(base.size_bytes, candidate.size_bytes),
        f"{latency.p50_ms:.3f}" if latency else "",
        f"{latency.speed_ratio:.2f}x" if latency else "",
        f"{score.value:.4f}" if score else "",
        _drop(score),
        f"{score.agreement:.4f}" if score and score.agreement is not None else "",
    )


BRIEF = ("size", "p50 ms", "faster", "metric", "drop [95 %]")


def brief_of(candidate: Candidate) -> tuple[str, ...]:
    """Return the `BRIEF` figures of a candidate, for a terminal of 80 columns."""
    latency, score = candidate.latency, score_of(candidate)
    return (
        size(candidate.size_bytes),
        f"{latency.p50_ms:.3f}" if latency else "",
        f"{latency.speed_ratio:.2f}x" if latency else "",
        f"{score.value:.4f}" if score else "",
        f"{score.drop:+.4f} ±{score.drop_high - score.drop:.4f}" if score else "",
    )


def mark_of(candidate: Candidate, report: ProfileReport) -> str:
    """Return what became of a candidate in one word."""
    if candidate.name == report.chosen:
        return "chosen"
    if candidate.fault is not None:
        return candidate.fault.value
    return "good" if candidate.on_pareto else "beaten"


def score_of(candidate: Candidate) -> Score | None:
    """Return the score that judges, or the search's where it went no further."""
    return candidate.judged or candidate.searched


def chosen_of(report: ProfileReport) -> Candidate | None:
    """Return the candidate that is shipped."""
    return next((one for one in report.candidates if one.name == report.chosen), None)


def verdict_of(candidate: Candidate, report: ProfileReport) -> str:
    """Return in a few words what became of a candidate."""
    if candidate.name == report.chosen:
        return "chosen"
    if candidate.fault is not None:
        return f"{candidate.fault.value}: {candidate.problem}"
    return "good, and none beats it in all" if candidate.on_pareto else "good, and beaten"


def size(size_bytes: int | None) -> str:
    """Return a length in the unit that suits it."""
    if size_bytes is None:
        return ""
    return f"{size_bytes / 1e6:.2f} MB" if size_bytes >= 100_000 else f"{size_bytes / 1e3:.1f} kB"


def _times(base: int | None, mine: int | None) -> str:
    return f"{base / mine:.2f}x" if base and mine else ""


def _drop(score: Score | None) -> str:
    if score is None:
        return ""
    return f"{score.drop:+.4f} [{score.drop_low:+.4f}, {score.drop_high:+.4f}]"
