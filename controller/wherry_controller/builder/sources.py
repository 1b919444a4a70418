"""A version's net: its factory imported from its file, and its state_dict loaded strictly.

The factory is the user's code and runs in this process, which holds no key and no database. The
state_dict is read as plain tensors, so the file cannot run anything.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from wherry.signature import BadSignature, Datatype, Signature, Tensor, batch_of
from wherry_controller.builder.data import Array, Rows, Tensors, datatype_of
from wherry_controller.builder.evaluate import refuse_not_finite
from wherry_controller.builder.faults import refuse, refusing
from wherry_controller.core.card import Card, factory_file, factory_function
from wherry_controller.core.recipe import BuildReason

MODULE_NAME = "wherry_version_source"


def load_net(card: Card, folder: Path) -> nn.Module:
    """Return the version's net in eval mode, with the weights of its state_dict."""
    net = _make_net(card, folder)
    state = _read_state(folder / card.source.state_dict)
    with refusing(BuildReason.STATE_DICT_MISFIT, f"{card.source.state_dict} does not fit the net"):
        net.load_state_dict(state, strict=True)
    return net.eval()


def run_net(net: nn.Module, signature: Signature, rows: Rows) -> Tensors:
    """Return what the net gives for all rows, in signature terms, in batches of its largest.

    Refuses a net that does not take and give what the signature says, or gives NaN.
    """
    size = signature.max_batch
    batches = [
        _run_batch(net, signature, rows.part(slice(start, start + size)))
        for start in range(0, len(rows), size)
    ]
    outputs = {
        tensor.name: np.concatenate([batch[index] for batch in batches])
        for index, tensor in enumerate(signature.outputs)
    }
    refuse_not_finite("the net", outputs)
    return outputs


def arguments(signature: Signature, inputs: Tensors) -> tuple[torch.Tensor, ...]:
    """Return the net's positional arguments: the signature's inputs in order."""
    return tuple(
        torch.from_numpy(np.ascontiguousarray(inputs[tensor.name])) for tensor in signature.inputs
    )


def _make_net(card: Card, folder: Path) -> nn.Module:
    factory = _import_factory(folder / factory_file(card), factory_function(card))
    with refusing(BuildReason.FACTORY_NOT_IMPORTABLE, f"{card.source.factory} raises"):
        net = factory()
    if not isinstance(net, nn.Module):
        problem = f"{card.source.factory} makes a {type(net).__name__} and no torch.nn.Module"
        refuse(BuildReason.FACTORY_NOT_IMPORTABLE, problem)
    return net


def _import_factory(file: Path, function: str) -> Callable[[], object]:
    spec = importlib.util.spec_from_file_location(MODULE_NAME, file)
    if spec is None or spec.loader is None:
        refuse(BuildReason.FACTORY_NOT_IMPORTABLE, f"{file.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE_NAME] = module  # Dataclasses and torch.export look their module up.
    with refusing(BuildReason.FACTORY_NOT_IMPORTABLE, f"{file.name} does not import"):
        spec.loader.exec_module(module)
    factory = getattr(module, function, None)
    if not callable(factory):
        problem = f"{file.name} has no function {function!r}"
        refuse(BuildReason.FACTORY_NOT_IMPORTABLE, problem)
    return lambda: factory()


def _read_state(file: Path) -> dict[str, torch.Tensor]:
    with refusing(BuildReason.STATE_DICT_UNREADABLE, f"{file.name} cannot be read"):
        state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        refuse(BuildReason.STATE_DICT_UNREADABLE, f"{file.name} holds no state_dict")
    return state


def _run_batch(net: nn.Module, signature: Signature, inputs: Tensors) -> list[Array]:
    with refusing(BuildReason.SIGNATURE_MISFIT, "the net fails on rows of the evaluation data"):
        with torch.inference_mode():
            given = net(*arguments(signature, inputs))
        outputs = given if isinstance(given, tuple | list) else (given,)
        arrays = [output.numpy() for output in outputs]
    if len(arrays) != len(signature.outputs):
        problem = f"the net gives {len(arrays)} tensors, the signature {len(signature.outputs)}"
        refuse(BuildReason.SIGNATURE_MISFIT, problem)
    for tensor, array in zip(signature.outputs, arrays, strict=True):
        _check_output(tensor, array, len(next(iter(inputs.values()))))
    return arrays


def _check_output(tensor: Tensor, array: Array, rows: int) -> None:
    given: Datatype | None = datatype_of(array.dtype)
    if given is not tensor.datatype:
        problem = f"{tensor.name!r} is {array.dtype} and not {tensor.datatype.value}"
        refuse(BuildReason.SIGNATURE_MISFIT, problem)
    try:
        batch = batch_of(tensor, array.shape)
    except BadSignature as error:
        refuse(BuildReason.SIGNATURE_MISFIT, error.problem)
    if batch != rows:
        problem = f"{tensor.name!r} has {batch} rows for {rows} rows of input"
        refuse(BuildReason.SIGNATURE_MISFIT, problem)
