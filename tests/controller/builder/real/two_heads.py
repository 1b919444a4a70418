"""A version for tests: an exported program that gives its two answers as a mapping.

Run as `python -m tests.controller.builder.real.two_heads FOLDER`. It is not trained: labels are
what it answers itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

ROWS = 120


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.size = nn.Linear(8, 32), nn.Linear(32, 5), nn.Linear(32, 5)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        seen = torch.relu(self.body(image))
        return {"kind": self.kind(seen), "size": self.size(seen)}


def main(folder: Path) -> None:
    torch.manual_seed(3)
    net = TwoHeads().eval()
    rows = torch.randn(ROWS, 8)
    batch = torch.export.Dim("batch")
    torch.export.save(
        torch.export.export(net, (rows,), dynamic_shapes=({0: batch},)), folder / "net.pt2"
    )
    labels = net(rows)["kind"].argmax(-1)
    np.savez(folder / "evaluation.npz", image=rows.numpy(), labels=labels.numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
