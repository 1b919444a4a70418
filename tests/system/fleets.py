"""A small fleet that serves its first version, as most stories begin."""

from __future__ import annotations

from tests.system.sites import Site, logged
from tests.system.tiny import add_version
from wherry.bundle import Bundle
from wherry.manifest import MODEL_FILE
from wherry_sim.demo.processes import Agent

SLOW_BYTES_PER_S = 800_000


def a_fleet_on_v1(site: Site, *, slow: bool = False) -> tuple[list[Agent], Bundle]:
    """Return agents `one` and `two`, in groups of those names, that serve v1."""
    v1 = add_version(site, "v1", shift=1.0)
    limit = SLOW_BYTES_PER_S if slow else None
    agents = [site.add_agent(name, max_bytes_per_s=limit) for name in ("one", "two")]
    for agent in agents:
        site.set_group(agent.id, agent)
        agent.start()
    site.start_rollout("v1", ["one", "two"])
    assert site.until_over("v1").status == "succeeded"
    return agents, v1


def is_in_mid_download(agent: Agent, bundle: Bundle) -> bool:
    """Say whether an agent has some chunks of a bundle's model and lacks others."""
    chunks = set(bundle.manifest.files[MODEL_FILE].chunks)
    stored = {line.fields["chunk"] for line in logged(agent, "chunk.stored")} & chunks
    assert len(stored) < len(chunks), "it was too quick"
    return len(stored) >= 2
