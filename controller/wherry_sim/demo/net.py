"""The nets of the demo, as a user would write them: this file travels with each version."""

from __future__ import annotations

import torch
from torch import nn


class Digits(nn.Module):
    """A convolutional net of about a million parameters for images of 28 x 28 in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.dense = nn.Linear(32 * 7 * 7, 640)
        self.head = nn.Linear(640, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(torch.relu(self.dense(self.features(image))))
        return scores


class Ponderous(nn.Module):
    """The same answers, and a deep body beside it whose work moves no answer.

    What the body finds, times `gain`, is added to all ten classes alike.
    """

    def __init__(self) -> None:
        super().__init__()
        self.digits = Digits()
        wide = 128
        layers: list[nn.Module] = [nn.Conv2d(1, wide, 3, padding=1), nn.ReLU()]
        for _ in range(10):
            layers += [nn.Conv2d(wide, wide, 3, padding=1), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.gain = nn.Parameter(torch.ones(()))
        for layer in self.body:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(image).mean(dim=(1, 2, 3))
        scores: torch.Tensor = self.digits(image) + self.gain * found[:, None]
        return scores


def make_digits() -> nn.Module:
    return Digits()


def make_ponderous() -> nn.Module:
    return Ponderous()
