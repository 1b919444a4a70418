"""Versions of scikit-learn: pipelines and ensembles on the data sets that come with it."""

from __future__ import annotations

from pathlib import Path

import joblib
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.datasets import load_digits, load_wine
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wherry.names import parse_model_name, parse_version_name
from wherry.signature import BATCH, Datatype, Signature, Tensor
from wherry_controller.core.card import Card, Data, Goal, Source, SourceKind, Task

CALIBRATION = 40


def a_table_card(columns: int, classes: int, *, file: str = "model.joblib") -> Card:
    return Card(
        model=parse_model_name("table"),
        version=parse_version_name("v1"),
        source=Source(kind=SourceKind.SKLEARN, file=file),
        signature=Signature(
            (Tensor("columns", Datatype.FP32, (BATCH, columns)),),
            (Tensor("chances", Datatype.FP32, (BATCH, classes)),),
        ),
        task=Task(output="chances"),
        data=Data(evaluation="evaluation.npz", calibration="calibration.npz"),
        goal=Goal(floor=0.85, largest_drop=0.02),
    )


def write_digits_version(folder: Path) -> Card:
    """Write a scaler before a net of one hidden layer, on 8x8 digits."""
    net = make_pipeline(
        StandardScaler(), MLPClassifier((256,), early_stopping=True, tol=0.01, random_state=1)
    )
    _write(folder, net, *load_digits(return_X_y=True))
    return a_table_card(64, 10)


def write_wine_version(folder: Path) -> Card:
    """Write boosted trees, whose loss is an object compiled without attributes."""
    trees = GradientBoostingClassifier(n_estimators=10, random_state=1)
    _write(folder, trees, *load_wine(return_X_y=True))
    return a_table_card(13, 3)


def write_forest_version(folder: Path) -> Card:
    """Write a scaler before a forest, whose thresholds the scaler's rounding crosses."""
    forest = make_pipeline(StandardScaler(), RandomForestClassifier(30, random_state=1))
    columns, labels = load_digits(return_X_y=True)
    _write(folder, forest, columns * 1.37 + 0.11, labels)
    return a_table_card(64, 10)


def write_line_version(folder: Path) -> Card:
    """Write a scaler before a logistic regression."""
    line = make_pipeline(StandardScaler(), LogisticRegression())
    _write(folder, line, *load_wine(return_X_y=True))
    return a_table_card(13, 3)


def _write(folder: Path, model: BaseEstimator, columns: np.ndarray, labels: np.ndarray) -> None:
    order = np.random.default_rng(1).permutation(len(labels))
    rows, classes = columns[order].astype(np.float32), labels[order].astype(np.int64)
    half = len(rows) // 2
    joblib.dump(model.fit(rows[:half], classes[:half]), folder / "model.joblib")
    np.savez(folder / "calibration.npz", columns=rows[:CALIBRATION])
    np.savez(folder / "evaluation.npz", columns=rows[half:], labels=classes[half:])
