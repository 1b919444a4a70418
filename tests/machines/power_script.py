"""The controller's part while power is cut: orders, acks, and the book of every event it heard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.agent.agents import DEFAULT, Controller, a_wide_bundle, repository_at
from tests.controller.doors import PI, Guarded, guarded_doors
from tests.enrolled import an_enrolled_home
from tests.machines.vm_image import HOST
from wherry import codec
from wherry.bundle import Bundle
from wherry.messages import Ack, Deployment, Event, Reported
from wherry.names import Digest, ProfileName
from wherry.reasons import Reason, Status
from wherry.topics import AcksTopic, EventsTopic, ReportedTopic
from wherry_agent.papers import Papers, write_papers
from wherry_agent.settings import FetchSettings, Identity, Settings
from wherry_controller.authority import private_pem
from wherry_controller.services.admission import Policy

DEVICE = PI
KIB = 48
BYTES_PER_S = 48 * 1024
PROBATION_S = 1.0


@contextmanager
def a_door(folder: Path) -> Iterator[Guarded]:
    """Open a controller's door, where a device renews its certificate."""
    folder.mkdir()
    with guarded_doors(folder, names=("localhost", HOST)) as here:
        yield here


def write_home(folder: Path, port: int, here: Guarded) -> Path:
    """Write the home of a device that is enrolled at that door and has nothing yet."""
    assert here.doors is not None
    enrolled, key = here.an_enrolled(DEVICE)
    broker, profile = f"mqtt://{HOST}:{port}", ProfileName("test")
    settings = Settings(
        id=DEVICE,
        profile=profile,
        broker=broker,
        controller=f"https://{HOST}:{here.doors.port}",
        fetch=FetchSettings(max_bytes_per_s=BYTES_PER_S),
    )
    papers = Papers(
        key=private_pem(key),
        certificate=enrolled.certificate.encode(),
        ca=here.ca_file.read_bytes(),
    )
    root = repository_at(port).roots[0].data
    home = an_enrolled_home(folder, broker, DEVICE, profile, root, settings=settings)
    identity = Identity(
        device=DEVICE,
        epoch=enrolled.epoch,
        serial=enrolled.serial,
        not_before=here.now - 3600,
        not_after=here.now + Policy().certificate_s,
    )
    write_papers(home, papers, identity)
    return home


@dataclass(slots=True)
class Script:
    """What was ordered so far: bundles by number, from 1 on."""

    controller: Controller
    bundles: dict[int, Bundle] = field(default_factory=dict)

    def order_next(self) -> int:
        """Publish the next bundle and an order for it; return its number."""
        number = len(self.bundles) + 1
        bundle = a_wide_bundle(f"power-{number}", shift=float(number), kib=KIB)
        self.bundles[number] = bundle
        self.controller.publish_bundle(bundle)
        self.controller.order(DEVICE, bundle, generation=number, probation_s=PROBATION_S)
        return number

    def number_of(self, bundle: Digest | None) -> int | None:
        return next((n for n, one in self.bundles.items() if one.digest == bundle), None)

    def is_over(self, number: int) -> bool:
        """Say whether the device has told how the deployment ended."""
        told = self.deployment(number)
        return told is not None and told.status.is_final

    def has_succeeded(self, number: int) -> bool:
        """Say whether the device has told that the deployment succeeded."""
        told = self.deployment(number)
        return told is not None and told.status is Status.SUCCEEDED

    def was_too_slow(self, number: int) -> bool:
        """Say whether the device gave a new bundle up since it had no time to load it."""
        told = self.deployment(number)
        return told is not None and told.reason is Reason.LOAD_TIMEOUT

    def deployment(self, number: int) -> Deployment | None:
        """Return what the device told last of a deployment; None where it told another's."""
        reported = self._reported()
        known = reported.deployments.get(DEFAULT) if reported else None
        return known if known and known.deployment == f"d-{number}" else None

    def acknowledge(self) -> None:
        """Take note of every event that was heard, as the controller's database would."""
        if events := self._events():
            ack = Ack(store_id=events[-1].store_id, seq=max(event.seq for event in events))
            self.controller.publish(AcksTopic(DEVICE), codec.encode(ack))

    def faults_of_events(self) -> list[str]:
        """Return what is wrong with the history: gaps, and numbers that were given twice."""
        faults: list[str] = []
        books: dict[str, dict[int, Event]] = {}
        for event in self._events():
            first = books.setdefault(event.store_id, {}).setdefault(event.seq, event)
            if first != event:
                faults.append(f"event {event.seq} was told twice, and differently")
        for book in books.values():
            lost = sorted(set(range(1, max(book) + 1)) - set(book))
            faults += [f"event {seq} was never told" for seq in lost]
        if len(books) > 1:
            faults.append(f"the store was made anew: {len(books)} identities were heard")
        return faults

    def count_events(self) -> int:
        return len({event.seq for event in self._events()})

    def _events(self) -> list[Event]:
        heard = self.controller.heard(EventsTopic(DEVICE))
        return [codec.decode(Event, body) for body in heard]

    def _reported(self) -> Reported | None:
        heard = self.controller.heard(ReportedTopic(DEVICE))
        return codec.decode(Reported, heard[-1]) if heard else None
