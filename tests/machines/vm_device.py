"""A device in a machine with little memory, and the controller's part for it, by generations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.agent.agents import DEFAULT, Controller, a_controller, repository_at
from tests.brokers import a_mosquitto
from tests.builders import a_device_id
from tests.enrolled import an_enrolled_home
from tests.machines import vm_image
from tests.machines.power_disk import a_disk
from tests.machines.vm import Machine, a_machine
from tests.machines.vm_image import HOST
from wherry import codec
from wherry.bundle import Bundle
from wherry.messages import Deployment, Event, Flip, Reported, SwapPolicy
from wherry.names import ProfileName
from wherry.reasons import Status
from wherry.topics import EventsTopic, ReportedTopic

DEVICE = a_device_id("small-1")
DISK_MIB, PATIENCE_S = 384, 300.0


@dataclass(frozen=True, slots=True)
class SmallDevice:
    """A machine whose agent has orders from a script; a deployment has its generation's number."""

    machine: Machine
    controller: Controller

    def order(
        self,
        generation: int,
        bundle: Bundle,
        *,
        policy: SwapPolicy = SwapPolicy.AUTO,
        probation_s: float = 0.1,
    ) -> None:
        self.controller.publish_bundle(bundle)
        self.controller.order(
            DEVICE, bundle, generation=generation, policy=policy, probation_s=probation_s
        )

    def deploy(
        self, generation: int, bundle: Bundle, policy: SwapPolicy = SwapPolicy.AUTO
    ) -> Iterator[str]:
        """Order a bundle that answers its generation, and wait; yield what is wrong."""
        self.order(generation, bundle, policy=policy)
        self.machine.until(partial(self.is_over, generation), f"end of d-{generation}", PATIENCE_S)
        told = self.deployment(generation)
        if told is None or told.status is not Status.SUCCEEDED:
            yield f"deployment d-{generation} ended as {told}"
        if not self.answers(generation):
            yield f"bundle {generation} was to answer, and {self.machine.infer()} came"

    def answers(self, generation: int) -> bool:
        """Say whether that generation's bundle answers."""
        logits = self.machine.infer()
        return logits is not None and round(logits[0]) == generation

    def is_over(self, generation: int) -> bool:
        told = self.deployment(generation)
        return told is not None and told.status.is_final

    def deployment(self, generation: int) -> Deployment | None:
        """Return what the device told last of a deployment; None where it told another's."""
        heard = self.controller.heard(ReportedTopic(DEVICE))
        known = codec.decode(Reported, heard[-1]).deployments.get(DEFAULT) if heard else None
        return known if known and known.deployment == f"d-{generation}" else None

    def flips(self) -> list[Flip]:
        heard = self.controller.heard(EventsTopic(DEVICE))
        events = sorted((codec.decode(Event, body) for body in heard), key=lambda each: each.seq)
        return [event.flip for event in events if event.flip is not None]


@contextmanager
def a_small_device(*words: str) -> Iterator[SmallDevice]:
    """Boot a device that is enrolled and has nothing yet; `words` go to its kernel."""
    with (
        TemporaryDirectory() as name,
        a_mosquitto(Path(name)) as broker,
        a_controller(broker.port) as controller,
    ):
        folder, url = Path(name), f"mqtt://{HOST}:{broker.port}"
        root = repository_at(broker.port).roots[0].data
        home = an_enrolled_home(folder / "home", url, DEVICE, ProfileName("test"), root)
        vm_image.make_ext4(folder / "disk.img", home, mib=DISK_MIB)
        with a_machine(folder, a_disk(folder / "disk.img"), *words) as machine:
            yield SmallDevice(machine, controller)
