"""Follows the agents' logs while the story runs: what happened when, and what it sets off.

A local program bursts while a swap of its agent is under way. Two agents are killed: one in the
middle of a download, one right after a switch.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wherry_sim.demo.processes import Agent, LogLine

POLL_S = 0.03
CALM_S = 1.0  # A swap is over this long after the last deployment ended.
CHUNKS_BEFORE_KILL = 4
RESTART_AFTER_S = 0.5


@dataclass(slots=True)
class Kill:
    """One SIGKILL: `again_at` is when the agent served again (UNIX seconds)."""

    agent: str
    at: float
    again_at: float | None = None


@dataclass(slots=True)
class Watch:
    """`kill_in_download` and `kill_after_flip` map an agent's id to the bundle that sets it off.

    While it is `restless`, programs that have begun to ask all the time go on: an order to go back
    takes effect at once, with no loading that would announce it.
    """

    agents: Sequence[Agent]
    kill_in_download: Mapping[str, str] = field(default_factory=dict)
    kill_after_flip: Mapping[str, str] = field(default_factory=dict)
    restless: bool = False
    kills: list[Kill] = field(default_factory=list)
    _fetching: dict[str, str] = field(default_factory=dict)
    _stored: dict[str, int] = field(default_factory=dict)
    _calm_at: dict[str, float] = field(default_factory=dict)
    _going: bool = True
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._going = False
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        while self._going:
            for agent in self.agents:
                for line in agent.new_lines():
                    self._follow(agent, line)
                if not self.restless and self._calm_at.get(agent.id, math.inf) < time.time():
                    del self._calm_at[agent.id]
                    agent.tell_program("steady")
            time.sleep(POLL_S)

    def _follow(self, agent: Agent, line: LogLine) -> None:
        match line.event:
            case "deployment.in_progress" if line.fields.get("phase") == "fetching":
                self._fetching[agent.id] = line.fields["bundle"]
                self._stored[agent.id] = 0
                self._burst(agent)
            case "deployment.in_progress":
                self._burst(agent)
            case "chunk.stored":
                self._stored[agent.id] = self._stored.get(agent.id, 0) + 1
                if self._is_mid_download(agent):
                    self._kill(agent)
            case "bundle.flipped":
                self._note_serving(agent)
                if self.kill_after_flip.get(agent.id) == line.fields["bundle"]:
                    self._kill(agent)
            case event if event.startswith("deployment.") and "reason" in line.fields:
                self._calm_at[agent.id] = time.time() + CALM_S
            case _:
                pass

    def _burst(self, agent: Agent) -> None:
        """Have the program ask all the time; a delta comes soon, and what is fetched is loaded."""
        self._calm_at.pop(agent.id, None)
        agent.tell_program("burst")

    def _is_mid_download(self, agent: Agent) -> bool:
        wanted = self.kill_in_download.get(agent.id)
        return (
            wanted is not None
            and self._fetching.get(agent.id) == wanted
            and self._stored[agent.id] == CHUNKS_BEFORE_KILL
        )

    def _kill(self, agent: Agent) -> None:
        if any(kill.agent == agent.id for kill in self.kills):
            return
        self.kills.append(Kill(agent.id, agent.kill()))
        threading.Timer(RESTART_AFTER_S, agent.start).start()  # The others are watched meanwhile.

    def _note_serving(self, agent: Agent) -> None:
        for kill in self.kills:
            if kill.agent == agent.id and kill.again_at is None:
                kill.again_at = time.time()
