"""The card of a version: what its `model.toml` says of source, signature, task, data and lineage.

The files that a card names lie beside it, by bare names, so a card can lead nowhere else. The
version's lineage digest is over the card and the digests of those files: the same card with the
same bytes is the same version, wherever it was registered.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, TypeAlias

import msgspec

from wherry import codec
from wherry.blobs import digest_of
from wherry.errors import Malformed
from wherry.names import Digest, ModelName, VersionName
from wherry.signature import Signature
from wherry_controller.core.written import read

FileName = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\Z")]
FunctionName = Annotated[
    str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,95}\.py:[A-Za-z_][A-Za-z0-9_]*\Z")
]
# One pattern for both, since msgspec takes one string type in a union.
DataName = Annotated[
    str,
    msgspec.Meta(
        pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
        r"(?:[A-Za-z0-9._-]{0,4}|\.py:[A-Za-z_][A-Za-z0-9_]*)\Z"
    ),
]
AssetName = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9][a-z0-9._-]{0,63}\Z")]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Number: TypeAlias = int | float
Constant: TypeAlias = Number | list[Number]


class BadCard(Malformed):
    """A card whose parts do not fit one another."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"model.toml does not hold together: {self.problem}; correct it."


class SourceKind(StrEnum):
    """In what form the trained state comes."""

    STATE_DICT = "state_dict"  # .pt or .safetensors, and a factory
    EXPORTED_PROGRAM = "exported_program"  # .pt2
    TORCHSCRIPT = "torchscript"
    ONNX = "onnx"
    SKLEARN = "sklearn"  # joblib: a pickle, so it is code


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The trained state, and what it takes to load it.

    A state_dict is loaded into what `factory` (written `net.py:make_net`) makes; `code` are other
    modules that it imports. `external_data` lie beside an ONNX file. `names` maps a tensor of the
    signature to its name in the file; an input of the file that is none of the signature is fixed
    to its value among `constants`.
    """

    kind: SourceKind
    file: FileName
    factory: FunctionName | None = None
    code: tuple[FileName, ...] = ()
    external_data: tuple[FileName, ...] = ()
    names: dict[str, str] = {}
    constants: dict[str, Constant] = {}

    def __post_init__(self) -> None:
        if (self.factory is None) is (self.kind is SourceKind.STATE_DICT):
            raise BadCard("a state_dict needs a factory, and no other kind of source has one")
        if self.external_data and self.kind is not SourceKind.ONNX:
            raise BadCard("only an ONNX source has external_data")


class MetricName(StrEnum):
    """How answers are compared with labels; `function` is the version's own."""

    ACCURACY = "accuracy"
    TOP_K = "top_k"
    F1 = "f1"
    AUC = "auc"
    MAE = "mae"
    MAP = "map"
    FUNCTION = "function"


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the version is for, and how its answers are judged.

    `output` is the tensor that labels are compared with: class scores (`accuracy`, `top_k` of the
    first `k`, macro `f1`), the positive class's score (`auc`), values (`mae`), or the boxes'
    scores (`map`, with the corners in `boxes` and the class numbers in `classes`). `function`
    (written `score.py:score`) takes outputs and labels by name and returns one number a row.
    """

    output: str
    metric: MetricName = MetricName.ACCURACY
    k: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    boxes: str = ""
    classes: str = ""
    function: FunctionName | None = None
    higher_is_better: bool = True
    claimed: float | None = None

    def __post_init__(self) -> None:
        if (self.function is not None) is not (self.metric is MetricName.FUNCTION):
            raise BadCard('a task has a function where its metric is "function", and only there')
        if self.metric is MetricName.MAP and not (self.boxes and self.classes):
            raise BadCard("the metric map needs the outputs boxes and classes")

    @property
    def grows(self) -> bool:
        """Say whether a larger value of the metric is the better one."""
        if self.metric is MetricName.FUNCTION:
            return self.higher_is_better
        return self.metric is not MetricName.MAE

    @property
    def class_output(self) -> str | None:
        """Return the output whose largest value names a class, or None."""
        classifies = (MetricName.ACCURACY, MetricName.TOP_K, MetricName.F1)
        return self.output if self.metric in classifies else None


class Normalisation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How pixels from 0 to 255 become values: `(pixel * scale - mean) / deviation` a channel."""

    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()


class Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where rows come from: `.npz`, `.npy`, `.csv`, `.parquet`, `.zip` of image folders, or code.

    Each is a file, or a function written `data.py:rows` that yields rows as mappings. Labels stand
    under the name `label` (`labels` is an array's or a column's name; image folders are the
    labels). Calibration is needed by quantized precisions only. What a search for a better recipe
    looks at is `search`, and without it a quarter of the evaluation rows, picked by digest; the
    rest of them decides nothing and judges all.

    `columns` says which columns of a table make up an input. A signature with states has rows
    that are sequences: an axis of steps stands after the batch in each input that is no state.
    """

    evaluation: DataName
    calibration: DataName | None = None
    search: DataName | None = None
    label: str = "labels"
    columns: dict[str, tuple[str, ...]] = {}
    images: Normalisation = Normalisation()


class Goal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The worst value of the metric, and the largest drop against float, that a variant may have.

    Both are in the metric's own unit; for `mae`, where less is better, the floor is a ceiling and
    a drop is an increase.
    """

    floor: float | None = None
    largest_drop: Annotated[float, msgspec.Meta(ge=0)] = 0.01


class Lineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the version comes from, as facts for people and audits."""

    training_data: dict[str, str] = {}
    hyper_parameters: dict[str, str | int | float | bool] = {}
    metrics: dict[str, float] = {}
    code_revision: str = ""
    licence: str = ""


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `model.toml` says; `assets` travel in every bundle, by the names they have there."""

    model: ModelName
    version: VersionName
    source: Source
    signature: Signature
    task: Task
    data: Data
    goal: Goal = Goal()
    labels: tuple[str, ...] = ()
    assets: dict[AssetName, FileName] = {}
    lineage: Lineage = Lineage()

    def __post_init__(self) -> None:
        shapes = {tensor.name: tensor.shape for tensor in self.signature.outputs}
        for output in (self.task.output, self.task.boxes, self.task.classes):
            if output and output not in shapes:
                raise BadCard(f"there is no output {output!r}")
        classes = shapes[self.task.output][-1]
        counted = self.task.class_output is not None and isinstance(classes, int)
        if self.labels and counted and len(self.labels) != classes:
            raise BadCard(
                f"{self.task.output!r} has {classes} classes and {len(self.labels)} have a label"
            )
        _check_states(self.signature)
        strange = set(self.data.columns) - {tensor.name for tensor in self.signature.inputs}
        if strange:
            raise BadCard(f"columns are given for {min(strange)!r}, which is no input")


class _LineageFacts(msgspec.Struct, frozen=True):
    card: Card
    files: dict[str, Digest]


def parse_card(data: bytes) -> Card:
    """Return the card in `data` (the bytes of `model.toml`).

    Raises `BadFile`, `BadCard` or `BadSignature` where there is none.
    """
    return read(Card, "model.toml", data)


def file_of(name: str) -> str:
    """Return the file's name in `net.py:make_net`, or in a bare file name."""
    return name.partition(":")[0]


def function_of(name: str) -> str:
    """Return the function's name in `net.py:make_net`, empty for a bare file name."""
    return name.partition(":")[2]


def files_of(card: Card) -> tuple[str, ...]:
    """Return the names of the files that must lie beside the card, each once."""
    source, data = card.source, card.data
    named = (source.factory, source.file, *source.code, *source.external_data)
    judged = (data.evaluation, data.calibration, data.search, card.task.function)
    every = (*named, *judged, *card.assets.values())
    return tuple(dict.fromkeys(file_of(name) for name in every if name))


def lineage_digest(card: Card, files: Mapping[str, Digest]) -> Digest:
    """Return the digest of the card and its files; `files` holds the digest of each by name."""
    return digest_of(
        codec.encode(_LineageFacts(card, {name: files[name] for name in files_of(card)}))
    )


def _check_states(signature: Signature) -> None:
    inputs = {tensor.name: tensor for tensor in signature.inputs}
    outputs = {tensor.name: tensor for tensor in signature.outputs}
    for pair in signature.states:
        given, taken = outputs.get(pair.output), inputs.get(pair.input)
        if given is None or taken is None:
            raise BadCard(f"the state {pair.output!r} -> {pair.input!r} names no such tensors")
        if (given.datatype, given.shape) != (taken.datatype, taken.shape):
            raise BadCard(f"the state {pair.output!r} -> {pair.input!r} changes type or shape")
    if signature.states and len(signature.states) == len(signature.inputs):
        raise BadCard("every input is a state, so nothing is left to send")
