"""What a running agent measures: in the windows that it sends, and on its page for Prometheus."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tests.agent.agents import DEFAULT, Agent, Controller, a_controller, agents_at, until
from tests.agent.benches import an_input
from tests.agent.bundles import KEY, a_bundle, images
from tests.agent.waiting import PATIENCE_S
from tests.brokers import Mosquitto, a_mosquitto
from wherry import codec
from wherry.blobs import describe
from wherry.bundle import Bundle, seal
from wherry.manifest import REFERENCE_FILE
from wherry.messages import Telemetry
from wherry.reference import Distribution, Reference

IMAGE = Distribution(
    name="image", rows=10, edges=(-0.5, 0.0, 0.5), counts=(10,) * 4, zeros=0.0, not_finite=0.0
)


def a_judged_bundle() -> Bundle:
    """Return a bundle that holds a reference of its input."""
    plain = a_bundle(version="measured")
    data = codec.encode(Reference(inputs=(IMAGE,), outputs=()))
    files = {**plain.manifest.files, REFERENCE_FILE: describe(data, 1024)}
    blobs = {**plain.blobs, describe(data).digest: data}
    return seal(replace(plain.manifest, files=files), blobs, KEY)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with a_mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture
def controller(broker: Mosquitto) -> Iterator[Controller]:
    with a_controller(broker.port) as controller:
        yield controller


@pytest.fixture
def agent(tmp_path: Path, broker: Mosquitto, controller: Controller) -> Iterator[Agent]:
    """An agent that serves a bundle with a reference, and shows its page."""
    with agents_at(tmp_path, broker.port) as start:
        agent = start()
        agent.kill()
        with (agent.home / "agent.toml").open("a") as settings:
            settings.write("seen_share = 1.0\n\n[api]\nmetrics = true\n")
        agent.start()
        bundle = a_judged_bundle()
        controller.publish_bundle(bundle)
        controller.order(agent.device, bundle, generation=1)
        controller.succeeded(agent, "d-1")
        yield agent


def ask(agent: Agent, requests: int) -> None:
    with agent.client() as client:
        for _ in range(requests):
            client.infer(DEFAULT, an_input(images(2)))


def page_of(agent: Agent) -> tuple[str, str]:
    """Return the page's media type, and the page."""
    connection = http.client.HTTPConnection("agent", timeout=PATIENCE_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(PATIENCE_S)
    connection.sock.connect(str(agent.socket))
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    page = answer.read().decode()
    connection.close()
    assert answer.status == 200, page
    return answer.headers["Content-Type"], page


def seen_in(windows: list[Telemetry]) -> list[Telemetry] | None:
    """Return the windows once they tell of requests, of a worker and of what was seen."""
    kinds: tuple[Callable[[Telemetry], object], ...] = (
        lambda window: window.requests,
        lambda window: window.worker_bytes,
        lambda window: window.inputs,
    )
    return windows if all(any(map(kind, windows)) for kind in kinds) else None


def test_windows_and_page_tell_what_was_asked_seen_and_used(
    controller: Controller, agent: Agent
) -> None:
    ask(agent, 10)
    windows = until(lambda: seen_in(controller.telemetry(agent)))
    assert sum(window.requests for window in windows) == 10
    (seen,) = next(window.inputs for window in windows if window.inputs)
    assert (seen.name, len(seen.counts)) == ("image", 4)
    assert seen.values == sum(seen.counts) == 4 * seen.rows
    expected = np.histogram(images(2), [-9, *IMAGE.edges, 9])[0]
    assert np.argmax(seen.counts) == np.argmax(expected)
    last = windows[-1]
    assert max(window.worker_bytes or 0 for window in windows) > 1 << 20
    assert last.host.load_1m is not None
    assert last.host.cpu_percent is not None
    kind, page = page_of(agent)
    assert kind.startswith("text/plain; version=0.0.4")
    assert 'wherry_requests_total{alias="default",bundle="' in page
    assert "wherry_host_memory_available_bytes " in page
    assert "wherry_worker_memory_bytes{" in page
