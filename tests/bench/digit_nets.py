"""The nets that `make bench-build` trains: images of handwritten digits to scores.

The file is copied into each version's folder as its factory, so it imports torch alone.
"""

from __future__ import annotations

import torch
from torch import nn

CLASSES = 10


def convolutional() -> nn.Module:
    """Return a net whose wide dense layer holds nearly all of its 4 MB."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 49, 640),
        nn.ReLU(),
        nn.Linear(640, CLASSES),
    )


class Block(nn.Module):
    """Two convolutions beside a way past them (He et al. 2016, figure 2)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.past = (
            nn.Identity()
            if (before, stride) == (after, 1)
            else nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )
        )

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(given) + self.past(given))


def _residual(stem: int, *blocks: tuple[int, int, int]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, stem, 3, 2, 1, bias=False),
        nn.BatchNorm2d(stem),
        nn.ReLU(),
        *(Block(*block) for block in blocks),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(blocks[-1][1], CLASSES),
    )


def residual() -> nn.Module:
    return _residual(32, (32, 32, 1), (32, 64, 2), (64, 128, 2))


def residual_10mb() -> nn.Module:
    return _residual(64, (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1))


class Encoder(nn.Module):
    """A transformer encoder over the 16 patches of 7 x 7 pixels."""

    def __init__(self, width: int = 128, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Linear(49, width)
        self.place = nn.Parameter(torch.zeros(1, 16, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        patches = image.reshape(-1, 4, 7, 4, 7).transpose(2, 3).reshape(-1, 16, 49)
        scores: torch.Tensor = self.head(self.layers(self.embed(patches) + self.place).mean(1))
        return scores


def encoder() -> nn.Module:
    return Encoder()


class Recurrent(nn.Module):
    """An LSTM over the rows of pixels."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.cell = nn.LSTM(28, width, batch_first=True)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.cell(image[:, 0])[0][:, -1])
        return scores


def lstm() -> nn.Module:
    return Recurrent()
