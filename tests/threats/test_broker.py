"""What a stranger, a thief and a device gone bad can do at the broker: nothing that counts.

A real mosquitto on what `wherry broker config` writes; each refusal is the broker's own word.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.certificates import NOW, an_authority
from tests.controller.guarded import Guarded, a_guarded_broker
from tests.controller.visitors import Visitor, a_visitor
from wherry.names import DeviceId, parse_device_id, parse_digest
from wherry.topics import (
    AcksTopic,
    BlobTopic,
    BundleTopic,
    DesiredTopic,
    EventsTopic,
    PresenceTopic,
    ReportedTopic,
    TelemetryTopic,
    TimestampTopic,
    Topic,
    WantsTopic,
    text,
)
from wherry_controller.core import rights

pytestmark = pytest.mark.system

ONE, OTHER = parse_device_id("one"), parse_device_id("other")
REFUSED = "Not authorized"
CHUNK = BlobTopic(parse_digest("c" * 64))
MANIFEST = BundleTopic(parse_digest("b" * 64))
OF_A_DEVICE = (ReportedTopic, EventsTopic, TelemetryTopic, PresenceTopic, WantsTopic)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Run a broker that knows two devices and retains a chunk, a manifest and their orders."""
    with a_guarded_broker(tmp_path_factory.mktemp("guarded"), ONE, OTHER) as broker:
        with a_visitor(broker.control_port, broker.controllers()) as controller:
            for topic in (
                CHUNK,
                MANIFEST,
                TimestampTopic(),
                DesiredTopic(ONE),
                DesiredTopic(OTHER),
            ):
                controller.publish(text(topic), b"true", retain=True)
        yield broker


@pytest.fixture
def listener(broker: Guarded) -> Iterator[Visitor]:
    """Return the controller, who hears what devices said from now on."""
    with a_visitor(broker.control_port, broker.controllers()) as listener:
        for kind in OF_A_DEVICE:
            assert listener.subscribe(text(kind(OTHER))) == "subscribe: Granted QoS 1"
        yield listener


def a_device(broker: Guarded, device: DeviceId = ONE) -> Iterator[Visitor]:
    context = broker.dialler(broker.authority.issue_client(device))
    with a_visitor(broker.control_port, context) as visitor:
        yield visitor


@pytest.fixture
def one(broker: Guarded) -> Iterator[Visitor]:
    """Return device `one` on its control connection."""
    yield from a_device(broker)


@pytest.fixture
def fetching(broker: Guarded) -> Iterator[Visitor]:
    """Return device `one` on its fetch connection."""
    context = broker.dialler(broker.authority.issue_client(ONE))
    with a_visitor(broker.fetch_port, context) as visitor:
        yield visitor


def alert(port: int, context: ssl.SSLContext) -> str | None:
    """Dial; return the reason of the TLS alert that the broker answers with."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5.0) as link,
        context.wrap_socket(link, server_hostname="127.0.0.1") as secured,
    ):
        try:
            secured.recv(1)
        except ssl.SSLError as error:
            return error.reason
    return None


def ports(broker: Guarded) -> tuple[int, int]:
    return broker.control_port, broker.fetch_port


def test_a_certificate_of_another_authority_is_refused(broker: Guarded) -> None:
    stranger = broker.dialler(an_authority().issue_client(ONE))
    for port in ports(broker):
        assert alert(port, stranger) == "TLSV1_ALERT_UNKNOWN_CA"


def test_an_expired_certificate_is_refused(broker: Guarded) -> None:
    ended = broker.authority.issue_client(ONE, ends=NOW - timedelta(seconds=1))
    for port in ports(broker):
        assert alert(port, broker.dialler(ended)) == "SSLV3_ALERT_CERTIFICATE_EXPIRED"


def test_whoever_shows_no_certificate_is_refused(broker: Guarded) -> None:
    nobody = ssl.create_default_context(cadata=broker.authority.certificate.decode())
    for port in ports(broker):
        assert alert(port, nobody) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"


def test_a_revoked_certificate_is_refused_from_the_next_reload_on(tmp_path: Path) -> None:
    with a_guarded_broker(tmp_path, ONE) as broker:
        stolen = broker.authority.issue_client(ONE)
        context = broker.dialler(stolen, name="stolen")
        with a_visitor(broker.control_port, context) as thief:
            broker.revoke(stolen.serial)
            for port in ports(broker):
                assert alert(port, context) == "SSLV3_ALERT_CERTIFICATE_REVOKED"
            # The live session goes on: it has to be ended, see the next test.
            assert thief.publish(text(EventsTopic(ONE))).startswith("publish: ")
        with a_visitor(
            broker.control_port, broker.dialler(broker.authority.issue_client(ONE), name="new")
        ) as renewed:
            assert renewed.publish(text(EventsTopic(ONE))) != f"publish: {REFUSED}"


def test_a_device_that_is_revoked_loses_both_live_connections_and_every_right(
    broker: Guarded,
) -> None:
    gone = parse_device_id("gone")
    context = broker.dialler(broker.authority.issue_client(gone), name="gone")
    with a_visitor(broker.control_port, broker.controllers()) as controller:
        controller.publish(rights.REQUESTS, rights.request(rights.grant(gone)))
        with (
            a_visitor(broker.control_port, context) as told,
            a_visitor(broker.fetch_port, context) as fetching,
        ):
            assert told.publish(text(EventsTopic(gone))) != f"publish: {REFUSED}"
            assert fetching.subscribe(text(CHUNK)) == "subscribe: Granted QoS 1"
            controller.publish(rights.REQUESTS, rights.request(rights.revoke(gone)))
            assert told.next() == "end: Administrative action"
            assert fetching.next() == "end: Administrative action"
    with a_visitor(broker.control_port, context) as again:
        assert again.publish(text(EventsTopic(gone))) == f"publish: {REFUSED}"
        assert again.subscribe(text(DesiredTopic(gone))) == f"subscribe: {REFUSED}"
    with a_visitor(broker.fetch_port, context) as again:
        assert again.subscribe(text(CHUNK)) == f"subscribe: {REFUSED}"


def test_a_device_that_nobody_added_may_do_nothing(broker: Guarded) -> None:
    nobody = parse_device_id("nobody")
    for visitor in a_device(broker, nobody):
        assert visitor.publish(text(ReportedTopic(nobody))) == f"publish: {REFUSED}"
        assert visitor.subscribe(text(DesiredTopic(nobody))) == f"subscribe: {REFUSED}"
        assert visitor.subscribe(text(TimestampTopic())) == f"subscribe: {REFUSED}"


def test_a_certificate_takes_no_other_client_id(broker: Guarded) -> None:
    shown = {device: broker.authority.issue_client(device) for device in (ONE, OTHER)}
    with a_visitor(
        broker.control_port, broker.dialler(shown[OTHER], name="other"), name=OTHER
    ) as other:
        context = broker.dialler(shown[ONE], name="one")
        with a_visitor(broker.control_port, context, name=OTHER) as thief:
            assert other.publish(text(EventsTopic(OTHER))) != f"publish: {REFUSED}"
            assert thief.publish(text(EventsTopic(OTHER))) == f"publish: {REFUSED}"
        with a_visitor(broker.fetch_port, context, name=OTHER):
            assert other.publish(text(EventsTopic(OTHER))) != f"publish: {REFUSED}"


def test_two_connections_of_one_certificate_live_beside_each_other(
    one: Visitor, fetching: Visitor
) -> None:
    assert one.subscribe(text(DesiredTopic(ONE))) == "subscribe: Granted QoS 1"
    assert fetching.subscribe(text(CHUNK)) == "subscribe: Granted QoS 1"
    assert one.hear() == (text(DesiredTopic(ONE)), b"true")
    assert fetching.hear() == (text(CHUNK), b"true")


@pytest.mark.parametrize("kind", OF_A_DEVICE)
def test_a_device_cannot_publish_as_another(
    one: Visitor, listener: Visitor, kind: type[ReportedTopic]
) -> None:
    assert one.publish(text(kind(OTHER)), b"forged") == f"publish: {REFUSED}"
    assert listener.hears_nothing()
    assert one.publish(text(kind(ONE))) != f"publish: {REFUSED}"


def test_a_will_in_anothers_name_is_not_said(broker: Guarded, listener: Visitor) -> None:
    context = broker.dialler(broker.authority.issue_client(ONE))
    with a_visitor(broker.control_port, context, will=text(PresenceTopic(OTHER))) as forger:
        forger.vanish()
        forger.next()
    with a_visitor(broker.control_port, context):
        assert listener.hears_nothing()


@pytest.mark.parametrize(
    "topic",
    [DesiredTopic(ONE), AcksTopic(ONE), DesiredTopic(OTHER), CHUNK, MANIFEST, TimestampTopic()],
    ids=text,
)
def test_a_device_cannot_publish_what_only_the_controller_says(
    one: Visitor, fetching: Visitor, broker: Guarded, topic: Topic
) -> None:
    for device in (one, fetching):
        assert device.publish(text(topic), b"forged", retain=True) == f"publish: {REFUSED}"
    with a_visitor(broker.control_port, broker.controllers()) as controller:
        controller.subscribe("wherry/v1/#")
        heard = [controller.hear() for _ in range(5)]
        assert {payload for _, payload in heard} == {b"true"}


@pytest.mark.parametrize(
    "asked",
    [
        text(DesiredTopic(OTHER)),
        text(AcksTopic(OTHER)),
        text(ReportedTopic(OTHER)),
        "wherry/v1/devices/+/desired",
        "wherry/v1/devices/#",
        "wherry/v1/#",
        "#",
        "+/+/+/+/+",
        "$SYS/#",
        "$CONTROL/#",
        rights.ANSWERS,
        f"$share/any/{text(DesiredTopic(OTHER))}",
        text(CHUNK),
    ],
)
def test_a_device_hears_nothing_of_others(one: Visitor, asked: str) -> None:
    assert one.subscribe(asked) == f"subscribe: {REFUSED}"
    assert one.hears_nothing()


@pytest.mark.parametrize(
    "asked",
    [
        "wherry/v1/blobs/+",
        "wherry/v1/blobs/#",
        "wherry/v1/bundles/+",
        "wherry/v1/bundles/#",
        "wherry/v1/+/+",
        f"wherry/v1/+/{'c' * 64}",
        "+/+/blobs/+",
        "wherry/v1/#",
        "#",
        "+/+/+/+",
        "$share/any/wherry/v1/blobs/+",
        "$share/any/wherry/v1/blobs/#",
        "$share/any/#",
        text(DesiredTopic(ONE)),
    ],
)
def test_a_wildcard_subscription_to_chunks_or_manifests_is_refused(
    fetching: Visitor, asked: str
) -> None:
    assert fetching.subscribe(asked) == f"subscribe: {REFUSED}"
    assert fetching.hears_nothing()


def test_a_fetch_connection_says_nothing(fetching: Visitor) -> None:
    for kind in OF_A_DEVICE:
        assert fetching.publish(text(kind(ONE))) == f"publish: {REFUSED}"


def test_a_device_cannot_change_rights(broker: Guarded, one: Visitor, fetching: Visitor) -> None:
    wish = rights.request(rights.revoke(OTHER))
    for device in (one, fetching):
        assert device.publish(rights.REQUESTS, wish) == f"publish: {REFUSED}"
    for other in a_device(broker, OTHER):
        assert other.subscribe(text(DesiredTopic(OTHER))) == "subscribe: Granted QoS 1"


def test_an_oversized_packet_ends_its_senders_connection_and_reaches_nobody(
    broker: Guarded, listener: Visitor
) -> None:
    for other in a_device(broker, OTHER):
        too_large = bytes(2 << 20)
        assert other.publish(text(EventsTopic(OTHER)), too_large).startswith("end: ")
    assert b"Client other disconnected due to oversize packet." in broker.log()
    assert listener.hears_nothing()


def test_a_device_cannot_pose_as_the_broker(broker: Guarded) -> None:
    """Its certificate is of the same authority, and it is no server's."""
    shown = broker.authority.issue_client("127.0.0.1").write(broker.folder, "posing")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*shown)
    controller = broker.controllers()
    inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
    dialling = controller.wrap_bio(inward, outward, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        dialling.do_handshake()
    answered, answer = ssl.MemoryBIO(), ssl.MemoryBIO()
    answered.write(outward.read())
    with pytest.raises(ssl.SSLWantReadError):
        server.wrap_bio(answered, answer, server_side=True).do_handshake()
    inward.write(answer.read())
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        dialling.do_handshake()
    assert refused.value.verify_message == "unsuitable certificate purpose"
