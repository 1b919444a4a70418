"""The engine: which bundle answers under each alias, in runners that come up, flip and drain.

It lives on a loop in a thread of its own, which the local API shares. The deciding thread gives
orders; they return at once, may be repeated, and what came of them comes back through `on_event`,
which is called on the engine's thread and must only put on a queue.

A request goes to who serves when it is handed on, and its answer carries that bundle's digest, so
a flip drops nothing: the old runner answers what it was asked, then waits, resident, until
`retire`. While what serves is started again, the bundle that served before answers, if it is still
resident, or requests wait. The engine knows no runtime.

    requests    the way of requests: queue, batches, split
    residents   who is brought up, flipped to, drained, started again
    shadows     copies of requests to a candidate
    slots       what stands under one alias
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from importlib import import_module

from wherry.messages import Shadow, Split, SwapPolicy
from wherry.names import AliasName, DeploymentId, Digest
from wherry.profile import Runtime
from wherry_agent import link
from wherry_agent.asking import Berth, Bringing, BundlePlace, Runner, RunnerListener, StartRunner
from wherry_agent.engine.events import (
    CameBack,
    EngineEvent,
    Flipped,
    Loaded,
    LoadFailed,
    Unservable,
    WorkerDied,
)
from wherry_agent.engine.recording import Recording
from wherry_agent.engine.requests import Requests, nothing_serves
from wherry_agent.engine.residents import Residents
from wherry_agent.engine.settings import EngineSettings, settings_of
from wherry_agent.engine.shadows import Shadows
from wherry_agent.engine.slots import Duty, Slots
from wherry_agent.engine.waiting import Asking
from wherry_agent.forks import Forks
from wherry_agent.processes import spawn
from wherry_agent.settings import Isolation

__all__ = [
    "Asking",
    "CameBack",
    "Duty",
    "Engine",
    "EngineEvent",
    "EngineSettings",
    "Flipped",
    "LoadFailed",
    "Loaded",
    "Recording",
    "Unservable",
    "WorkerDied",
    "nothing_serves",
    "settings_of",
]

DRAIN_LOOK_S = 0.005


class Engine:
    """Started once and closed once; in between its orders may come from any thread."""

    def __init__(
        self,
        *,
        on_event: Callable[[EngineEvent], None],
        settings: EngineSettings,
        recorder: Recording,
        memory_available_bytes: Callable[[], int | None],
        temperature_c: Callable[[], float | None],
        start_runner: StartRunner | None = None,
    ) -> None:
        self.loop = asyncio.new_event_loop()
        is_forking = settings.fork_server and settings.isolation is Isolation.WORKER
        self._forks = Forks() if is_forking and start_runner is None else None
        self._slots: dict[AliasName, Slots] = {}
        timeout_s = settings.request_timeout_s
        shadows = Shadows(self.loop, recorder, temperature_c=temperature_c, timeout_s=timeout_s)
        self._requests = Requests(self.loop, self._slots, shadows, settings)
        self._residents = Residents(
            self.loop,
            self._slots,
            requests=self._requests,
            shadows=shadows,
            recorder=recorder,
            settings=settings,
            start_runner=start_runner or runner_of(settings.isolation, self._forks),
            memory_available_bytes=memory_available_bytes,
            on_event=on_event,
        )
        self._thread = threading.Thread(target=self._run, name="serving", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def drain(self, timeout_s: float) -> None:
        """Answer what was asked, within the time, and nothing that is asked from now on."""
        asyncio.run_coroutine_threadsafe(self._drain(timeout_s), self.loop).result()

    def close(self) -> None:
        """End every runner and the engine's thread."""
        self.loop.call_soon_threadsafe(self._end)
        self._thread.join()

    # Orders

    def load(
        self,
        alias: AliasName,
        deployment: DeploymentId,
        place: BundlePlace,
        policy: SwapPolicy = SwapPolicy.AUTO,
        duty: Duty = Duty.ANSWER,
    ) -> None:
        """Bring a bundle up to follow what serves; answers `Loaded` or `LoadFailed`.

        By `policy` it comes up beside what serves, or after that was unloaded. A candidate that
        shall share or shadow needs both: where they cannot be resident it fails OVER_BUDGET.
        """
        self.loop.call_soon_threadsafe(self._residents.load, alias, deployment, place, policy, duty)

    def serve(self, alias: AliasName, place: BundlePlace | None) -> None:
        """Answer with this bundle from now on (None: with nothing).

        Answers `Flipped` at once where it is resident, else after it was loaded, or
        `Unservable`; nothing where it serves already. A split ends, and so does shadowing.
        """
        self.loop.call_soon_threadsafe(self._residents.serve, alias, place)

    def share(self, alias: AliasName, place: BundlePlace, split: Split) -> None:
        """Have this bundle answer its share of the requests, and what serves the others.

        Answers as `serve` does. Where nothing else serves it answers all of them.
        """
        self.loop.call_soon_threadsafe(self._residents.share, alias, place, split)

    def shadow(self, alias: AliasName, place: BundlePlace, shadow: Shadow | None) -> None:
        """Copy a share of the requests to this bundle, to be compared with the answers given.

        What comes of it goes to the recorder. None ends it, as every flip does.
        """
        self.loop.call_soon_threadsafe(self._residents.shadow, alias, place, shadow)

    def retire(self, alias: AliasName) -> None:
        """Drain and end every runner of the alias but those that answer.

        While the bundle to serve is still being loaded, the serving one ends after the flip.
        """
        self.loop.call_soon_threadsafe(self._residents.retire, alias)

    def memory(self) -> dict[tuple[AliasName, Digest], int]:
        """Return the memory that each resident bundle has of its own, bytes; from any thread."""
        # Copies, since runners come and go on the engine's thread.
        slots = tuple(self._slots.values())
        runners = [runner for each in slots for runner in tuple(each.runners.values())]
        return {
            (runner.alias, runner.place.digest): memory_bytes
            for runner in runners
            if (memory_bytes := runner.memory_bytes())  # 0 where it has no process (any more).
        }

    # For the local API, on the engine's own thread

    def serving(self, alias: AliasName) -> BundlePlace | None:
        """Return the bundle that answers whatever no split gives to another; None: none now."""
        slots = self._slots.get(alias)
        runner = slots.answering if slots else None
        return runner.place if runner else None

    def places(self, alias: AliasName) -> tuple[BundlePlace, ...]:
        """Return all that may answer a request, first the one that `serving` says.

        What serves and is not up stands there too while requests wait for it. None: a request
        gets no answer now.
        """
        slots = self._slots.get(alias)
        return tuple(slots.places()) if slots else ()

    def aliases(self) -> list[AliasName]:
        """Return the aliases that a bundle was ever ordered for."""
        return sorted(self._slots)

    def berth(self, alias: AliasName, size_bytes: int, head_bytes: int) -> Berth | None:
        """Return a place where a body may arrive, with whoever answers now; None: there is none."""
        slots = self._slots.get(alias)
        runner = slots.answering if slots else None
        return runner.berth(size_bytes, head_bytes) if runner else None

    def ask(self, asking: Asking) -> None:
        """Have a request computed; its `done` is called once with what came of it."""
        self._requests.ask(asking)

    # The thread

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        if self._forks:
            self._forks.start()  # By this thread: what it starts ends with it.
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    async def _drain(self, timeout_s: float) -> None:
        self._requests.is_closing = True
        end_s = self.loop.time() + timeout_s
        while self._requests.unanswered and self.loop.time() < end_s:
            await asyncio.sleep(DRAIN_LOOK_S)

    def _end(self) -> None:
        self._requests.is_closing = True
        slots = tuple(self._slots.values())
        for each in slots:
            for runner in (*each.runners.values(), *each.leaving):
                runner.kill()
        if self._forks:
            self._forks.close()
        self.loop.call_soon(self.loop.stop)


def runner_of(isolation: Isolation, forks: Forks | None = None) -> StartRunner:
    """Return how bundles are brought up: in a worker process, or in this one by setting.

    Workers are forked where there is a fork server. tflite-runtime crashes on files that are
    broken, so that it never runs in this process.
    """
    if isolation is Isolation.WORKER:
        begin_process = forks.start_process if forks else spawn
        return partial(link.start_runner, start_process=begin_process)
    inline: StartRunner = import_module("wherry_agent.inline").start_runner

    def start(
        alias: AliasName, place: BundlePlace, listener: RunnerListener, bringing: Bringing
    ) -> Runner:
        in_worker = place.manifest.profile.runtime is Runtime.TFLITE
        begin = link.start_runner if in_worker else inline
        return begin(alias, place, listener, bringing)

    return start
