"""Cards for tests of sources, and models that people use, found where pip put them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path

from wherry.names import parse_model_name, parse_version_name
from wherry.signature import BATCH, Datatype, Signature, StatePair, Tensor
from wherry_controller.core.card import Card, Constant, Data, MetricName, Source, SourceKind, Task

SPEECH = Signature(
    (
        Tensor("input", Datatype.FP32, (BATCH, 576)),
        Tensor("state", Datatype.FP32, (BATCH, 2, 128)),
    ),
    (
        Tensor("output", Datatype.FP32, (BATCH, 1)),
        Tensor("stateN", Datatype.FP32, (BATCH, 2, 128)),
    ),
    states=(StatePair("stateN", "state"),),
)
CONTENT = Signature(
    (Tensor("bytes", Datatype.INT32, (BATCH, 2048)),),
    (Tensor("target_label", Datatype.FP32, (BATCH, 214)),),
)


def a_card_of(
    kind: SourceKind,
    file: str,
    signature: Signature,
    *,
    factory: str | None = None,
    names: Mapping[str, str] | None = None,
    constants: Mapping[str, Constant] | None = None,
    external_data: tuple[str, ...] = (),
) -> Card:
    return Card(
        model=parse_model_name("a-model"),
        version=parse_version_name("v1"),
        source=Source(
            kind=kind,
            file=file,
            factory=factory,
            names=dict(names or {}),
            constants=dict(constants or {}),
            external_data=external_data,
        ),
        signature=signature,
        task=Task(output=signature.outputs[0].name, metric=MetricName.MAE),
        data=Data(evaluation="evaluation.npz"),
    )


def silero(file: str) -> Path:
    """Return a file of the voice activity detector silero-vad."""
    return Path(str(distribution("silero-vad").locate_file(f"silero_vad/data/{file}")))


def magika() -> Path:
    """Return the model that tells kinds of content by their bytes."""
    return Path(str(distribution("magika").locate_file("magika/models/standard_v3_3/model.onnx")))
