"""What a real mosquitto makes of the folder that the controller writes for it."""

from __future__ import annotations

import os
import queue
import re
import socket
import ssl
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.certificates import LOCALHOST, NOW
from tests.controller.guarded import Guarded, a_guarded_broker
from tests.controller.visitors import a_visitor
from wherry.files import make_folder
from wherry.names import DeviceId, parse_device_id
from wherry.topics import EventsTopic, parse_topic, text
from wherry_controller.authority import Crl, Revoked, make_authority, make_crl
from wherry_controller.core import rights
from wherry_controller.core.mosquitto import CONFIGURATION, PID
from wherry_controller.mqtt import Arrived, Connected, Inbound, Link
from wherry_controller.services import mosquitto
from wherry_controller.services.mosquitto import NotReloaded, Upkeep
from wherry_controller.services.rights import MosquittoRights

pytestmark = pytest.mark.system

ONE, TWO, NEW = map(parse_device_id, ("one", "two", "new"))
PATIENCE_S = 20.0
DAY_S = 86_400.0
REFUSED = "Not authorized"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Guarded]:
    with a_guarded_broker(tmp_path, ONE, TWO) as broker:
        yield broker


class Desk:
    """The controller's end, as far as rights go: one that answers what the broker says."""

    def __init__(self, broker: Guarded, enrolled: Sequence[DeviceId]) -> None:
        self.enrolled = list(enrolled)
        self._inbox: queue.SimpleQueue[Inbound] = queue.SimpleQueue()
        context = broker.controllers()
        self.link = Link(
            ("127.0.0.1", broker.control_port),
            self._inbox.put,
            client_id="any",
            subscriptions=(rights.ANSWERS,),
            inflight=16,
            keepalive_s=30,
            longest_backoff_s=0.2,
            secured=lambda: context,
        )
        self.rights = MosquittoRights(self.link, lambda: self.enrolled)

    def follow(self, answers: int) -> None:
        """Take what comes until the plugin has answered so often."""
        while answers:
            match self._inbox.get(timeout=PATIENCE_S):
                case Connected():
                    self.rights.on_connected()
                case Arrived(_, payload):
                    self.rights.on_answer(payload)
                    answers -= 1
                case _:
                    pass


@contextmanager
def a_desk(broker: Guarded, *enrolled: DeviceId) -> Iterator[Desk]:
    desk = Desk(broker, enrolled)
    desk.link.start()
    try:
        yield desk
    finally:
        desk.link.close()


def a_list(broker: Guarded, serial: int) -> Crl:
    revoked = [Revoked(f"{serial:x}", NOW.timestamp())]
    return make_crl(broker.issuer, revoked, None, NOW.timestamp() + 60)


def may_speak(broker: Guarded, device: DeviceId) -> bool:
    context = broker.dialler(broker.authority.issue_client(device))
    with a_visitor(broker.control_port, context) as visitor:
        return visitor.publish(text(EventsTopic(device))) != f"publish: {REFUSED}"


def test_mosquitto_takes_the_configuration_without_a_word_of_complaint(broker: Guarded) -> None:
    said = broker.log().decode()
    assert "mosquitto version 2" in said
    complaints = [line for line in said.splitlines() if re.search(r"Error|Warning", line)]
    # Debian's own tests run as root, which it warns of.
    assert [line for line in complaints if "run as root" not in line] == []


def test_a_misspelled_line_would_keep_mosquitto_from_starting(tmp_path: Path) -> None:
    broker = Guarded(tmp_path / "broker", [ONE])
    broker.write()
    path = broker.folder / CONFIGURATION
    for line in path.read_text().splitlines():
        if line and not line.startswith("#"):
            word = line.split()[0]
            path.write_text(path.read_text().replace(f"\n{word} ", f"\nx{word} ", 1))
            break
    with pytest.raises(AssertionError):
        broker.start(patience_s=1.0)
    broker.kill()


def test_writing_it_again_changes_nothing(tmp_path: Path) -> None:
    broker = Guarded(tmp_path / "broker", [ONE])
    assert "mosquitto.conf" in broker.write().changed
    before = _contents(broker.folder)
    assert broker.write().changed == ()
    assert _contents(broker.folder) == before


def test_secrets_are_for_the_broker_alone(tmp_path: Path) -> None:
    broker = Guarded(tmp_path / "broker", [ONE])
    broker.write()
    for name, mode in {"server.key": 0o600, "state": 0o700}.items():
        assert stat.S_IMODE((broker.folder / name).stat().st_mode) == mode


def test_other_names_get_another_certificate(tmp_path: Path) -> None:
    broker = Guarded(tmp_path / "broker", [ONE])
    broker.write()
    folder, now = broker.folder, NOW.timestamp()
    assert not mosquitto.server_files(folder, broker.issuer, LOCALHOST, now)
    assert mosquitto.server_files(folder, broker.issuer, ["broker.example"], now)
    assert mosquitto.server_files(folder, make_authority(now), LOCALHOST, now)


def test_a_certificate_is_renewed_when_a_third_of_its_time_is_left(tmp_path: Path) -> None:
    broker = Guarded(tmp_path / "broker", [ONE])
    broker.write()
    now = NOW.timestamp()
    for days, is_due in ((59, False), (61, True)):
        files = mosquitto.server_files(broker.folder, broker.issuer, LOCALHOST, now + days * DAY_S)
        assert bool(files) is is_due


def test_the_rights_of_a_running_broker_are_left_to_its_plugin(broker: Guarded) -> None:
    path = broker.folder / "state/dynamic-security.json"
    before = path.read_bytes()
    broker.add(NEW)
    written = broker.write()
    assert written.was_running
    assert "state/dynamic-security.json" not in written.changed
    assert path.read_bytes() == before
    broker.stop()
    assert "state/dynamic-security.json" in broker.write().changed


def test_a_retained_chunk_and_the_rights_outlive_a_restart(broker: Guarded) -> None:
    chunk = text(parse_topic(f"wherry/v1/blobs/{'c' * 64}"))
    with a_visitor(broker.control_port, broker.controllers()) as controller:
        controller.publish(chunk, b"bytes", retain=True)
        controller.publish(rights.REQUESTS, rights.request(rights.grant(NEW)))
    broker.stop()
    broker.start()
    context = broker.dialler(broker.authority.issue_client(NEW))
    with a_visitor(broker.fetch_port, context) as fetching:
        fetching.subscribe(chunk)
        assert fetching.hear() == (chunk, b"bytes")


def test_a_device_is_let_in_and_cut_off_while_the_broker_runs(broker: Guarded) -> None:
    with a_desk(broker, ONE, TWO) as desk:
        desk.follow(2)  # What is there is as it shall be.
        assert not may_speak(broker, NEW)
        desk.rights.grant(NEW)
        desk.follow(1)
        assert may_speak(broker, NEW)
        context = broker.dialler(broker.authority.issue_client(NEW))
        with a_visitor(broker.control_port, context) as live:
            desk.rights.grant(NEW)  # Twice is the same as once.
            desk.follow(1)
            assert live.publish(text(EventsTopic(NEW))) != f"publish: {REFUSED}"
            desk.rights.revoke(NEW)
            desk.follow(1)
            assert live.next() == "end: Administrative action"
        assert not may_speak(broker, NEW)


def test_what_a_broker_missed_is_repaired_when_the_controller_is_back(broker: Guarded) -> None:
    with a_desk(broker, ONE, NEW) as desk:
        desk.follow(4)  # Roles, users, one device that ended and one that began.
        assert [may_speak(broker, device) for device in (ONE, TWO, NEW)] == [True, False, True]


def test_a_fleet_is_compared_page_by_page(broker: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wherry_controller.services.rights.PAGE", 2)
    more = [parse_device_id(f"more-{number}") for number in range(5)]
    with a_desk(broker, ONE, *more) as desk:
        # 5 roles and 5 users on 3 pages each; one device to end and five to begin.
        desk.follow(3 + 3 + 6)
        assert all(may_speak(broker, device) for device in more)
        assert not may_speak(broker, TWO)


def test_rights_that_were_lost_altogether_are_put_there_again(broker: Guarded) -> None:
    with a_desk(broker) as desk:
        desk.follow(4)
        assert not may_speak(broker, ONE)
        desk.enrolled = [ONE]
        desk.rights.on_connected()
        desk.follow(3)
        assert may_speak(broker, ONE)


def test_an_answer_that_is_none_is_told_and_changes_nothing(
    broker: Guarded, caplog: pytest.LogCaptureFixture
) -> None:
    rules = MosquittoRights(Desk(broker, [ONE]).link, lambda: [ONE])
    rules.on_answer(b"{}")
    rules.on_answer(b'{"responses":[{"command":"createRole","error":"Internal error"}]}')
    assert [r.message for r in caplog.records] == ["rights.not_understood", "rights.refused"]


def test_upkeep_has_the_broker_refuse_what_a_new_list_names(broker: Guarded) -> None:
    stolen = broker.authority.issue_client(ONE)
    context = broker.dialler(stolen, name="stolen")
    upkeep = Upkeep(broker.folder, broker.folder, broker.issuer, how=None)
    with broker.reloading():
        upkeep.hear(a_list(broker, stolen.serial))
    with (
        socket.create_connection(("127.0.0.1", broker.control_port), timeout=5.0) as link,
        context.wrap_socket(link, server_hostname="127.0.0.1") as secured,
        pytest.raises(ssl.SSLError, match="revoked"),
    ):
        secured.recv(1)


def test_upkeep_renews_both_ends_and_the_broker_shows_its_new_one(tmp_path: Path) -> None:
    broker = Guarded(tmp_path / "broker", [ONE])
    own = make_folder(tmp_path / "own")
    begun = NOW.timestamp() - 61 * DAY_S
    broker.write(begun)
    upkeep = Upkeep(broker.folder, own, broker.issuer, how=None)
    upkeep.tick(begun)
    broker.start()
    try:
        first, shown = _contents(own), _shown(broker)
        upkeep.tick(begun + DAY_S)
        assert (_contents(own), _shown(broker)) == (first, shown)
        with broker.reloading():
            upkeep.tick(NOW.timestamp())
        assert _contents(own) != first
        assert _shown(broker) != shown
    finally:
        broker.kill()


def test_upkeep_leaves_a_broker_alone_that_is_not_its_own(tmp_path: Path) -> None:
    upkeep = Upkeep(tmp_path / "nowhere", tmp_path, make_authority(0.0), how=None)
    upkeep.hear(make_crl(make_authority(0.0), [], None, 0.0))
    assert not (tmp_path / "nowhere").exists()


def test_a_broker_that_cannot_be_told_is_said_so(tmp_path: Path) -> None:
    for how in (str(tmp_path / "no.pid"), "no-such.service"):
        with pytest.raises(NotReloaded, match="SIGHUP"):
            mosquitto.reload(how)


def test_a_pid_file_that_was_left_counts_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / PID).write_text(str(os.getpid()))
    assert not mosquitto.is_running(tmp_path)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _shown(broker: Guarded) -> bytes | None:
    with (
        socket.create_connection(("127.0.0.1", broker.control_port), timeout=5.0) as link,
        broker.controllers().wrap_socket(link, server_hostname="127.0.0.1") as secured,
    ):
        return secured.getpeercert(binary_form=True)
