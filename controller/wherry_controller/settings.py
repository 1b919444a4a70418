"""What an operator may set: `wherry.toml` in the controller's folder, read once.

Every default stands here. An unknown key is an error; the environment may name the few values
that differ from machine to machine (`WHERRY_DATABASE`, `WHERRY_BROKER`, `WHERRY_HTTP_PORT`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeAlias
from urllib.parse import urlsplit

import msgspec
from msgspec.structs import replace

from wherry.errors import Malformed, Unavailable
from wherry.messages import Pace
from wherry.trust.making import Lifetimes
from wherry_controller.core.build import Limits
from wherry_controller.core.written import read

FILE = "wherry.toml"
EMBEDDED = "embedded"
PORTS = {"mqtt": 1883, "mqtts": 8883}

Port: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class NoFolder(Unavailable):
    """A folder that is no controller's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def __str__(self) -> str:
        return f"{self.folder} holds no {FILE}: make it a controller's folder with `wherry init`."


class BadSetting(Malformed):
    """A value that its setting cannot have."""

    def __init__(self, key: str, value: str, form: str) -> None:
        super().__init__(key, value, form)
        self.key, self.value, self.form = key, value, form

    def __str__(self) -> str:
        return f"the setting {self.key} cannot be {self.value!r}: write {self.form}."


class Http(msgspec.Struct, frozen=True, kw_only=True):
    """Where the HTTP API listens."""

    host: str = "127.0.0.1"
    port: Port = 8321


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """The doors for devices: `port` to enrol and renew, `blob_port` to read blobs by range.

    `names` are the hosts and addresses that devices reach them by, the first one first; `broker` is
    the broker's URL as devices reach it, and `fetch_broker` its listener for fetching: None where
    they are the controller's own. A certificate lasts `certificate_s` and may be renewed until
    `renew_grace_s` after its end. A token lasts `token_s` unless it is said otherwise. An address
    may ask `per_second` times, `burst` at once.
    """

    host: str = "127.0.0.1"
    port: Port = 8322
    blob_port: Port = 8323
    names: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("localhost", "127.0.0.1")
    broker: str | None = None
    fetch_broker: str | None = None
    certificate_s: Annotated[float, msgspec.Meta(gt=0)] = 30 * 86400.0
    renew_grace_s: Annotated[float, msgspec.Meta(ge=0)] = 365 * 86400.0
    token_s: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    per_second: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    burst: Annotated[int, msgspec.Meta(ge=1)] = 120

    @property
    def url(self) -> str:
        """Where devices enrol and renew."""
        return f"https://{self.names[0]}:{self.port}"

    @property
    def blob_url(self) -> str:
        """Where devices read blobs."""
        return f"https://{self.names[0]}:{self.blob_port}"


class Broker(msgspec.Struct, frozen=True, kw_only=True):
    """The broker, and how the controller treats it.

    `fetch_url` is its listener for fetching: of a broker with TLS the port after that of `url`,
    where None is said, else the same. `folder` holds what `wherry broker config` wrote; `reload` is
    the pid file or the systemd service by which that broker is told to read it again, by default
    the pid file that it keeps there.
    `budget_bytes` bounds what is retained at once; `inflight` the publications that no PUBACK
    has answered; `want_again_s` how soon a chunk that a device misses is published again.
    """

    url: str = "mqtt://127.0.0.1:1883"
    fetch_url: str | None = None
    folder: str = "broker"
    reload: str | None = None
    embedded_port: Port = 1883
    client_id: str = "wherry-controller"
    budget_bytes: int = 256 * 1024 * 1024
    inflight: int = 16
    keepalive_s: int = 30
    longest_backoff_s: float = 30.0
    reconcile_s: float = 60.0
    collect_s: float = 1.0
    want_again_s: float = 30.0


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """How devices are watched: when a silent one counts as offline, how often acks are sent.

    `reconnects_per_s` is how many devices the broker shall take back in a second after all of them
    lost it: the larger the fleet, the longer its reconnects are spread.
    """

    online_deadline_s: float = 120.0
    ack_s: float = 1.0
    reconnects_per_s: Annotated[float, msgspec.Meta(gt=0)] = 100.0


class Gates(msgspec.Struct, frozen=True, kw_only=True):
    """How often open rollouts are judged, and how far back an incumbent's windows count."""

    judge_s: float = 2.0
    incumbent_span_s: float = 86400.0


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """What a build may use, and what builds leave behind.

    `processes`, `memory_bytes` (of all of them together) and `deadline_s` bound one run of the
    builder; a build that devices measure has two, and the wait between them counts in neither.
    `at_once` says how many run beside each other. `cache_bytes` bounds what is kept of their steps
    for the next build of a version. `measure_silence_s` is how long a build waits for devices that
    measure its candidates, since any of them answered.
    """

    at_once: Annotated[int, msgspec.Meta(ge=1)] = 1
    processes: Annotated[int, msgspec.Meta(ge=1)] = Limits().processes
    memory_bytes: Annotated[int, msgspec.Meta(ge=1)] = Limits().memory_bytes
    deadline_s: Annotated[float, msgspec.Meta(gt=0)] = Limits().deadline_s
    cache_bytes: Annotated[int, msgspec.Meta(ge=0)] = 10 << 30
    measure_silence_s: Annotated[float, msgspec.Meta(gt=0)] = 900.0

    @property
    def limits(self) -> Limits:
        return Limits(
            processes=self.processes, memory_bytes=self.memory_bytes, deadline_s=self.deadline_s
        )


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What the devices at one site may fetch together."""

    bytes_per_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    bytes_per_day: Annotated[int, msgspec.Meta(ge=0)] | None = None


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """How bundles reach devices.

    `sources` are HTTP(S) folders of blobs, each device's second way. The limits are of any one
    device and of any one site (the devices whose tag `site` is the same); `sites` has the limits of
    single sites by name. `lease_s` is how long a bundle that was cleared stays on the broker, once
    a device has wanted a part of it. `deltas` false: every blob goes whole.
    """

    sources: tuple[str, ...] = ()
    device_bytes_per_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    device_bytes_per_day: Annotated[int, msgspec.Meta(ge=0)] | None = None
    site_bytes_per_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    site_bytes_per_day: Annotated[int, msgspec.Meta(ge=0)] | None = None
    sites: dict[str, Site] = {}
    lease_s: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    deltas: bool = True

    @property
    def device_pace(self) -> Pace:
        return Pace(bytes_per_s=self.device_bytes_per_s, bytes_per_day=self.device_bytes_per_day)

    @property
    def site_pace(self) -> Pace:
        return Pace(bytes_per_s=self.site_bytes_per_s, bytes_per_day=self.site_bytes_per_day)

    def pace_of(self, site: str) -> Pace:
        """Return the pace that the devices of a site share."""
        own = self.sites.get(site)
        if own is None:
            return self.site_pace
        return Pace(bytes_per_s=own.bytes_per_s, bytes_per_day=own.bytes_per_day)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings; a relative path is under `folder`, which is the file's own by default."""

    folder: str = "."
    database: str = "sqlite:///wherry.db"
    blobs: str = "blobs"
    keys: str = "keys"
    authority: str = "authority"
    logs: str = "logs"
    largest_blob_bytes: int = 2 << 30
    http: Http = Http()
    door: Door = Door()
    broker: Broker = Broker()
    fleet: Fleet = Fleet()
    gates: Gates = Gates()
    build: Build = Build()
    trust: Lifetimes = Lifetimes()
    delivery: Delivery = Delivery()

    @property
    def database_url(self) -> str:
        """The URL with SQLite's relative path made absolute."""
        scheme, _, path = self.database.partition(":///")
        if scheme != "sqlite" or not path:
            return self.database
        return f"{scheme}:///{Path(self.folder) / path}"

    @property
    def blob_folder(self) -> Path:
        return Path(self.folder) / self.blobs

    @property
    def key_folder(self) -> Path:
        return Path(self.folder) / self.keys

    @property
    def authority_folder(self) -> Path:
        """Where the certificate authority is, its list, and what it issued to the controller."""
        return Path(self.folder) / self.authority

    @property
    def log_folder(self) -> Path:
        return Path(self.folder) / self.logs

    @property
    def broker_address(self) -> tuple[str, int]:
        """The broker's host and port; raises `BadSetting` for a URL that names none."""
        if self.broker.url == EMBEDDED:
            return "127.0.0.1", self.broker.embedded_port
        _, host, port = _address("broker.url", self.broker.url)
        return host, port

    @property
    def has_guarded_broker(self) -> bool:
        """Whether the broker asks for certificates and keeps rights."""
        return self.broker.url.startswith("mqtts:")

    @property
    def broker_url(self) -> str:
        """The broker's URL in full."""
        scheme = "mqtts" if self.has_guarded_broker else "mqtt"
        return _spell(scheme, *self.broker_address)

    @property
    def fetch_url(self) -> str:
        """The URL of the broker's listener for fetching, in full."""
        if self.broker.fetch_url is not None:
            return _spell(*_address("broker.fetch_url", self.broker.fetch_url))
        host, port = self.broker_address
        return _spell("mqtts", host, port + 1) if self.has_guarded_broker else self.broker_url

    @property
    def broker_folder(self) -> Path:
        return Path(self.folder) / self.broker.folder


def read_settings(folder: Path, environment: Mapping[str, str]) -> Settings:
    """Return the settings of the controller in `folder`.

    Raises `NoFolder` where there is no `wherry.toml`, `BadFile` for a key or a value that it
    cannot have, and `BadSetting` for one that the environment names.
    """
    try:
        data = (folder / FILE).read_bytes()
    except FileNotFoundError as error:
        raise NoFolder(folder) from error
    settings = read(Settings, FILE, data)
    settings = replace(settings, folder=str((folder / settings.folder).resolve()))
    return _with_environment(settings, environment)


def _address(key: str, url: str) -> tuple[str, str, int]:
    unfit = BadSetting(key, url, "mqtts://HOST:PORT, mqtt://HOST:PORT or embedded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise unfit from error
    if parts.scheme not in PORTS or not parts.hostname:
        raise unfit
    return parts.scheme, parts.hostname, port or PORTS[parts.scheme]


def _spell(scheme: str, host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}:{port}"


def _with_environment(settings: Settings, environment: Mapping[str, str]) -> Settings:
    broker = replace(settings.broker, url=environment.get("WHERRY_BROKER", settings.broker.url))
    port = environment.get("WHERRY_HTTP_PORT", str(settings.http.port))
    if not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise BadSetting("WHERRY_HTTP_PORT", port, "a port from 0 to 65535")
    return replace(
        settings,
        database=environment.get("WHERRY_DATABASE", settings.database),
        broker=broker,
        http=replace(settings.http, port=int(port)),
    )
