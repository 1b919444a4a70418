"""Writes the tiny LiteRT exports that the tests of the passes read.

Run as `python -m tests.vectors.models.write_lite`. Converting takes seconds and torch, so what it
gives is kept; the files are inputs of tests and no frozen format.
"""

from __future__ import annotations

from pathlib import Path

import litert_torch
import torch
from torch import nn

FOLDER = Path(__file__).parent


class Block(nn.Module):
    """Two convolutions whose names stand in every block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.first(image))) + image)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.body = nn.Sequential(Block(8), Block(8))
        self.head = nn.Linear(8, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.body(torch.relu(self.stem(image))).mean((2, 3))
        return torch.as_tensor(self.head(features))


class Unrolled(nn.Module):
    """An LSTM, which the converter unrolls: its steps share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.head(self.cell(rows)[0][:, -1]))


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(8, 16)

    def forward(
        self, sound: torch.Tensor, hidden: torch.Tensor, memory: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden, memory = self.cell(sound, (hidden, memory))
        return hidden.mean(1, keepdim=True), hidden, memory


class Mixed(nn.Module):
    """Words in whole numbers, and an operator that has no int8."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.first = nn.Linear(16, 32)
        self.last = nn.Linear(32, 4)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.last(torch.cumsum(self.first(self.words(words)), 1)))


class Adding(nn.Module):
    """No weights at all."""

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        return row * torch.sigmoid(row)


class Hiding(nn.Module):
    """A mask of minus infinity, as attention has: no scale can stand for its range."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(8, 8)
        self.values = nn.Linear(8, 8)
        self.register_buffer("mask", torch.tensor([0.0] * 6 + [-torch.inf] * 2))

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(self.values(torch.softmax(self.scores(row) + self.mask, 1)))


def main() -> None:
    torch.manual_seed(3)
    upscaling = nn.Sequential(nn.ConvTranspose2d(8, 16, 2, 2), nn.Conv2d(16, 8, 3))
    _write("residual", Residual(), torch.zeros(1, 1, 8, 8))
    _write("unrolled", Unrolled(), torch.zeros(1, 3, 8))
    _write("stateful", Stateful(), torch.zeros(1, 8), torch.zeros(1, 16), torch.zeros(1, 16))
    _write("mixed", Mixed(), torch.zeros(1, 3, dtype=torch.int64))
    _write("upscaling", upscaling, torch.zeros(1, 8, 4, 4))
    _write("adding", Adding(), torch.zeros(1, 8))
    _write("hiding", Hiding(), torch.zeros(1, 8))


def _write(name: str, net: nn.Module, *sample: torch.Tensor) -> None:
    litert_torch.convert(net.eval(), sample).export(str(FOLDER / f"{name}.tflite"))


if __name__ == "__main__":
    main()
