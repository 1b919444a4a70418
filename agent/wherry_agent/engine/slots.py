"""What stands under one alias: who answers, who shall, what is resident and what waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from wherry.messages import Shadow, Split, SwapPolicy
from wherry.names import AliasName, DeploymentId, Digest
from wherry_agent.asking import BundlePlace, Proof, Runner, RunnerState
from wherry_agent.core.restarts import Restarts
from wherry_agent.core.sharing import Allowance
from wherry_agent.engine.waiting import Queue

AWAITED_PAUSE_S = 1.0  # Requests wait for a restart that comes so soon.


class Duty(Enum):
    """What a candidate is brought up for: to answer all, a share, or at first only copies."""

    ANSWER = "answer"
    SHARE = "share"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class Wish:
    """The bundle that shall answer: all requests, or those of a split."""

    place: BundlePlace
    split: Split | None = None

    @property
    def share(self) -> float:
        return self.split.share if self.split else 1.0


@dataclass(slots=True)
class Shadowing:
    """A candidate that gets copies, and what they have cost."""

    place: BundlePlace
    shadow: Shadow
    allowance: Allowance
    number: int = 0
    looked_s: float = 0.0  # When memory and temperature were last looked at.
    is_too_hot: bool = False
    is_over_memory: bool = False


@dataclass(slots=True)
class Slots:
    """`serving` answers what `sharing` does not. Both `policy` and `swapping` are of the last load.

    While one is `swapping` in, nothing else is resident, and requests wait for who will serve.
    """

    alias: AliasName
    wish: Wish | None = None  # What was ordered last.
    serving: BundlePlace | None = None
    sharing: Wish | None = None
    shadowing: Shadowing | None = None
    before: Digest | None = None  # What answered before `serving`.
    policy: SwapPolicy = SwapPolicy.AVAILABILITY
    swapping: Digest | None = None
    runners: dict[Digest, Runner] = field(default_factory=dict)
    leaving: set[Runner] = field(default_factory=set)  # Draining, or ended and not yet gone.
    loads: dict[Digest, list[DeploymentId]] = field(default_factory=dict)
    proofs: dict[Digest, Proof] = field(default_factory=dict)
    proved: set[Digest] = field(default_factory=set)  # Up before, and in use since.
    retired: set[Digest] = field(default_factory=set)  # To be drained at the next flip.
    next_up: BundlePlace | None = None  # Brought up once nothing else is resident.
    restarts: dict[Digest, Restarts] = field(default_factory=dict)
    pauses: dict[Digest, float] = field(default_factory=dict)  # Before restarts to come.
    queue: Queue = field(default_factory=Queue)
    is_watched: bool = False  # That what waits expires.

    def ready(self, bundle: Digest | None) -> Runner | None:
        runner = self.runners.get(bundle) if bundle else None
        return runner if runner and runner.state is RunnerState.READY else None

    @property
    def answering(self) -> Runner | None:
        """Return the runner of the requests that no split gives to another one.

        While it is started again, the one before it answers, or the one that shares with it.
        """
        if self.serving is None:
            return None
        return self.ready(self.serving.digest) or self.ready(self.before) or self.shared

    @property
    def shared(self) -> Runner | None:
        return self.ready(self.sharing.place.digest) if self.sharing else None

    def serves(self, bundle: Digest) -> bool:
        return self.serving is not None and self.serving.digest == bundle

    def shares(self, bundle: Digest) -> bool:
        return self.sharing is not None and self.sharing.place.digest == bundle

    def shadows(self, bundle: Digest) -> bool:
        return self.shadowing is not None and self.shadowing.place.digest == bundle

    def wants(self, bundle: Digest) -> bool:
        return self.wish is not None and self.wish.place.digest == bundle

    def awaits(self, bundle: Digest) -> bool:
        """Say whether nothing was up since the start, and this bundle is to be the first."""
        return self.serving is None and self.wants(bundle)

    def is_in_use(self, bundle: Digest) -> bool:
        """Say whether its runner is started again when it ends."""
        return self.serves(bundle) or self.shares(bundle) or self.shadows(bundle)

    def waits_for(self, bundle: Digest) -> bool:
        """Say whether nothing answers before this bundle does: its loading disturbs nobody."""
        expected = self.serves(bundle) or self.wants(bundle) or self.swapping == bundle
        return expected and self.answering is None

    def fulfils(self, wish: Wish) -> bool:
        """Say whether that which is wished for answers already."""
        if wish.split is None:
            return self.sharing is None and self.serves(wish.place.digest)
        return self.sharing is not None and (self.sharing.place.digest, self.sharing.split) == (
            wish.place.digest,
            wish.split,
        )

    @property
    def expected(self) -> BundlePlace | None:
        """Return what serves; after a start, what shall."""
        return self.serving or (self.wish.place if self.wish else None)

    @property
    def is_awaited(self) -> bool:
        """Say whether requests wait for what is expected, which is not up and will soon be."""
        if self.expected is None or self.answering is not None:
            return False
        if self.swapping or self.next_up:
            return True
        restarts = self.restarts.get(self.expected.digest, Restarts())
        pause_s = self.pauses.get(self.expected.digest, 0.0)
        return restarts.failures == 0 and pause_s <= AWAITED_PAUSE_S

    def places(self) -> Iterator[BundlePlace]:
        """Yield what may answer, first what answers whatever no other one is to."""
        runner = self.answering
        full = runner.place if runner else self.expected if self.is_awaited else None
        if full is None:
            return
        yield full
        if runner is not None and len(self.runners) == 1:
            return
        others = (self.serving.digest if self.serving else None, self.before)
        for other in (self.shared, *map(self.ready, others)):
            if other is not None and other.place.digest != full.digest:
                yield other.place
