"""Cards, profiles and rows for the tests of judging, small and valid by default."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from wherry.names import parse_model_name, parse_profile_name, parse_version_name
from wherry.profile import Arch, Precision, Profile, Runtime
from wherry.signature import BATCH, Datatype, Signature, StatePair, Tensor
from wherry_controller.builder.data.rows import Array, Rows, Tensors, write_rows
from wherry_controller.core.card import Card, Data, MetricName, Source, SourceKind, Task

ONE_OUTPUT = Signature(
    (Tensor("image", Datatype.FP32, (BATCH, 4)),),
    (Tensor("scores", Datatype.FP32, (BATCH, "classes")),),
)
STATEFUL = Signature(
    (Tensor("sound", Datatype.FP32, (BATCH, 2)), Tensor("state", Datatype.FP32, (BATCH, 3))),
    (Tensor("scores", Datatype.FP32, (BATCH, 1)), Tensor("next", Datatype.FP32, (BATCH, 3))),
    states=(StatePair("next", "state"),),
)
FOLDER = Path()


def a_task(metric: MetricName = MetricName.ACCURACY, *, k: int = 5) -> Task:
    return Task(output="scores", metric=metric, k=k)


def a_card(task: Task | None = None, signature: Signature = ONE_OUTPUT) -> Card:
    return Card(
        model=parse_model_name("digits"),
        version=parse_version_name("v1"),
        source=Source(kind=SourceKind.ONNX, file="net.onnx"),
        signature=signature,
        task=a_task() if task is None else task,
        data=Data(evaluation="evaluation.npz"),
    )


def a_profile(
    runtime: Runtime = Runtime.ONNXRUNTIME, provider: str = "CPUExecutionProvider"
) -> Profile:
    return Profile(
        name=parse_profile_name("bench"),
        arch=Arch.X86_64,
        runtime=runtime,
        runtime_floor="1.0",
        runtime_below="9",
        precisions=tuple(Precision),
        provider=provider,
    )


def rows_of(folder: Path, inputs: Tensors, labels: Tensors | None = None) -> Rows:
    return write_rows(folder, inputs, labels or {})


def one_hot(answers: list[int] | npt.NDArray[np.int64], classes: int) -> Array:
    """Return scores of which the answers are the largest."""
    scores: Array = np.eye(classes, dtype=np.float32)[np.asarray(answers)]
    return scores
