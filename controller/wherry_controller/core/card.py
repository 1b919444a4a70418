"""The card of a version: what its `model.toml` says of source, signature, data, goal and lineage.

The files that a card names lie beside it, by bare names, so a card can lead nowhere else. The
version's lineage digest is over the card and the digests of those files: the same card with the
same bytes is the same version, wherever it was registered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from wherry import codec
from wherry.blobs import digest_of
from wherry.errors import Malformed
from wherry.names import Digest, ModelName, VersionName
from wherry.signature import Signature
from wherry_controller.core.written import read

FileName = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\Z")]
FactoryName = Annotated[
    str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,95}\.py:[A-Za-z_][A-Za-z0-9_]*\Z")
]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class BadCard(Malformed):
    """A card whose parts do not fit one another."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"model.toml does not hold together: {self.problem}; correct it."


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A factory, written `net.py:make_net`, and the state_dict that its module loads."""

    factory: FactoryName
    state_dict: FileName


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`.npz` files with one array an input, by its name; `evaluation` has `labels` as well.

    Labels are indices of classes. Calibration is needed by quantized precisions only.
    """

    evaluation: FileName
    calibration: FileName | None = None


class Goal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The lowest accuracy and the largest drop against fp32 that a variant may have, as shares."""

    floor: Share
    largest_drop: Share


class Lineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the version comes from, as facts for people and audits."""

    training_data: dict[str, str] = {}
    hyper_parameters: dict[str, str | int | float | bool] = {}
    metrics: dict[str, float] = {}
    code_revision: str = ""
    licence: str = ""


class Card(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `model.toml` says; `class_output` is the output that labels are compared with."""

    model: ModelName
    version: VersionName
    source: Source
    signature: Signature
    class_output: str
    data: Data
    goal: Goal
    claimed_accuracy: Share
    labels: tuple[str, ...] = ()
    lineage: Lineage = Lineage()

    def __post_init__(self) -> None:
        shapes = {tensor.name: tensor.shape for tensor in self.signature.outputs}
        if self.class_output not in shapes:
            raise BadCard(f"there is no output {self.class_output!r}")
        classes = shapes[self.class_output][-1]
        if self.labels and isinstance(classes, int) and len(self.labels) != classes:
            raise BadCard(
                f"{self.class_output!r} has {classes} classes and {len(self.labels)} have a label"
            )


class _LineageFacts(msgspec.Struct, frozen=True):
    card: Card
    files: dict[str, Digest]


def parse_card(data: bytes) -> Card:
    """Return the card in `data` (the bytes of `model.toml`).

    Raises `BadFile`, `BadCard` or `BadSignature` where there is none.
    """
    return read(Card, "model.toml", data)


def factory_file(card: Card) -> str:
    return card.source.factory.partition(":")[0]


def factory_function(card: Card) -> str:
    return card.source.factory.partition(":")[2]


def files_of(card: Card) -> tuple[str, ...]:
    """Return the names of the files that must lie beside the card."""
    names = (factory_file(card), card.source.state_dict, card.data.evaluation)
    return (*names, card.data.calibration) if card.data.calibration else names


def lineage_digest(card: Card, files: Mapping[str, Digest]) -> Digest:
    """Return the digest of the card and its files; `files` holds the digest of each by name."""
    return digest_of(
        codec.encode(_LineageFacts(card, {name: files[name] for name in files_of(card)}))
    )
