"""The server over real sockets: who may connect, what is too much, and how it ends."""

from __future__ import annotations

import gzip
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.benches import ALIAS, PATIENCE_S, Bench, a_bench, a_get, an_infer_request
from tests.agent.bundles import a_bundle, images
from tests.agent.serving.calls import Caller, a_server
from wherry.names import DeviceId, ProfileName
from wherry_agent.berth import ArenaBerth
from wherry_agent.engine import EngineSettings
from wherry_agent.serving import CannotListen, ListenSettings, Server, listen_settings
from wherry_agent.serving.arriving import HttpLimits
from wherry_agent.settings import ApiSettings, Settings

pytestmark = pytest.mark.system

BUNDLE = a_bundle()
STRANGER = str(os.geteuid() + 1)
INFER = f"/v2/models/{ALIAS}/infer"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with a_bench(tmp_path_factory.mktemp("bench")) as bench:
        bench.serve(BUNDLE)
        yield bench


def a_request(rows: int = 1) -> bytes:
    _, _, body = an_infer_request(images(rows)).partition(b"\r\n\r\n")
    return body


def test_the_sockets_mode_and_group_are_as_set(bench: Bench, tmp_path: Path) -> None:
    path, group = tmp_path / "api", 1 if os.geteuid() == 0 else os.getgroups()[-1]
    with a_server(bench, ListenSettings(socket_path=path, mode=0o600, group=str(group))):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.stat().st_gid == group
    assert not path.exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"group": "no such group"}, "no group 'no such group'"),
        ({"users": ("no such user",)}, "no user 'no such user'"),
        ({"socket_path": Path("/no/such/folder/api")}, "No such file"),
    ],
)
def test_a_server_that_cannot_listen_says_why(
    bench: Bench, tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    settings = ListenSettings(**{"socket_path": tmp_path / "api", **changes})  # type: ignore[arg-type]
    with pytest.raises(CannotListen, match=sentence):
        Server(bench.engine, bench.recorder, settings).start()


def test_only_the_users_of_the_settings_are_answered(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The agent's own user is always answered, so the server must be somebody else's.
    monkeypatch.setattr("wherry_agent.serving.os.geteuid", lambda: int(STRANGER))
    path = tmp_path / "api"
    for users, status in (((STRANGER,), 403), ((STRANGER, str(os.getuid())), 200)):
        with a_server(bench, ListenSettings(socket_path=path, port=0, users=users)) as server:
            called = Caller(path).get("/v2/health/live")
            assert called.status == status
            assert status == 200 or "is not among the `users`" in called.error
            with socket.create_connection(("127.0.0.1", server.port or 0)) as wire:
                wire.sendall(b"GET /v2/health/live HTTP/1.1\r\n\r\n")
                assert wire.recv(4096).startswith(f"HTTP/1.1 {status} ".encode())


def a_padded_request() -> tuple[bytes, dict[str, str]]:
    """Return a large body that ends with a tensor, and the header that says where that begins."""
    rows = images(1)
    parameters = {"binary_data_size": rows.nbytes}
    described = {"name": "image", "datatype": "FP32", "shape": rows.shape, "parameters": parameters}
    head = json.dumps({"inputs": [described]}).encode().ljust(40_000)
    return head + rows.tobytes(), {"inference-header-content-length": str(len(head))}


def test_a_large_body_is_asked_from_where_it_arrives(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(ArenaBerth, "ask", lambda _, number: asked.append(number))
    path, (body, headers) = tmp_path / "api", a_padded_request()
    with a_server(bench, ListenSettings(socket_path=path)):
        for status, more in ((200, {}), (400, {"inference-header-content-length": "0" * 30})):
            called = Caller(path).call("POST", INFER, body, {**headers, **more})
            assert called.status == status
        assert len(asked) == 1


@pytest.mark.parametrize(
    ("path", "head_bytes"),
    [
        (INFER, ""),
        (INFER, "١"),
        (INFER, "-1"),
        (INFER, "9" * 5000),
        (INFER, str((64 << 10) + 1)),
        ("/v2/models/other/infer", "100"),
        (f"/v2/models/{ALIAS}", "100"),
    ],
)
def test_only_a_body_with_a_short_head_for_who_answers_arrives_in_its_memory(
    bench: Bench, tmp_path: Path, path: str, head_bytes: str
) -> None:
    with a_server(bench, ListenSettings(socket_path=tmp_path / "api")) as server:
        find = server._api.berth
        assert find(path, {"inference-header-content-length": head_bytes}, 1 << 20) is None


def test_whose_a_connection_is_costs_only_those_who_need_to_know_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[socket.socket] = []
    monkeypatch.setattr("wherry_agent.serving.peer_of", asked.append)
    path = tmp_path / "api"
    with a_server(bench, ListenSettings(socket_path=path)):
        assert Caller(path).call("POST", INFER, a_request()).status == 200
        assert not asked
        Caller(path).get("/v2/systemsharedmemory/status")
        assert len(asked) == 1


def test_the_agents_own_user_is_always_answered(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "api"
    with a_server(bench, ListenSettings(socket_path=path, users=(STRANGER,))):
        assert Caller(path).get("/v2/health/live").status == 200


def test_regions_end_with_the_server_or_when_they_are_gone_and_unused(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wherry_agent.serving.SWEEP_S", 0.01)
    monkeypatch.setattr("wherry_agent.serving.regions.UNUSED_S", 0.0)
    path, files = tmp_path / "api", Path("/proc/self/fd")
    registration = {"key": "frames", "byte_size": 8}
    settings = ListenSettings(socket_path=path, shared_folder=tmp_path)
    for ends in ("unlinked", "server closed"):
        (tmp_path / "frames").write_bytes(bytes(8))
        before = len(list(files.iterdir()))
        with a_server(bench, settings):
            caller = Caller(path)
            told = caller.post("/v2/systemsharedmemory/region/r/register", registration)
            assert (told.status, told.body) == (200, b"")
            if ends == "unlinked":
                (tmp_path / "frames").unlink()
                for _ in range(10_000):
                    if caller.get("/v2/systemsharedmemory/status").body == b"[]":
                        break
                else:
                    raise AssertionError("a region that is gone is kept")
        assert len(list(files.iterdir())) == before


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ("host: 127.0.0.1:9000", 200),
        ("host: LOCALHOST", 200),
        ("host: [::1]:80", 200),
        ("x: y", 200),
        ("host: evil.example:9000", 403),
        ("host: evil.example", 403),
        ("host: localhost\r\norigin: http://evil.example", 403),
        ("host: localhost\r\norigin: null", 403),
    ],
)
def test_web_pages_are_not_answered(bench: Bench, lines: str, status: int) -> None:
    with socket.create_connection(("127.0.0.1", bench.server.port or 0)) as wire:
        wire.sendall(f"GET /v2/health/live HTTP/1.1\r\n{lines}\r\n\r\n".encode())
        assert wire.recv(4096).startswith(f"HTTP/1.1 {status} ".encode())


def test_one_connection_too_many_is_told_to_come_back(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "api"
    with a_server(bench, ListenSettings(socket_path=path, connections=1)):
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(path))
            first.sendall(a_get("/v2/health/live"))
            assert first.recv(4096).startswith(b"HTTP/1.1 200 ")
            refused = Caller(path).get("/v2/health/live")
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert "too many connections" in refused.error
        for _ in range(100):  # Until the server has seen that the first one went.
            if Caller(path).get("/v2/health/live").status == 200:
                break
        else:
            raise AssertionError("a connection that went still counts")


def test_coded_bodies_are_read_and_bombs_are_not(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "api"
    settings = ListenSettings(socket_path=path, http=HttpLimits(body_bytes=4096))
    with a_server(bench, settings):
        caller = Caller(path)
        coded = caller.post(INFER, gzip.compress(a_request()), {"content-encoding": "gzip"})
        assert coded.status == 200
        bomb = gzip.compress(bytes(10 << 20), 9)
        assert len(bomb) > 4096
        told = caller.post(INFER, gzip.compress(bytes(1 << 20), 9), {"content-encoding": "gzip"})
        assert (told.status, "at most 4096 bytes" in told.error) == (413, True)
        assert caller.post(INFER, bomb, {"content-encoding": "gzip"}).status == 413
        unknown = caller.post(INFER, b"x", {"content-encoding": "br"})
        assert (unknown.status, unknown.headers["accept-encoding"]) == (415, "gzip, deflate")
        assert caller.post(INFER, b"x", {"content-encoding": "gzip"}).status == 400
        answer = caller.post(INFER, a_request(16), {"accept-encoding": "gzip"})
        assert json.loads(gzip.decompress(answer.body))["model_name"] == ALIAS
        assert answer.headers["content-encoding"] == "gzip"


def test_a_body_of_10_gb_is_refused_at_its_announcement(bench: Bench) -> None:
    with bench.wire() as wire:
        wire.send(f"POST {INFER} HTTP/1.1\r\ncontent-length: 10000000000\r\n\r\n".encode())
        status, body = wire.response()
        assert (status, b"at most 16777216 bytes" in body) == (413, True)


def test_metrics_are_there_by_setting(bench: Bench, tmp_path: Path) -> None:
    assert Caller(bench.socket).get("/metrics").status == 404
    path = tmp_path / "api"
    settings = ListenSettings(socket_path=path)
    server = Server(bench.engine, bench.recorder, settings, metrics=lambda: "wherry_up 1\n")
    server.start()
    told = Caller(path).get("/metrics")
    server.close()
    assert (told.status, told.body) == (200, b"wherry_up 1\n")
    assert told.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_a_request_has_no_more_in_shared_memory_than_a_body_may_have(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "frames").write_bytes(bytes(2048))
    path = tmp_path / "api"
    settings = ListenSettings(
        socket_path=path, shared_folder=tmp_path, http=HttpLimits(body_bytes=1024)
    )
    part = {"shared_memory_region": "r", "shared_memory_byte_size": 2048}
    image = {"name": "image", "datatype": "FP32", "shape": [128, 2, 2], "parameters": part}
    with a_server(bench, settings):
        caller = Caller(path)
        registration = json.dumps({"key": "frames", "byte_size": 2048}).encode()
        registered = caller.call("POST", "/v2/systemsharedmemory/region/r/register", registration)
        assert registered.status == 200
        called = caller.call("POST", INFER, json.dumps({"inputs": [image]}).encode())
        assert (called.status, "send at most 1024" in called.error) == (400, True)


def test_what_is_read_from_shared_memory_takes_of_the_room_of_all_bodies(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "frames").write_bytes(bytes(256))
    path = tmp_path / "api"
    limits = HttpLimits(body_bytes=1024, bodies_bytes=1024)
    part = {"shared_memory_region": "r", "shared_memory_byte_size": 256}
    image = {"name": "image", "datatype": "FP32", "shape": [16, 2, 2], "parameters": part}
    body = json.dumps({"inputs": [image]}).encode()
    with a_server(bench, ListenSettings(socket_path=path, shared_folder=tmp_path, http=limits)):
        caller = Caller(path)
        registration = json.dumps({"key": "frames", "byte_size": 256}).encode()
        caller.call("POST", "/v2/systemsharedmemory/region/r/register", registration)
        called = caller.call("POST", INFER, body + b" " * (800 - len(body)))
        assert (called.status, "too many bytes" in called.error) == (503, True)
        for _ in range(5):  # What was held is given back.
            assert caller.call("POST", INFER, body).status == 200


def test_shared_memory_is_not_there_by_setting(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "api"
    with a_server(bench, ListenSettings(socket_path=path, shared_memory=False)):
        caller, registration = Caller(path), {"key": "k", "byte_size": 1}
        told = caller.post("/v2/systemsharedmemory/region/r/register", registration)
        assert (told.status, "does not have" in told.error) == (501, True)
        assert caller.get("/v2/systemsharedmemory/status").body == b"[]"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "sentence"),
    [
        ("POST", "region/r/register", b"{}", 400, "registers no region"),
        ("POST", "region/r/register", b'{"key":"../etc","byte_size":1}', 400, "no name of shared"),
        ("POST", "region/r/register", b'{"key":"none","byte_size":1}', 400, "cannot be opened"),
        ("GET", "region/r/status", b"", 400, "is registered; register it first"),
        ("DELETE", "region/r", b"", 405, "takes no DELETE"),
        ("GET", "region/r/register", b"", 405, "takes no GET"),
    ],
)
def test_what_is_wrong_about_a_region_is_said(
    bench: Bench, method: str, path: str, body: bytes, status: int, sentence: str
) -> None:
    told = Caller(bench.socket).call(method, f"/v2/systemsharedmemory/{path}", body)
    assert (told.status, sentence in told.error) == (status, True), told


def test_what_was_asked_is_answered_before_the_server_ends(tmp_path: Path) -> None:
    waiting = EngineSettings(batch_rows=16, batch_wait_s=0.5)
    with a_bench(tmp_path, waiting) as bench:
        bench.serve(BUNDLE)
        path = tmp_path / "other"
        server = Server(bench.engine, bench.recorder, ListenSettings(socket_path=path))
        server.start()
        with socket.socket(socket.AF_UNIX) as idle, socket.socket(socket.AF_UNIX) as wire:
            idle.connect(str(path))
            wire.settimeout(PATIENCE_S)
            wire.connect(str(path))
            wire.sendall(an_infer_request(images(1)))
            Caller(path).get("/v2/health/live")  # What came before it has been read.
            server.close(drain_s=PATIENCE_S)
            assert wire.recv(4096).startswith(b"HTTP/1.1 200 ")
            assert wire.recv(4096) == b""
            assert idle.recv(1) == b""


def test_who_connected_before_the_server_ends_is_answered_though_it_asks_after(
    tmp_path: Path,
) -> None:
    with a_bench(tmp_path) as bench:
        path = tmp_path / "other"
        server = Server(bench.engine, bench.recorder, ListenSettings(socket_path=path))
        server.start()
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(PATIENCE_S)
            wire.connect(str(path))
            Caller(path).get("/v2/health/live")  # What came before it has been accepted.
            ending = threading.Thread(target=server.close, args=(PATIENCE_S,))
            ending.start()
            while path.exists():
                pass  # The socket goes before connections are told to finish.
            wire.sendall(a_get("/v2/health/live"))
            assert wire.recv(4096).startswith(b"HTTP/1.1 200 ")
            ending.join()


def test_a_server_that_does_not_wait_ends_at_once(tmp_path: Path) -> None:
    waiting = EngineSettings(batch_rows=16, batch_wait_s=PATIENCE_S)
    with a_bench(tmp_path, waiting) as bench:
        bench.serve(BUNDLE)
        with bench.wire() as wire:
            wire.send(an_infer_request(images(1)))
            Caller(bench.socket).get("/v2/health/live")
            bench.server.close()
            assert wire.is_closed_by_the_server()


def test_an_agents_settings_say_where_and_how_it_listens(tmp_path: Path) -> None:
    api = ApiSettings(
        socket="api.sock",
        mode="0600",
        group="video",
        users=("camera",),
        port=0,
        body_bytes=2048,
        connections=3,
        shared_memory=False,
    )
    settings = Settings(
        id=DeviceId("pi-1"), profile=ProfileName("pi"), broker="mqtt://localhost", api=api
    )
    assert listen_settings(tmp_path, settings) == ListenSettings(
        socket_path=tmp_path / "api.sock",
        mode=0o600,
        group="video",
        users=("camera",),
        port=0,
        http=HttpLimits(body_bytes=2048),
        connections=3,
        shared_memory=False,
    )
