"""A build's way past the devices: its candidates as bundles for measuring, and what comes back.

    run the builder up to its candidates --> sign them --> devices measure (`trials`) --> figures

The builder is then run again with the figures, from its cache up to the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import assert_never

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from wherry_controller.core import build as said
from wherry_controller.core.build import BuildRequest, Offered
from wherry_controller.core.choice import DeviceFigures
from wherry_controller.services.child import BuildCanceled, Builder
from wherry_controller.services.harvest import Vouch, keep_offer
from wherry_controller.services.told import unmeasured
from wherry_controller.services.trials import Trials
from wherry_controller.store import models
from wherry_controller.store.blobs import BlobFolder
from wherry_controller.store.database import Store
from wherry_controller.store.records import Build, BuildStatus, Progress
from wherry_controller.store.trials import trials_of_build

Advance = Callable[[Build, said.Progress], None]


class Measuring:
    """Asks devices about the candidates of builds; the threads of builds call it."""

    def __init__(
        self,
        store: Store,
        blobs: BlobFolder,
        key: Ed25519PrivateKey,
        *,
        vouch: Vouch,
        builder: Builder,
        trials: Trials,
        advance: Advance,
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._key = key
        self._vouch = vouch
        self._builder = builder
        self._trials = trials
        self._advance = advance
        self._clock = clock

    def figures(self, build: Build, request: BuildRequest, place: str) -> tuple[DeviceFigures, ...]:
        """Return what idle devices in the group or of the device `place` found of a build.

        Raises what `Builder.run` and `Trials.measure` raise.
        """
        asked = self._trials.devices_for(place, build.profiles)
        if not asked:
            return ()
        mine = tuple(profile for profile in request.profiles if profile.name in asked)
        offers = self._offers(build, replace(request, profiles=mine, offers=True))
        if not offers:
            return ()
        self._turn(build, BuildStatus.RUNNING, BuildStatus.MEASURING)
        figures = self._trials.measure(
            build.id, offers, asked, lambda done, total: self._tell(build, done, total)
        )
        self._turn(build, BuildStatus.MEASURING, BuildStatus.RUNNING)
        return figures

    def note(self, build: Build, measured: Sequence[DeviceFigures]) -> str:
        """Say what an operator should know of a build that devices were to judge."""
        with self._store.reading() as tx:
            return unmeasured(build, measured, trials_of_build(tx, build.id))

    def _offers(self, build: Build, request: BuildRequest) -> Sequence[Offered]:
        """Keep a build's candidates as bundles; what it refuses is refused again at its end."""
        offers: list[Offered] = []
        with closing(self._builder.run(build.id, request)) as messages:
            for message in messages:
                match message:
                    case said.Offered():
                        self._keep(request, message)
                        offers.append(message)
                    case said.Progress():
                        self._advance(build, message)
                    case said.Kept() | said.Built() | said.Refused():
                        pass
                    case _:
                        assert_never(message)
        return offers

    def _keep(self, request: BuildRequest, offered: Offered) -> None:
        output = Path(request.output)
        keep_offer(
            self._store,
            self._blobs,
            self._key,
            vouch=self._vouch,
            output=output,
            offered=offered,
            now=self._clock(),
        )

    def _turn(self, build: Build, before: BuildStatus, after: BuildStatus) -> None:
        """Note that a build goes on otherwise; raise `BuildCanceled` where it was canceled."""
        with self._store.transaction() as tx:
            found = models.get_build(tx, build.id)
            if found is None or found.status is not before:
                raise BuildCanceled
            models.save_build(tx, replace(found, status=after))

    def _tell(self, build: Build, done: int, total: int) -> None:
        with self._store.transaction() as tx:
            found = models.get_build(tx, build.id)
            if found is not None:
                progress = Progress(BuildStatus.MEASURING.value, done, total)
                models.save_build(tx, replace(found, progress=progress))
