"""What enrolment writes is what the agent reads; everything else is refused with a sentence."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.builders import a_device_id
from tests.enrolled import an_enrolled_home
from tests.laws import tried
from wherry.codec import BadDocument
from wherry.names import ProfileName
from wherry_agent.settings import (
    DEFAULT_HOME,
    IDENTITY_FILE,
    ROOT_FILE,
    SETTINGS_FILE,
    ApiSettings,
    BadSettings,
    Broker,
    EnrolledAlready,
    EnrolledEarlier,
    FetchSettings,
    NotEnrolled,
    Settings,
    TelemetrySettings,
    default_home,
    fetch_url,
    parse_broker,
    parse_door,
    parse_settings,
    read_identity,
    read_root,
    read_settings,
    write_settings,
)

PLAIN = Settings(
    id=a_device_id("pi-1"), profile=ProfileName("pi"), broker="mqtt://broker.example:1884"
)


def test_what_is_written_is_what_the_agent_reads(tmp_path: Path) -> None:
    write_settings(tmp_path, PLAIN)
    assert read_settings(tmp_path) == PLAIN


def test_a_home_says_whose_it_is_and_what_it_trusts(tmp_path: Path) -> None:
    an_enrolled_home(tmp_path, PLAIN.broker, PLAIN.id, PLAIN.profile, b"a root", 3)
    assert (read_identity(tmp_path).device, read_identity(tmp_path).epoch) == (PLAIN.id, 3)
    assert read_root(tmp_path) == b"a root"
    (tmp_path / IDENTITY_FILE).write_text('{"format": "wherry.identity/1"}')
    with pytest.raises(BadDocument):
        read_identity(tmp_path)


def test_a_home_of_an_earlier_release_is_to_be_enrolled_again(tmp_path: Path) -> None:
    write_settings(tmp_path, PLAIN)
    for read in (read_identity, read_root):
        with pytest.raises(EnrolledEarlier, match=r"by an earlier release.* enrol` again"):
            read(tmp_path)
    assert not (tmp_path / ROOT_FILE).exists()


def test_only_what_is_no_default_is_written(tmp_path: Path) -> None:
    write_settings(tmp_path, replace(PLAIN, fetch=FetchSettings(max_bytes_per_s=5e4)))
    assert (tmp_path / SETTINGS_FILE).read_text() == (
        'id = "pi-1"\nprofile = "pi"\nbroker = "mqtt://broker.example:1884"\n'
        "\n[fetch]\nmax_bytes_per_s = 50000.0\n"
    )


positive = st.floats(min_value=1e-9, max_value=1e18)
some_settings = st.builds(
    replace,
    st.just(PLAIN),
    broker=st.just("mqtt://127.0.0.1:1883"),
    simulate=st.booleans(),
    api=st.builds(
        ApiSettings, socket=st.text(), port=st.none() | st.integers(min_value=0, max_value=65535)
    ),
    fetch=st.builds(FetchSettings, max_bytes_per_s=st.none() | positive),
    telemetry=st.builds(
        TelemetrySettings,
        window_s=st.floats(min_value=1e-9, max_value=86_400),
        keep_windows=st.integers(min_value=1, max_value=1 << 40),
    ),
)


@given(some_settings)
@example(replace(PLAIN, api=ApiSettings(socket='\x7f"\\\n', port=0)))
@tried
def test_all_settings_survive_the_file(
    tmp_path_factory: pytest.TempPathFactory, settings: Settings
) -> None:
    home = tmp_path_factory.mktemp("home")
    write_settings(home, settings)
    assert read_settings(home) == settings


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("colour = 1", "unknown field `colour`"),
        ("[fetch]\nmax_bytes = 1", "unknown field `max_bytes`"),
        ("[fetch]\nmax_bytes_per_s = 0", "> 0"),
        ("[fetch]\nmax_bytes_per_s = -5.0", "> 0"),
        ("[fetch]\nmax_bytes_per_s = nan", "> 0"),
        ("[telemetry]\nwindow_s = 0", "> 0"),
        ("[telemetry]\nwindow_s = inf", "<= 86400"),
        ("[telemetry]\nkeep_windows = 0", ">= 1"),
        ("[api]\nport = 65536", "<= 65535"),
        ("id = 'pi-2'", "overwrite"),
        ("simulate = 1", "Expected `bool`"),
        ("simulate = true", "simulate is for loopback brokers and broker.example is none"),
        ("no toml", "Expected '='"),
        ("x = '\xff'", "utf-8"),
    ],
)
def test_a_file_that_cannot_be_followed_is_refused_by_place_and_problem(
    line: str, problem: str
) -> None:
    head = 'id = "pi-1"\nprofile = "pi"\nbroker = "mqtt://broker.example"\n'
    with pytest.raises(BadSettings) as refused:
        parse_settings((head + line).encode("latin-1"), "/home/agent.toml")
    assert problem in str(refused.value)
    assert str(refused.value).startswith("/home/agent.toml: ")
    assert str(refused.value).endswith("correct it, or run `wherry-agent enrol` again.")


def test_an_infinite_limit_is_no_limit() -> None:
    head = b'id = "pi-1"\nprofile = "pi"\nbroker = "mqtt://b"\n[fetch]\nmax_bytes_per_s = inf'
    assert parse_settings(head, "here").fetch.max_bytes_per_s == math.inf


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_other_hardware_is_simulated_on_loopback_only(tmp_path: Path, host: str) -> None:
    write_settings(tmp_path, replace(PLAIN, broker=f"mqtt://{host}:1883", simulate=True))
    assert read_settings(tmp_path).simulate
    with pytest.raises(BadSettings, match="simulate is for loopback brokers"):
        write_settings(tmp_path / "other", replace(PLAIN, simulate=True))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("mqtt://broker.example:1884", Broker("broker.example", 1884)),
        ("mqtt://broker.example", Broker("broker.example", 1883)),
        ("mqtt://10.0.0.1/", Broker("10.0.0.1", 1883)),
        ("mqtt://[fe80::1]:1", Broker("fe80::1", 1)),
        ("mqtts://broker.example", Broker("broker.example", 8883, tls=True)),
    ],
)
def test_a_broker_is_named_by_a_url(url: str, broker: Broker) -> None:
    assert parse_broker(url) == broker


@pytest.mark.parametrize(
    "url",
    [
        "http://broker.example",
        "broker.example:1883",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://broker:0",
        "mqtt://broker:65536",
        "mqtt://broker:one",
        "mqtt://[::1",
        "mqtt://user:secret@broker",
        "mqtt://broker/path",
        "mqtt://broker?x=1",
        "mqtt://two words",
        "mqtt://a..b\x7f",
        "",
    ],
)
def test_any_other_url_is_refused_with_a_sentence(tmp_path: Path, url: str) -> None:
    with pytest.raises(BadSettings, match=r"(is no URL|of the form mqtt://host:port or mqtts://)"):
        write_settings(tmp_path, replace(PLAIN, broker=url))
    assert list(tmp_path.iterdir()) == []


def test_bytes_are_fetched_from_the_same_broker_unless_another_listener_is_named() -> None:
    assert fetch_url(PLAIN) == PLAIN.broker
    other = replace(PLAIN, fetch_broker="mqtts://broker.example:8884")
    assert fetch_url(other) == "mqtts://broker.example:8884"


@pytest.mark.parametrize("url", ["http://c.example", "https://", "https://c:0", "c.example:8443"])
def test_a_door_of_the_controller_is_https(tmp_path: Path, url: str) -> None:
    assert parse_door("https://c.example:8443") == ("c.example", 8443)
    assert parse_door("https://c.example") == ("c.example", 443)
    for settings in (replace(PLAIN, controller=url), replace(PLAIN, blobs=url)):
        with pytest.raises(BadSettings, match="https://host:port"):
            write_settings(tmp_path, settings)


def test_enrolling_again_changes_the_settings_of_the_same_device(tmp_path: Path) -> None:
    write_settings(tmp_path, PLAIN)
    moved = replace(PLAIN, broker="mqtt://elsewhere")
    write_settings(tmp_path, moved)
    assert read_settings(tmp_path) == moved


def test_a_home_of_another_device_is_left_alone(tmp_path: Path) -> None:
    write_settings(tmp_path, PLAIN)
    with pytest.raises(EnrolledAlready, match="as pi-1 and not as pi-2: give another --home"):
        write_settings(tmp_path, replace(PLAIN, id=a_device_id("pi-2")))
    assert read_settings(tmp_path) == PLAIN


def test_settings_that_cannot_be_read_are_mended_by_enrolling_again(tmp_path: Path) -> None:
    write_settings(tmp_path, PLAIN)
    (tmp_path / SETTINGS_FILE).write_text("torn")
    write_settings(tmp_path, PLAIN)
    assert read_settings(tmp_path) == PLAIN


def test_a_home_without_settings_is_not_enrolled(tmp_path: Path) -> None:
    for read in (read_settings, read_identity, read_root):
        with pytest.raises(NotEnrolled, match="run `wherry-agent enrol` first"):
            read(tmp_path)


def test_the_home_is_the_one_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WHERRY_AGENT_HOME", raising=False)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert default_home() == DEFAULT_HOME
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/unit")
    assert default_home() == Path("/var/lib/unit")
    monkeypatch.setenv("WHERRY_AGENT_HOME", "/home/here")
    assert default_home() == Path("/home/here")
