"""The controller's HTTP API as the commands use it: bytes of JSON out, or an end that says why."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO

import httpx
import msgspec

from wherry import codec
from wherry_controller.cli.login import Login, find
from wherry_controller.cli.outcome import Ended, Exit, of_status

PREFIX = "/api/v1"
TIMEOUT_S = 60.0
JSON = {"Content-Type": "application/json"}
TOML = {"Content-Type": "application/toml"}


class Problem(msgspec.Struct, frozen=True):
    """The part of a problem document that a command shows."""

    detail: str


class Remote:
    """One controller; each method returns the body of a successful answer, or raises `Ended`."""

    def __init__(self, login: Login) -> None:
        _check(login)
        self._url = login.url.rstrip("/")
        # A command asks seldom, so no connection is kept, and none is left open at its end.
        headers = {"Authorization": f"Bearer {login.token}", "Connection": "close"}
        # Reading the system's certificates takes 100 ms, and plain HTTP has none to verify.
        verify = not self._url.startswith("http://")
        self._client = httpx.Client(headers=headers, timeout=TIMEOUT_S, verify=verify)

    def get(self, path: str, **query: str | float | None) -> bytes:
        chosen = {name: value for name, value in query.items() if value is not None}
        return self._answer(self._client.build_request("GET", self._at(path), params=chosen))

    def post(self, path: str, body: Mapping[str, object] | None = None) -> bytes:
        content = None if body is None else codec.encode(body)
        headers = None if body is None else JSON
        return self._answer(
            self._client.build_request("POST", self._at(path), content=content, headers=headers)
        )

    def put(self, path: str, body: Mapping[str, object]) -> bytes:
        content = codec.encode(body)
        return self._answer(
            self._client.build_request("PUT", self._at(path), content=content, headers=JSON)
        )

    def put_toml(self, path: str, toml: bytes) -> bytes:
        return self._answer(
            self._client.build_request("PUT", self._at(path), content=toml, headers=TOML)
        )

    def delete(self, path: str) -> bytes:
        return self._answer(self._client.build_request("DELETE", self._at(path)))

    def upload(
        self, path: str, card: Path, files: Sequence[Path], *, opened: Callable[[Path], IO[bytes]]
    ) -> bytes:
        """Send a version's card with its files, each under its own name."""
        with ExitStack() as stack:

            def part(name: str, file: Path) -> tuple[str, tuple[str, IO[bytes]]]:
                return name, (file.name, stack.enter_context(opened(file)))

            parts = [part("card", card), *(part("files", file) for file in files)]
            return self._answer(self._client.build_request("POST", self._at(path), files=parts))

    def send(self, path: str, parts: Sequence[tuple[str, tuple[str, IO[bytes]]]]) -> bytes:
        """Send named parts, each with its file's name and content."""
        return self._answer(self._client.build_request("POST", self._at(path), files=parts))

    def fetch(self, path: str, sink: IO[bytes]) -> None:
        """Write what is at `path` to `sink`, piece by piece."""
        request = self._client.build_request("GET", self._at(path))
        with self._reaching():
            response = self._client.send(request, stream=True)
            with closing(response):
                if not response.is_success:
                    response.read()
                    raise Ended(of_status(response.status_code), self._problem(response))
                for piece in response.iter_bytes():
                    sink.write(piece)

    def _at(self, path: str) -> str:
        return f"{self._url}{PREFIX}{path}"

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise Ended(
                Exit.UNAVAILABLE,
                f"no controller answers at {self._url} ({error}): "
                "start it with `wherry serve`, or correct the address with `wherry login`.",
            ) from error

    def _answer(self, request: httpx.Request) -> bytes:
        with self._reaching():
            response = self._client.send(request)
        if response.is_success:
            return response.content
        raise Ended(of_status(response.status_code), self._problem(response))

    def _problem(self, response: httpx.Response) -> str:
        try:
            return msgspec.json.decode(response.content, type=Problem).detail
        except msgspec.DecodeError:
            return (
                f"{self._url} answered {response.status_code} and not as a controller does: "
                "correct the address with `wherry login`."
            )


def _check(login: Login) -> None:
    """Refuse an address or a token that no request can carry."""
    try:
        httpx.URL(login.url)
    except httpx.InvalidURL as error:
        problem = f"{login.url!r} is no address ({error}): write it http://HOST:PORT."
        raise Ended(Exit.USAGE, problem) from error
    if not (login.token.isascii() and login.token.isprintable()):
        problem = "the token holds what no token holds: copy it as `wherry init` printed it."
        raise Ended(Exit.USAGE, problem)


def connect(environment: Mapping[str, str] = os.environ) -> Remote:
    """Return the controller that the environment or `wherry login` names."""
    return Remote(find(environment))
