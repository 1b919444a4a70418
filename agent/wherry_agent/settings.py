"""The agent's settings: one file in its home, read once into a frozen value.

HOME/agent.toml          what `wherry-agent enrol` wrote
HOME/identity/           who this device is: its key and certificate, the controller's CA, and
                         identity.json, which says the same without x509; replaced as a whole
HOME/trust/root.json     the root of trust (TUF) that it was enrolled with
HOME/state/              the store; nothing in it is for editing
"""

from __future__ import annotations

import os
import re
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from wherry import codec
from wherry.errors import Malformed, Unavailable, Unsuitable
from wherry.files import make_folder, write_whole
from wherry.names import DeviceId, ProfileName
from wherry_agent.core.health import Bounds

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS_FILE = "agent.toml"
IDENTITY = "identity"
IDENTITY_FILE = "identity/identity.json"
KEY_FILE = "identity/key.pem"
CERTIFICATE_FILE = "identity/cert.pem"
CA_FILE = "identity/ca.pem"
ROOT_FILE = "trust/root.json"
DEFAULT_SOCKET = "state/api.sock"
DEFAULT_HOME = Path("/var/lib/wherry-agent")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PORTS = {"mqtt": 1883, "mqtts": 8883}
_HOST = r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?|[0-9a-f:.]{2,45}"  # A name or an address.


class BadSettings(Malformed):
    """A settings file that the agent cannot follow."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(place, problem)
        self.place, self.problem = place, problem

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}; correct it, or run `wherry-agent enrol` again."


class EnrolledAlready(Unsuitable):
    """A home that belongs to another device."""

    def __init__(self, home: Path, known: DeviceId, wanted: DeviceId) -> None:
        super().__init__(home, known, wanted)
        self.home, self.known, self.wanted = home, known, wanted

    def __str__(self) -> str:
        return (
            f"{self.home} is enrolled as {self.known} and not as {self.wanted}: "
            "give another --home, or remove that one first."
        )


class NotEnrolled(Unavailable):
    """A home without settings."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.home = home

    def __str__(self) -> str:
        return f"no agent is enrolled in {self.home}: run `wherry-agent enrol` first."


class EnrolledEarlier(Unsuitable):
    """A home that a release before 0.4.0 enrolled: it has neither identity nor root of trust."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.home = home

    def __str__(self) -> str:
        return (
            f"{self.home} was enrolled by an earlier release, whose kind of trust is refused: "
            "run `wherry-agent enrol` again."
        )


class Broker(msgspec.Struct, frozen=True):
    """Where the broker listens; with `tls` the device shows its certificate there."""

    host: str
    port: int
    tls: bool = False


class Identity(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="format", tag="wherry.identity/1"
):
    """Who this device is: what its certificate says, and what the controller said with it.

    `epoch` counts the device's enrolments; times are UNIX seconds.
    """

    device: DeviceId
    epoch: int
    serial: str
    not_before: float
    not_after: float
    critical: tuple[str, ...] = ()


class ApiSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where local applications ask: a Unix socket, and loopback HTTP when `port` is not None.

    `socket` is below the home or absolute; whom its file mode and `group` let may connect, and of
    those only `users` (names or ids) where any are given. `grpc_port` takes the extra `grpc`.
    `metrics` shows Prometheus text at `/metrics` on loopback. `shared_memory` lets clients register
    regions of system shared memory.
    """

    socket: str = DEFAULT_SOCKET
    mode: Annotated[str, msgspec.Meta(pattern="^0[0-7]{3}$")] = "0660"
    group: str | None = None
    users: tuple[str, ...] = ()
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None
    grpc_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None
    metrics: bool = False
    shared_memory: bool = True
    body_bytes: Annotated[int, msgspec.Meta(ge=1024, le=256 << 20)] = 16 << 20
    connections: Annotated[int, msgspec.Meta(ge=1)] = 256


class Isolation(str, Enum):
    """Where a model runs: in a worker process, or in the agent's own (never tflite-runtime)."""

    WORKER = "worker"
    INLINE = "inline"


class StaleState(str, Enum):
    """What becomes of a state that another bundle gave: refused by name, or begun anew (zeros)."""

    REFUSE = "refuse"
    RESET = "reset"


class ServingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How models are run. `queue_requests` may wait for an alias, each for `request_timeout_s`.

    With `batch_rows` above 1 requests that wait are computed together, up to so many rows, and one
    waits for others for at most `batch_wait_ms`. `reserve_bytes` of memory are left to others when
    it is decided whether two bundles are resident. `optimized` keeps what the runtime made of a
    model on the disk, so that it loads faster the next time. `fork_server` keeps a process that has
    imported the runtime, from which workers start at once; without it each imports it anew.
    """

    isolation: Isolation = Isolation.WORKER
    fork_server: bool = True
    load_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 60.0
    request_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    drain_timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 10.0
    queue_requests: Annotated[int, msgspec.Meta(ge=1)] = 256
    batch_rows: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    batch_wait_ms: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    reserve_bytes: Annotated[int, msgspec.Meta(ge=0)] = 32 << 20
    stale_state: StaleState = StaleState.REFUSE
    optimized: bool = True


class FetchSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a device fetches; the controller's pace may be slower and never makes it faster.

    `max_bytes_per_s` None: as fast as the broker sends. `max_bytes_per_day` bounds any 24 hours.
    `reserve_bytes` of the disk are never taken. `sources` are HTTP(S) folders of blobs beside those
    that the controller names, asked first.
    """

    max_bytes_per_s: Annotated[float, msgspec.Meta(gt=0)] | None = None
    max_bytes_per_day: Annotated[int, msgspec.Meta(ge=0)] | None = None
    reserve_bytes: Annotated[int, msgspec.Meta(ge=0)] = 16 << 20
    sources: tuple[str, ...] = ()


class TelemetrySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`keep_windows` and `keep_bytes` bound what waits on disk while the broker is away.

    The oldest windows go first, and are counted. Where `max_bytes_per_day` would not last, windows
    grow longer, up to `longest_window_s`. Looking at inputs and outputs takes at most `seen_share`
    of the time that models compute; 0: nothing is looked at.
    """

    window_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 10.0
    longest_window_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 3600.0
    keep_windows: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    keep_bytes: Annotated[int, msgspec.Meta(ge=1)] = 32 << 20
    max_bytes_per_day: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seen_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.01


class LogFormat(str, Enum):
    JSON = "json"
    TEXT = "text"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`simulate` lets a development machine stand in for other hardware (loopback only).

    `fetch_broker` is the broker's other listener, for fetching; None: the same as `broker`.
    `controller` is the device door, where the identity is renewed; None: it never is. `blobs` is
    the door that serves ranges of blobs to devices.
    """

    id: DeviceId
    profile: ProfileName
    broker: str
    fetch_broker: str | None = None
    controller: str | None = None
    blobs: str | None = None
    simulate: bool = False
    api: ApiSettings = ApiSettings()
    fetch: FetchSettings = FetchSettings()
    serving: ServingSettings = ServingSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    probation: Bounds = Bounds()
    log: LogFormat = LogFormat.JSON


def default_home() -> Path:
    """Return the home that the environment names, or the system's."""
    for name in ("WHERRY_AGENT_HOME", "STATE_DIRECTORY"):
        if os.environ.get(name):
            return Path(os.environ[name])
    return DEFAULT_HOME


def read_settings(home: Path) -> Settings:
    """Return the settings in `home`; raise `NotEnrolled` or `BadSettings`."""
    place = home / SETTINGS_FILE
    try:
        data = place.read_bytes()
    except FileNotFoundError as error:
        raise NotEnrolled(home) from error
    return parse_settings(data, str(place))


def socket_of(home: Path, settings: Settings) -> Path:
    """Return where the agent of `home` listens."""
    return home / settings.api.socket


def parse_settings(data: bytes, place: str) -> Settings:
    try:
        settings = msgspec.convert(tomllib.loads(data.decode()), Settings)
    except (msgspec.ValidationError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(place, str(error)) from error
    broker = parse_broker(settings.broker)
    parse_broker(fetch_url(settings))
    for url in (settings.controller, settings.blobs):
        if url is not None:
            parse_door(url)
    if settings.simulate and broker.host not in LOOPBACK:
        raise BadSettings(place, f"simulate is for loopback brokers and {broker.host} is none")
    return settings


def fetch_url(settings: Settings) -> str:
    """Return the broker to fetch from."""
    return settings.fetch_broker or settings.broker


def parse_broker(url: str) -> Broker:
    """Return the address in `mqtt://host:port` or `mqtts://…`; raise `BadSettings` otherwise."""
    form = "mqtt://host:port or mqtts://host:port"
    scheme, host, port = _address("broker", url, form, tuple(PORTS))
    return Broker(host, PORTS[scheme] if port is None else port, tls=scheme == "mqtts")


def parse_door(url: str) -> tuple[str, int]:
    """Return host and port of a door of the controller; raise `BadSettings` for any other URL."""
    _, host, port = _address("controller", url, "https://host:port", ("https",))
    return host, 443 if port is None else port


def _address(
    what: str, url: str, form: str, schemes: tuple[str, ...]
) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadSettings(what, f"{url!r} is no URL ({error})") from error
    rest = (parts.path.rstrip("/"), parts.query, parts.fragment, parts.username, parts.password)
    if parts.scheme not in schemes or not re.fullmatch(_HOST, host) or port == 0 or any(rest):
        raise BadSettings(what, f"{url!r} is not of the form {form}")
    return parts.scheme, host, port


def read_identity(home: Path) -> Identity:
    """Return who the device of `home` is.

    Raises `NotEnrolled`, `EnrolledEarlier` where a release before 0.4.0 wrote the home, and
    `BadDocument` for a file that was tampered with.
    """
    try:
        data = (home / IDENTITY_FILE).read_bytes()
    except FileNotFoundError as error:
        if (home / SETTINGS_FILE).exists():
            raise EnrolledEarlier(home) from error
        raise NotEnrolled(home) from error
    return codec.decode(Identity, data)


def read_root(home: Path) -> bytes:
    """Return the root of trust that `home` was enrolled with; raise as `read_identity` does."""
    try:
        return (home / ROOT_FILE).read_bytes()
    except FileNotFoundError as error:
        if (home / SETTINGS_FILE).exists():
            raise EnrolledEarlier(home) from error
        raise NotEnrolled(home) from error


def check_settings(settings: Settings) -> bytes:
    """Return settings as they are written; raise `BadSettings` where they cannot be followed."""
    text = _toml(settings).encode()
    parse_settings(text, "the settings to enrol with")
    return text


def write_settings(home: Path, settings: Settings) -> None:
    """Write the settings of `home`, checked; raise `EnrolledAlready` where it is another's."""
    text = check_settings(settings)
    known = known_device(home)
    if known not in (None, settings.id):
        raise EnrolledAlready(home, known, settings.id)
    make_folder(home / "state")
    write_whole(home / SETTINGS_FILE, text, mode=0o640)


def known_device(home: Path) -> DeviceId | None:
    """Return whose home it is; None where no settings are there or none can be read."""
    try:
        return read_settings(home).id
    except (NotEnrolled, BadSettings):
        return None


def _toml(settings: Settings) -> str:
    """Render the settings that are not defaults, plain values first."""
    plain: list[str] = []
    tables: list[str] = []
    defaults = Settings(id=settings.id, profile=settings.profile, broker=settings.broker)
    for name, value in msgspec.to_builtins(settings).items():
        if isinstance(value, dict):
            base = msgspec.to_builtins(getattr(defaults, name))
            rows = [f"{key} = {_literal(v)}" for key, v in value.items() if v != base[key]]
            tables += ["", f"[{name}]", *rows] if rows else []
        elif name in ("id", "profile", "broker") or value != getattr(defaults, name):
            plain.append(f"{name} = {_literal(value)}")
    return "\n".join([*plain, *tables]) + "\n"


def _literal(value: object) -> str:
    if isinstance(value, float):
        return repr(value)  # TOML knows inf and nan, JSON does not.
    # JSON's strings, integers and booleans are TOML's, but for one character that JSON leaves bare.
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
