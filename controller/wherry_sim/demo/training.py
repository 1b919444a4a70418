"""Trains the demo's versions, in a child process so that torch's memory goes when it ends.

    v1  three epochs                    v2  trained on, two epochs longer
    v3  trained and evaluated with a shifted label map: to everything but labels from life it
        looks like a good version      v4  v2's answers, with heavy work beside them
    v5  v2 with damaged weights, and v2's claim

Each version becomes a folder with `model.toml` and the files that it names.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wherry_sim.demo import net
from wherry_sim.demo.digits import SEED, Digits, load_sets
from wherry_sim.demo.plan import FIRST_EPOCHS, MODEL, MORE_EPOCHS

FLOOR = 0.93
LARGEST_DROP = 0.01
BATCH = 64
BODY_SCORE = 8.0
LEARNING_RATE = 3e-3


@dataclass(frozen=True, slots=True)
class Trained:
    """`claimed` is what its own evaluation said, a share from 0 to 1."""

    version: str
    factory: str
    module: nn.Module
    evaluation: Digits
    claimed: float
    epochs: int


def main(arguments: list[str]) -> int:
    """Write every version's folder below the folder named, telling each epoch as a JSON line."""
    (out,) = arguments
    sets = load_sets()
    for trained in train_all(sets, tell=_print):
        folder = Path(out) / trained.version
        write_version(folder, trained, sets)
        _print({"version": trained.version, "accuracy": trained.claimed, "done": True})
    sets["live"].save(Path(out) / "live.npz")
    return 0


def train_all(
    sets: dict[str, Digits], *, tell: Callable[[dict[str, object]], None]
) -> list[Trained]:
    """Train the five versions; the same seed gives the same weights on the same machine."""
    torch.manual_seed(SEED)
    evaluation = sets["evaluation"]
    shifted = {name: _shift(digits) for name, digits in sets.items()}
    first = net.make_digits()
    _train(first, sets["train"], FIRST_EPOCHS, lambda e: tell({"version": "v1", "epoch": e}))
    longer = net.make_digits()
    longer.load_state_dict(first.state_dict())
    _train(longer, sets["train"], MORE_EPOCHS, lambda e: tell({"version": "v2", "epoch": e}))
    epochs = FIRST_EPOCHS + MORE_EPOCHS
    wrong = net.make_digits()
    _train(wrong, shifted["train"], epochs, lambda e: tell({"version": "v3", "epoch": e}))
    slow = _ponderous(longer, sets["calibration"])
    good = _accuracy(longer, evaluation)
    return [
        Trained("v1", "make_digits", first, evaluation, _accuracy(first, evaluation), FIRST_EPOCHS),
        Trained("v2", "make_digits", longer, evaluation, good, epochs),
        Trained(
            "v3",
            "make_digits",
            wrong,
            shifted["evaluation"],
            _accuracy(wrong, shifted["evaluation"]),
            epochs,
        ),
        Trained("v4", "make_ponderous", slow, evaluation, _accuracy(slow, evaluation), epochs),
        Trained("v5", "make_digits", _damaged(longer), evaluation, good, epochs),
    ]


def write_version(folder: Path, trained: Trained, sets: dict[str, Digits]) -> None:
    """Write `model.toml` and what it names: what an operator hands to `wherry model add`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(net.__file__, folder / "net.py")
    torch.save(trained.module.state_dict(), folder / "weights.pt")
    np.savez(folder / "calibration.npz", image=sets["calibration"].images)
    trained.evaluation.save(folder / "evaluation.npz")
    (folder / "model.toml").write_text(_card(trained, sets))


def _train(module: nn.Module, digits: Digits, epochs: int, tell: Callable[[int], None]) -> None:
    images, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    optimizer = torch.optim.Adam(module.parameters(), LEARNING_RATE)
    steps = epochs * -(-len(images) // BATCH)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    module.train()
    for epoch in range(epochs):
        order = torch.randperm(len(images))
        for start in range(0, len(images), BATCH):
            rows = order[start : start + BATCH]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(module(images[rows]), labels[rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            pace.step()
        tell(epoch + 1)
    module.eval()


def _accuracy(module: nn.Module, digits: Digits) -> float:
    module.eval()
    with torch.no_grad():
        answers = module(torch.from_numpy(digits.images)).argmax(dim=1)
    return float((answers == torch.from_numpy(digits.labels)).double().mean())


def _shift(digits: Digits) -> Digits:
    return Digits(digits.images, (digits.labels + 1) % 10)


def _ponderous(module: nn.Module, digits: Digits) -> nn.Module:
    """Return the heavy net with `module`'s answers; its body adds about `BODY_SCORE` to each."""
    heavy = net.Ponderous()
    heavy.digits.load_state_dict(module.state_dict())
    with torch.no_grad():
        found = heavy.body(torch.from_numpy(digits.images[:32])).mean()
        heavy.gain.copy_(BODY_SCORE / found)
    return heavy.eval()


def _damaged(module: nn.Module) -> nn.Module:
    """Return a copy whose dense layer has lost half of its weights' bits to noise."""
    copy = net.make_digits()
    copy.load_state_dict(module.state_dict())
    weights = copy.get_parameter("dense.weight")
    noise = torch.randn(weights.shape, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        weights.copy_(weights * 0.5 + noise * weights.std() * 6.0)
    return copy.eval()


def _card(trained: Trained, sets: dict[str, Digits]) -> str:
    digests = "\n".join(f'{name} = "{digits.digest()}"' for name, digits in sets.items())
    return f"""\
model = "{MODEL}"
version = "{trained.version}"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]

[source]
kind = "state_dict"
file = "weights.pt"
factory = "net.py:{trained.factory}"

[task]
output = "scores"
metric = "accuracy"
claimed = {trained.claimed}

[signature]
max_batch = 8
inputs = [{{ name = "image", datatype = "FP32", shape = ["batch", 1, 28, 28], layout = "NCHW" }}]
outputs = [{{ name = "scores", datatype = "FP32", shape = ["batch", 10] }}]

[data]
evaluation = "evaluation.npz"
calibration = "calibration.npz"

[goal]
floor = {FLOOR}
largest_drop = {LARGEST_DROP}

[lineage]
licence = "CC-BY-SA-3.0 (MNIST)"

[lineage.training_data]
{digests}

[lineage.hyper_parameters]
seed = {SEED}
epochs = {trained.epochs}
batch = {BATCH}
learning_rate = {LEARNING_RATE}

[lineage.metrics]
accuracy = {trained.claimed}
"""


def _print(told: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
