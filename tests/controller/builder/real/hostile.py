"""Factories that do what no factory should, beside `net.py` of the version that they spoil."""

from __future__ import annotations

CODE = r"""
import ctypes
import os
import signal
import threading
import time
from pathlib import Path

import torch
from net import make_net
from torch import nn

HERE = Path(__file__).parent


def writes():
    (HERE / "left").write_text("x")


def leaves():
    os._exit(0)


def crashes():
    ctypes.string_at(0)


def interrupts():
    raise KeyboardInterrupt


def kills_all():
    os.killpg(0, signal.SIGKILL)


def loops():
    while True:
        pass


def eats():
    held = []
    while True:
        held.append(b"x" * (64 << 20))


def chats():
    # Children and a thread are left behind, and what is printed looks like messages.
    for _ in range(3):
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
    threading.Thread(target=time.sleep, args=(600,)).start()
    for _ in range(20_000):
        os.write(1, b'{"kind": "refused"}\n')
    return make_net()


class Spectrum(nn.Module):
    def forward(self, image):
        return torch.linalg.eigvals(image[:, 0]).real[:, :1]


class Unknown(nn.Sequential):
    def __init__(self):
        super().__init__(*make_net(), Spectrum())

    def forward(self, image):
        scores = image
        for layer in list(self)[:-1]:
            scores = layer(scores)
        return scores + 0 * self[-1](image)


def make_unknown():
    return Unknown()
"""
