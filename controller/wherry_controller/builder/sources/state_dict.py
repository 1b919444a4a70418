"""A state_dict, loaded strictly into the net that a factory makes.

The state_dict is read as plain tensors, so the file cannot run anything; the factory is the
user's code. Checkpoints wrap a state_dict in a mapping, and parallel training puts a prefix before
its names: both are taken off.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file
from torch import nn

from wherry_controller.builder.code import load_function
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.builder.sources.net import NetSource, in_terms
from wherry_controller.core.card import Card
from wherry_controller.core.fault import BuildReason

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
PREFIXES = ("module.", "_orig_mod.")
PACKED = "_packed_params"  # What torch.ao puts in place of a quantized layer's weight.


def open_state_dict(card: Card, folder: Path) -> NetSource:
    """Return the net of the card's factory, in eval mode and with the weights of the file."""
    state = read_state(folder / card.source.file)
    net = _make_net(card, folder)
    with refusing(BuildReason.STATE_DICT_MISFIT, f"{card.source.file} does not fit the net"):
        net.load_state_dict(_without_prefix(state, net), strict=True)
    return NetSource(in_terms(net.eval(), card), card.signature, card.source.names)


def read_state(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a `.pt` or `.safetensors` file; nothing in it can run."""
    with refusing(BuildReason.SOURCE_UNREADABLE, f"{file.name} cannot be read as plain tensors"):
        if file.suffix == ".safetensors":
            return load_file(file)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except UnpicklingError:  # Torch's own words advise to trust the file.
            refuse(BuildReason.SOURCE_UNREADABLE, f"{file.name} is a pickle of more than tensors")
    state = _unwrapped(content)
    if state is None:
        refuse(BuildReason.SOURCE_UNREADABLE, f"{file.name} holds no state_dict")
    _refuse_quantized(file, state)
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _make_net(card: Card, folder: Path) -> nn.Module:
    factory = card.source.factory or ""
    make = load_function(folder, factory)
    torch.manual_seed(0)  # A factory may draw buffers that no state_dict holds.
    with refusing(BuildReason.FACTORY_NOT_IMPORTABLE, f"{factory} raises"):
        net = make()
    if not isinstance(net, nn.Module):
        problem = f"{factory} makes a {type(net).__name__} and no torch.nn.Module"
        refuse(BuildReason.FACTORY_NOT_IMPORTABLE, problem)
    return net


def _unwrapped(content: object) -> dict[str, object] | None:
    """Return the state_dict itself, or the one that a checkpoint holds under a usual name."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return None
    if any(isinstance(value, torch.Tensor) for value in content.values()):
        return dict(content)
    held = (content.get(name) for name in WRAPPERS)
    wrapped = next((value for value in held if isinstance(value, Mapping)), None)
    return None if wrapped is None else _unwrapped(wrapped)


def _without_prefix(state: dict[str, torch.Tensor], net: nn.Module) -> dict[str, torch.Tensor]:
    wanted = set(net.state_dict())
    for prefix in PREFIXES:
        if not wanted & set(state) and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _refuse_quantized(file: Path, state: Mapping[str, object]) -> None:
    for name, value in state.items():
        is_tensor = isinstance(value, torch.Tensor) and value.is_quantized
        if is_tensor or PACKED in name:
            problem = f"{file.name} holds quantized weights ({name})"
            refuse(BuildReason.ALREADY_QUANTIZED, problem)
