"""Tests of bad input: each ends as one sentence by its reason, with nothing made and a log."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tests.controller.builder.real.hostile import CODE
from tests.controller.builder.real.orders import order
from tests.controller.builder.versions import a_card, a_profile_named
from wherry.profile import Precision
from wherry_controller.core.build import Built, Limits
from wherry_controller.core.card import Card, Source, SourceKind
from wherry_controller.core.fault import REMEDIES, BuildReason, BuildRefused
from wherry_controller.services.child import BuildCrashed

pytestmark = pytest.mark.system

FP32 = a_profile_named("x86-onnx-fp32")


@pytest.fixture(scope="module")
def spoiled(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the version with hostile code, broken files and a key beside it."""
    folder = tmp_path_factory.mktemp("spoiled") / "version"
    shutil.copytree(version, folder)
    (folder.parent / "key.pem").write_text("a key")
    (folder / "hostile.py").write_text(CODE)
    weights = (folder / "weights.pt").read_bytes()
    (folder / "cut_weights.pt").write_bytes(weights[: len(weights) // 2])
    _write_rows(folder)
    _write_pickles(folder)
    return folder


def _write_rows(folder: Path) -> None:
    with np.load(folder / "calibration.npz") as rows:
        images = rows["image"][:40]
    np.savez(folder / "other_scale.npz", image=images * 255)
    with np.load(folder / "evaluation.npz") as rows:
        np.savez(folder / "other_labels.npz", image=rows["image"], labels=rows["labels"] + 5)


class _Opens:
    """An object whose pickle calls a function when it is read."""

    def __init__(self, function: object, argument: object) -> None:
        self.call = (function, (argument,))

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


def _write_pickles(folder: Path) -> None:
    for name, call in (
        ("reads.joblib", _Opens(open, str(folder.parent / "key.pem"))),
        ("runs.pt", _Opens(os.system, f"touch {folder / 'left'}")),
    ):
        (folder / name).write_bytes(pickle.dumps(call))
    (folder / "cut.joblib").write_bytes(pickle.dumps(list(range(1000)))[:100])


def hostile(name: str) -> Card:
    card = a_card(factory=f"hostile.py:{name}")
    return replace(card, source=replace(card.source, code=("net.py",)))


def pickled(name: str) -> Card:
    return replace(a_card(), source=Source(kind=SourceKind.SKLEARN, file=name))


def rows_of(**files: str) -> Card:
    return replace(a_card(), data=replace(a_card().data, **files))


REFUSED = [
    (hostile("writes"), BuildReason.FACTORY_NOT_IMPORTABLE, "Permission denied"),
    (hostile("leaves"), BuildReason.CONVERTER_CRASHED, "ended with status 0; its log is version"),
    (hostile("crashes"), BuildReason.CONVERTER_CRASHED, "SIGSEGV; its log is version.log"),
    (hostile("interrupts"), BuildReason.CONVERTER_CRASHED, "KeyboardInterrupt"),
    (a_card(state_dict="cut_weights.pt"), BuildReason.SOURCE_UNREADABLE, "cut_weights.pt"),
    (a_card(state_dict="runs.pt"), BuildReason.SOURCE_UNREADABLE, "runs.pt"),
    (a_card(state_dict="none.pt"), BuildReason.SOURCE_UNREADABLE, "none.pt"),
    (pickled("reads.joblib"), BuildReason.SOURCE_UNREADABLE, "Permission denied"),
    (pickled("cut.joblib"), BuildReason.SOURCE_UNREADABLE, "cut.joblib cannot be read"),
    (rows_of(calibration="other_scale.npz"), BuildReason.CALIBRATION_STRAYS, "from 0 to 255"),
    (rows_of(evaluation="other_labels.npz"), BuildReason.LABELS_MISFIT, "there are 10 classes"),
]


@pytest.mark.parametrize(("card", "reason", "words"), REFUSED, ids=[one[2] for one in REFUSED])
def test_bad_input_ends_as_one_sentence_and_leaves_nothing(
    spoiled: Path, tmp_path: Path, card: Card, reason: BuildReason, words: str
) -> None:
    ended = order(card, spoiled, tmp_path, [FP32])
    assert (ended.refused.reason, ended.refused.profile) == (reason, None)
    assert words in ended.refused.detail
    assert ended.refused.detail.endswith(f"{REMEDIES[reason]}.")
    assert ended.left == []
    assert not (spoiled / "left").exists()


def test_a_net_that_never_comes_is_ended_by_its_deadline(spoiled: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildRefused) as refusal:
        order(hostile("loops"), spoiled, tmp_path, [FP32], Limits(deadline_s=4))
    assert refusal.value.fault.reason is BuildReason.OUT_OF_TIME


def test_a_net_that_eats_all_memory_is_ended_by_its_limit(spoiled: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildRefused) as refusal:
        order(hostile("eats"), spoiled, tmp_path, [FP32], Limits(memory_bytes=1 << 30))
    assert refusal.value.fault.reason is BuildReason.OUT_OF_MEMORY


def test_a_net_that_kills_its_builder_ends_that_build_only(spoiled: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildCrashed, match="exit status"):
        order(hostile("kills_all"), spoiled, tmp_path, [FP32])


def test_what_a_net_s_code_prints_and_leaves_running_disturbs_nothing(
    spoiled: Path, tmp_path: Path
) -> None:
    ended = order(hostile("chats"), spoiled, tmp_path, [FP32])
    (built,) = (one for one in ended.messages if isinstance(one, Built))
    assert built.profile == FP32.name
    assert ended.log.count("refused") >= 20_000


def test_an_operator_that_no_converter_takes_is_named_with_its_layer(
    spoiled: Path, tmp_path: Path
) -> None:
    ended = order(hostile("make_unknown"), spoiled, tmp_path, [FP32])
    assert ended.refused.profile == FP32.name
    assert ended.refused.reason is BuildReason.UNSUPPORTED_OPERATOR
    assert "the operator aten.linalg_eig of the layer '8'" in ended.refused.detail


def test_where_no_candidate_meets_the_goals_the_nearest_are_shown(
    spoiled: Path, tmp_path: Path
) -> None:
    precisions = (Precision.FP32, Precision.FP16)
    best = replace(FP32, precisions=precisions, metric_floor=0.999)
    ended = order(a_card(), spoiled, tmp_path, [best])
    refused = ended.refused
    assert refused.reason is BuildReason.BELOW_FLOOR
    assert "no candidate meets the goals; nearest are" in refused.detail
    assert "and the floor is 0.9990" in refused.detail
    assert refused.report is not None
    assert refused.report.chosen is None
    assert [one.name for one in refused.report.candidates] == ["fp32", "fp16"]
