"""A new version by a delta, end to end: the agent's process, a real broker, the rebuilding child.

Of the new model file not one chunk is published: only what makes it of the one that serves.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.agent.agents import a_controller, a_wide_bundle, agents_at, repository_at, until
from tests.agent.stores import chunks_of
from tests.brokers import a_mosquitto
from tests.builders import a_deployment_id, a_wanted, an_alias, an_order
from tests.trusted import desired_of
from wherry import codec
from wherry.blobs import describe, digest_of
from wherry.delta import Header
from wherry.manifest import MODEL_FILE
from wherry.messages import Delta, DeltaIndex, Desired
from wherry.topics import BlobTopic, BundleTopic, DesiredTopic
from wherry_controller.deltas.encode import encode

pytestmark = pytest.mark.system


def test_a_version_is_installed_by_what_makes_it_of_the_one_before(tmp_path: Path) -> None:
    first, second = a_wide_bundle(), a_wide_bundle(shift=1.0)
    base, blob = (one.manifest.files[MODEL_FILE] for one in (first, second))
    old, new = first.blobs[base.digest], second.blobs[blob.digest]
    header = Header(base=base.digest, base_bytes=len(old), blob=blob.digest, blob_bytes=len(new))
    delta = b"".join(encode(old, new, header))
    described = describe(delta, 1024)
    index = codec.encode(DeltaIndex(base=base.digest, blob=blob.digest, delta=described))
    with (
        a_mosquitto(tmp_path) as broker,
        agents_at(tmp_path, broker.port) as start,
        a_controller(broker.port) as controller,
    ):
        agent = start()
        controller.publish_bundle(first)
        controller.order(agent.device, first, generation=1)
        controller.succeeded(agent, "d-1")
        controller.vouch(second)
        controller.publish(BundleTopic(second.digest), second.envelope)
        small = {c: data for c, data in chunks_of(second).items() if c not in blob.chunks}
        controller.publish_chunks({**small, digest_of(index): index})
        for number, chunk in enumerate(described.chunks):
            controller.publish(BlobTopic(chunk), delta[number * 1024 : (number + 1) * 1024])
        wanted = a_wanted("d-2", bundle=second.digest, probation_s=0.1)
        order = an_order(device=agent.device, generation=2, aliases={an_alias(): wanted})
        issued = int(time.time())
        order = replace(order, issued=issued, expires=issued + 86_400)
        desired = codec.decode(Desired, desired_of(repository_at(broker.port), order))
        hint = Delta(blob=blob.digest, base=base.digest, index=digest_of(index))
        controller.publish(
            DesiredTopic(agent.device), codec.encode(replace(desired, deltas=(hint,)))
        )
        controller.succeeded(agent, a_deployment_id("d-2"))
        until(lambda: agent.log("blob.rebuilt"))
        own = set(blob.chunks) - set(base.chunks)
        assert own and not own & set(agent.stored_chunks())
        assert not controller.refusals(agent)
