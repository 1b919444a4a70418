"""The controller as a whole: real brokers, real database, a device that is a bare MQTT client."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.brokers import Mosquitto, a_mosquitto, free_port
from tests.builders import (
    a_deployment,
    a_device_id,
    a_key,
    a_reported,
    a_store_id,
    a_wanted,
    a_wants,
    an_alias,
    an_event,
)
from tests.controller.stores import add_built_version, add_devices
from tests.controller.test_mqtt import PATIENCE_S, Inbox, a_link
from wherry import codec, signing
from wherry.blobs import check_digest, join
from wherry.bundle import Bundle, open_signed_manifest
from wherry.manifest import blobs_of
from wherry.messages import Ack, Desired, Order
from wherry.names import Digest
from wherry.topics import (
    AcksTopic,
    BlobTopic,
    BundleTopic,
    DesiredTopic,
    EventsTopic,
    ReportedTopic,
    Topic,
    WantsTopic,
    text,
)
from wherry_controller.app import Controller, open_controller
from wherry_controller.deciding import Closing, Desk
from wherry_controller.foundation import found
from wherry_controller.mqtt import Connected, Link
from wherry_controller.services import fleet
from wherry_controller.services.fleet import device_of
from wherry_controller.settings import Broker, Fleet, Settings, read_settings

pytestmark = pytest.mark.system

DEVICE = a_device_id()
WINDOW = 100
MODEL = bytes(range(256)) * 4096  # 1 MiB, whose chunks of 1 KiB are all alike.


def settings_of(folder: Path, broker: str) -> Settings:
    if not (folder / "wherry.toml").exists():
        found(folder, broker=broker)
    quick = Broker(
        url=broker,
        embedded_port=free_port(),
        longest_backoff_s=0.2,
        collect_s=0.2,
        reconcile_s=0.5,
        want_again_s=0.0,
    )
    return replace(read_settings(folder, {}), broker=quick, fleet=Fleet(ack_s=0.05))


@contextmanager
def a_controller(folder: Path, broker: str) -> Iterator[Controller]:
    controller = open_controller(settings_of(folder, broker))
    controller.start()
    try:
        yield controller
    finally:
        controller.close()


def order_a_bundle(controller: Controller, name: str = "v1", data: bytes = MODEL) -> Bundle:
    """Have the controller want a new bundle of the one device."""
    with controller.store.transaction() as tx:
        add_devices(tx, DEVICE)
        bundle = add_built_version(tx, controller.blobs, name, data)
        wanted = a_wanted(f"{name}:pi-1", bundle=bundle.digest)
        fleet.order(tx, DEVICE, an_alias(), wanted, rollout=None, now=time.time())
    controller.decide(lambda desk: desk.fleet.publish(time.time()))
    return bundle


def url_of(broker: Mosquitto) -> str:
    return f"mqtt://127.0.0.1:{broker.port}"


def incompressible(size_bytes: int) -> bytes:
    """Return bytes of which no two chunks are alike."""
    return random.Random(1).randbytes(size_bytes)


def is_settled(controller: Controller) -> bool:
    return controller.decide(lambda desk: desk.publisher.is_settled)


def report_seq_of(controller: Controller) -> int | None:
    with controller.store.reading() as tx:
        return device_of(tx, DEVICE).report_seq


def until_settled(controller: Controller) -> None:
    """Return once the broker has everything."""
    eventually(lambda: is_settled(controller))


def eventually(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen"
        pause.wait(0.02)


def fetch(link: Link, inbox: Inbox, topic: Topic) -> bytes:
    link.subscribe([text(topic)])
    return inbox.message(text(topic)).payload


def fetch_bundle(port: int, controller: Controller) -> Digest:
    """Do what a device does: take the order, its bundle's manifest, every chunk; verify all."""
    director = signing.keyring(controller.keys.director.public_key())
    with a_link(port, client_id=DEVICE) as (link, inbox):
        inbox.wait_for(Connected)
        desired = codec.decode(Desired, fetch(link, inbox, DesiredTopic(DEVICE)))
        signed = signing.open_envelope(bytes(desired.order), director)
        digest = codec.decode(Order, signed).aliases[an_alias()].bundle
        envelope = fetch(link, inbox, BundleTopic(digest))
        keys = signing.keyring(a_key().public_key())
        for blob in blobs_of(open_signed_manifest(envelope, keys, digest)):
            wanted = [text(BlobTopic(chunk)) for chunk in dict.fromkeys(blob.chunks)]
            for start in range(0, len(wanted), WINDOW):
                link.subscribe(wanted[start : start + WINDOW])
            chunks = inbox.messages(wanted)
            ordered = (check_digest(chunks[text(BlobTopic(c))], c) for c in blob.chunks)
            join(ordered, blob)
    return digest


def test_importing_the_controller_loads_no_runtime() -> None:
    heavy = "{'torch', 'onnxruntime', 'ai_edge_litert', 'numpy'}"
    code = f"import sys, wherry_controller.app; sys.exit(bool({heavy} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_device_finds_its_order_and_every_byte_of_its_bundle(tmp_path: Path) -> None:
    with (
        a_mosquitto(tmp_path) as broker,
        a_controller(tmp_path, url_of(broker)) as controller,
    ):
        bundle = order_a_bundle(controller)
        assert fetch_bundle(broker.port, controller) == bundle.digest


def test_the_embedded_broker_carries_a_bundle_as_well(tmp_path: Path) -> None:
    with a_controller(tmp_path, "embedded") as controller:
        bundle = order_a_bundle(controller)
        port = controller.settings.broker.embedded_port
        assert fetch_bundle(port, controller) == bundle.digest


def test_a_broker_that_lost_everything_in_the_middle_is_given_it_again(tmp_path: Path) -> None:
    with (
        a_mosquitto(tmp_path) as broker,
        a_controller(tmp_path, url_of(broker)) as controller,
    ):
        bundle = order_a_bundle(controller, data=incompressible(4_000_000))
        broker.kill()
        broker.start()
        assert fetch_bundle(broker.port, controller) == bundle.digest


def test_a_broker_that_is_down_at_the_start_is_waited_for(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path)
    try:
        with a_controller(tmp_path, url_of(broker)) as controller:
            bundle = order_a_bundle(controller)
            broker.start()
            assert fetch_bundle(broker.port, controller) == bundle.digest
    finally:
        broker.kill()


def test_the_controller_sends_a_bundle_once_however_often_it_reads_back(tmp_path: Path) -> None:
    with a_mosquitto(tmp_path) as broker:
        with a_controller(tmp_path, url_of(broker)) as controller:
            bundle = order_a_bundle(controller, data=incompressible(2_000_000))
            until_settled(controller)
            size = sum(map(len, bundle.blobs.values())) + len(bundle.envelope)
            sent = controller.traffic().sent_bytes
            assert size < sent < 1.2 * size
            for _ in range(3):
                eventually(lambda: not is_settled(controller))
                until_settled(controller)
            assert controller.traffic().sent_bytes - sent < 2000
        with a_controller(tmp_path, url_of(broker)) as again:
            until_settled(again)
            assert again.traffic().sent_bytes < 2000


def test_the_embedded_broker_is_read_back_without_sending_anything_again(tmp_path: Path) -> None:
    with a_controller(tmp_path, "embedded") as controller:
        order_a_bundle(controller, data=incompressible(500_000))
        until_settled(controller)
        sent = controller.traffic().sent_bytes
        for _ in range(4):
            eventually(lambda: not is_settled(controller))
            until_settled(controller)
        assert controller.traffic().sent_bytes - sent < 2000


def test_what_someone_cleared_from_the_broker_is_repaired(tmp_path: Path) -> None:
    with (
        a_mosquitto(tmp_path) as broker,
        a_controller(tmp_path, url_of(broker)) as controller,
    ):
        bundle = order_a_bundle(controller)
        until_settled(controller)
        with a_link(broker.port, client_id="vandal") as (vandal, inbox):
            inbox.wait_for(Connected)
            vandal.publish(text(DesiredTopic(DEVICE)), b"{}")
            vandal.publish(text(BundleTopic(bundle.digest)), b"")
            vandal.subscribe([text(BundleTopic(bundle.digest)), text(DesiredTopic(DEVICE))])
            while inbox.message(text(BundleTopic(bundle.digest))).payload != bundle.envelope:
                pass
        assert fetch_bundle(broker.port, controller) == bundle.digest


def test_a_chunk_that_the_broker_lost_comes_for_a_device_that_wants_it(tmp_path: Path) -> None:
    with (
        a_mosquitto(tmp_path) as broker,
        a_controller(tmp_path, url_of(broker)) as controller,
        a_link(broker.port, client_id=DEVICE) as (link, inbox),
    ):
        bundle = order_a_bundle(controller)
        until_settled(controller)
        chunk = blobs_of(bundle.manifest)[0].chunks[0]
        link.publish(text(BlobTopic(chunk)), b"")
        link.subscribe([text(BlobTopic(chunk))])
        link.publish(text(WantsTopic(DEVICE)), codec.encode(a_wants([chunk])))
        while not (data := inbox.message(text(BlobTopic(chunk))).payload):
            pass
        check_digest(data, chunk)


def test_events_are_acknowledged_once_they_stand_in_the_database(tmp_path: Path) -> None:
    with (
        a_mosquitto(tmp_path) as broker,
        a_controller(tmp_path, url_of(broker)) as controller,
        a_link(broker.port, text(AcksTopic(DEVICE)), client_id=DEVICE) as (link, inbox),
    ):
        order_a_bundle(controller)
        inbox.wait_for(Connected)
        for seq in (2, 3, 1, 3):
            event = an_event(seq, deployment=a_deployment(deployment="v1:pi-1"))
            link.publish(text(EventsTopic(DEVICE)), codec.encode(event))
        last = Ack(store_id=a_store_id(), seq=3)
        while codec.decode(Ack, inbox.message(text(AcksTopic(DEVICE))).payload) != last:
            pass


def test_a_thousand_events_are_all_acknowledged(tmp_path: Path) -> None:
    with (
        a_mosquitto(tmp_path) as broker,
        a_controller(tmp_path, url_of(broker)) as controller,
        a_link(broker.port, text(AcksTopic(DEVICE)), client_id=DEVICE) as (link, inbox),
    ):
        order_a_bundle(controller)
        inbox.wait_for(Connected)
        for seq in range(1, 1001):
            link.publish(text(EventsTopic(DEVICE)), codec.encode(an_event(seq)))
        last = Ack(store_id=a_store_id(), seq=1000)
        while codec.decode(Ack, inbox.message(text(AcksTopic(DEVICE))).payload) != last:
            pass


def test_a_report_that_the_broker_kept_is_read_at_the_next_start(tmp_path: Path) -> None:
    with a_mosquitto(tmp_path) as broker:
        with a_controller(tmp_path, url_of(broker)) as controller:
            order_a_bundle(controller)
        with a_link(broker.port, client_id=DEVICE) as (link, inbox):
            inbox.wait_for(Connected)
            link.publish(text(ReportedTopic(DEVICE)), codec.encode(a_reported(report_seq=7)))
            eventually(lambda: link.backlog == 0)
        with a_controller(tmp_path, url_of(broker)) as controller:
            eventually(lambda: report_seq_of(controller) == 7)


def test_work_is_refused_once_the_controller_has_closed(tmp_path: Path) -> None:
    with a_mosquitto(tmp_path) as broker, a_controller(tmp_path, url_of(broker)) as controller:
        assert controller.decide(lambda desk: isinstance(desk, Desk))
        with pytest.raises(ZeroDivisionError):
            controller.decide(lambda _: 1 // 0)
    with pytest.raises(Closing):
        controller.decide(lambda _: None)
