"""The kernel tells whose a connection is, on a Unix socket and on loopback."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from wherry_agent.serving.peers import UnknownUser, peer_of, user_id_of


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client and the server's end of its connection."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        accepted, _ = server.accept()
        with accepted:
            yield client, accepted


Pair: TypeAlias = tuple[socket.socket, socket.socket]


def test_a_loopback_connection_is_its_users(pair: Pair) -> None:
    client, accepted = pair
    assert peer_of(accepted) == os.geteuid()
    client.shutdown(socket.SHUT_WR)  # In other states a socket may be nobody's.
    assert peer_of(accepted) is None


def test_a_connection_of_a_unix_socket_is_its_users() -> None:
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        assert peer_of(here) == os.geteuid()


def test_without_the_kernels_table_nobody_is_known(pair: Pair, tmp_path: Path) -> None:
    assert peer_of(pair[1], tmp_path) is None
    (tmp_path / "tcp").write_text("sl local\n")
    assert peer_of(pair[1], tmp_path) is None
    pair[1].close()
    assert peer_of(pair[1]) is None


def test_users_are_named_or_numbered() -> None:
    assert user_id_of("123") == 123
    assert user_id_of(pwd.getpwuid(os.geteuid()).pw_name) == os.geteuid()
    with pytest.raises(UnknownUser, match="there is no user 'no such user'"):
        user_id_of("no such user")
