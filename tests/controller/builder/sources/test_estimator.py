"""Tests of scikit-learn sources: pipelines on real flowers, exported and compared."""

from __future__ import annotations

from pathlib import Path

import joblib
import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer, StandardScaler
from sklearn.svm import LinearSVC

from tests.controller.builder.sources.cards import a_card_of
from wherry.signature import BATCH, Datatype, Signature, Tensor
from wherry_controller.builder.data.rows import Array, Tensors
from wherry_controller.builder.sources import open_source
from wherry_controller.core.card import Card, SourceKind
from wherry_controller.core.fault import BuildReason, BuildRefused

pytestmark = pytest.mark.system

LARGEST_DISTANCE = 1e-5
FLOWER = Tensor("flower", Datatype.FP32, (BATCH, 4))
CHANCES = Tensor("chances", Datatype.FP32, (BATCH, 3))
KIND = Tensor("kind", Datatype.INT64, (BATCH,))
BOTH = Signature((FLOWER,), (CHANCES, KIND))


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
        RandomForestClassifier(5, random_state=0),
        make_pipeline(
            ColumnTransformer([("scaled", StandardScaler(), [0, 2])], remainder="passthrough"),
            LogisticRegression(max_iter=500),
        ),
    ],
    ids=["pipeline", "forest", "columns"],
)
def test_a_classifier_gives_chances_and_labels_by_the_signatures_names(
    tmp_path: Path, estimator: LogisticRegression
) -> None:
    flowers, kinds = _iris()
    _assert_same(_fitted(tmp_path, estimator, kinds, BOTH), tmp_path, {"flower": flowers})


def test_the_inputs_of_a_signature_are_the_columns_side_by_side(tmp_path: Path) -> None:
    flowers, kinds = _iris()
    sides = Signature(
        (
            Tensor("sepal", Datatype.FP32, (BATCH, 2)),
            Tensor("petal", Datatype.FP32, (BATCH, 2)),
        ),
        (KIND,),
    )
    card = _fitted(tmp_path, make_pipeline(StandardScaler(), LogisticRegression()), kinds, sides)
    _assert_same(card, tmp_path, {"sepal": flowers[:, :2], "petal": flowers[:, 2:]})


def test_a_regressor_gives_its_prediction(tmp_path: Path) -> None:
    flowers, _ = _iris()
    signature = Signature(
        (Tensor("flower", Datatype.FP32, (BATCH, 4)),),
        (Tensor("width", Datatype.FP32, (BATCH, 1)),),
    )
    card = _fitted(tmp_path, LinearRegression(), flowers[:, 3], signature)
    _assert_same(card, tmp_path, {"flower": flowers})


def test_what_was_learned_is_kept_as_arrays(tmp_path: Path) -> None:
    _, kinds = _iris()
    forest = RandomForestClassifier(2, random_state=0)
    source = open_source(_fitted(tmp_path, forest, kinds, BOTH), tmp_path)
    source.to_safetensors(tmp_path / "kept.safetensors")
    kept = load_file(tmp_path / "kept.safetensors")
    thresholds = kept["estimators_.1.tree_.threshold"]
    np.testing.assert_array_equal(thresholds, forest.estimators_[1].tree_.threshold)


def test_no_litert_is_made_of_an_estimator(tmp_path: Path) -> None:
    _, kinds = _iris()
    source = open_source(_fitted(tmp_path, LogisticRegression(), kinds, BOTH), tmp_path)
    with pytest.raises(BuildRefused) as refusal:
        source.to_lite({}, tmp_path / "net.tflite")
    assert refusal.value.fault.reason is BuildReason.NO_RECIPE


def test_a_step_that_onnx_cannot_express_is_named(tmp_path: Path) -> None:
    _, kinds = _iris()
    pipeline = make_pipeline(SplineTransformer(), LogisticRegression())
    source = open_source(_fitted(tmp_path, pipeline, kinds, BOTH), tmp_path)
    with pytest.raises(BuildRefused) as refusal:
        source.to_onnx(17, {}, tmp_path / "net.onnx")
    assert refusal.value.fault.reason is BuildReason.UNSUPPORTED_OPERATOR
    assert "SplineTransformer" in refusal.value.fault.problem


def test_a_classifier_without_chances_misfits_a_signature_that_has_them(tmp_path: Path) -> None:
    flowers, kinds = _iris()
    source = open_source(_fitted(tmp_path, LinearSVC(), kinds, BOTH), tmp_path)
    with pytest.raises(BuildRefused) as refusal:
        source.run({"flower": flowers})
    assert refusal.value.fault.reason is BuildReason.SIGNATURE_MISFIT


@pytest.mark.parametrize("held", [{"weights": 3}, KernelDensity()], ids=["mapping", "density"])
def test_a_pickle_that_predicts_nothing_is_refused(tmp_path: Path, held: object) -> None:
    joblib.dump(held, tmp_path / "net.joblib")
    with pytest.raises(BuildRefused) as refusal:
        open_source(a_card_of(SourceKind.SKLEARN, "net.joblib", BOTH), tmp_path)
    assert refusal.value.fault.reason is BuildReason.SOURCE_UNREADABLE


def _iris() -> tuple[Array, Array]:
    bunch = load_iris()
    return bunch.data.astype(np.float32), bunch.target.astype(np.int64)


def _fitted(
    folder: Path, estimator: LogisticRegression, answers: Array, signature: Signature
) -> Card:
    estimator.fit(_iris()[0], answers)
    joblib.dump(estimator, folder / "net.joblib")
    return a_card_of(SourceKind.SKLEARN, "net.joblib", signature)


def _assert_same(card: Card, folder: Path, inputs: Tensors) -> None:
    source = open_source(card, folder)
    source.to_onnx(17, inputs, folder / "net.onnx")
    session = onnxruntime.InferenceSession(folder / "net.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    given = dict(zip(names, session.run(names, dict(inputs)), strict=True))
    expected = source.run(inputs)
    assert {name: array.shape for name, array in given.items()} == {
        name: array.shape for name, array in expected.items()
    }
    for name, array in given.items():
        assert np.abs(array - expected[name]).max() < LARGEST_DISTANCE
