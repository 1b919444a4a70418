"""A model that eats memory on a device whose agent has MemoryMax=: the kernel ends its worker.

    confirmed: modest ----> hungry flips ----> a request makes it take 400 MB
                                                   |
    modest answers again, reverted is told <----- the kernel ends the worker; the agent lives

A kernel of its own is what a container here lacks: a group whose memory is limited, to the share
that `wherry-agent.service` names. What a worker binds itself to would end such a request first, so
that is taken away: a runtime may have a fault that no process can bind itself against.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.agent import bundles
from tests.machines.vm_device import PATIENCE_S, SmallDevice
from wherry.messages import Deployment
from wherry.reasons import Reason, Status

UNIT = Path(__file__).parents[2] / "systemd/wherry-agent.service"
KILLED = "Memory cgroup out of memory: Killed process"
FLOATS_EACH = 1_000_000  # For each whole number that the largest input is.
HUNGRY = 100.0  # So 400 MB, which is more than the group may have and less than the device has.
PROBATION_S = 120.0


def the_words() -> tuple[str, ...]:
    """Return what tells the machine to confine the agent as its unit says."""
    (share,) = re.findall(r"(?m)^MemoryMax=(\d+%)$", UNIT.read_text())
    return f"memory_max={share}", "plant=unbounded"


def check(device: SmallDevice) -> Iterator[str]:
    """Confirm a modest bundle, then have a hungry one eat memory; yield what is wrong."""
    modest = bundles.a_bundle(version="modest", shift=1.0)
    hungry = bundles.a_bundle(version="hungry", shift=2.0, model=_a_hungry_model(shift=2.0))
    yield from device.deploy(1, modest)
    device.order(2, hungry, probation_s=PROBATION_S)
    machine = device.machine
    machine.until(partial(device.answers, 2), "the hungry bundle", PATIENCE_S)
    machine.infer(HUNGRY)  # Whoever answers that, the hungry one cannot.
    machine.until(partial(device.is_over, 2), "the end of the hungry deployment", PATIENCE_S)
    told = device.deployment(2)
    if not _is_reverted(told):
        yield f"the hungry deployment ended as {told}"
    machine.until(partial(device.answers, 1), "the modest bundle again", PATIENCE_S)
    lines = machine.lines()
    if not any(KILLED in line for line in lines):
        yield "no process was ended for the limit of the agent's memory"
    if any("vm.ended" in line for line in lines):
        yield "the agent ended too"


def _is_reverted(told: Deployment | None) -> bool:
    return told is not None and told.status is Status.REVERTED and told.reason is Reason.WORKER_DIED


def _a_hungry_model(*, shift: float) -> bytes:
    """Return a model that takes more memory the larger its input is, and answers all the same."""
    model = onnx.load_from_string(bundles.an_onnx_model(shift=shift))
    graph = model.graph
    constants = {
        "floats_each": np.array([FLOATS_EACH], np.int64),
        "axes": np.array([0], np.int64),
    }
    graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    last = graph.node.pop()
    nothing = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
    graph.node.extend(
        (
            helper.make_node("Relu", ["x"], ["positive"]),
            helper.make_node("ReduceMax", ["positive"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Mul", ["whole", "floats_each"], ["floats"]),
            helper.make_node("ConstantOfShape", ["floats"], ["eaten"], value=nothing),
            helper.make_node("ReduceSum", ["eaten", "axes"], ["none"], keepdims=1),
            helper.make_node("Add", [last.input[0], "none"], ["y"]),
        )
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
