"""Where the broker is, as `wherry.toml` says it."""

from __future__ import annotations

import pytest

from wherry_controller.settings import BadSetting, Broker, Settings


def settings(url: str, fetch_url: str | None = None) -> Settings:
    return Settings(broker=Broker(url=url, fetch_url=fetch_url))


def test_a_plain_broker_is_fetched_from_where_it_is() -> None:
    plain = settings("mqtt://broker.example")
    assert not plain.has_guarded_broker
    assert plain.broker_address == ("broker.example", 1883)
    assert plain.broker_url == plain.fetch_url == "mqtt://broker.example:1883"


def test_a_guarded_broker_is_fetched_from_at_its_next_port() -> None:
    guarded = settings("mqtts://broker.example")
    assert guarded.has_guarded_broker
    assert guarded.broker_url == "mqtts://broker.example:8883"
    assert guarded.fetch_url == "mqtts://broker.example:8884"


def test_its_listener_for_fetching_may_be_named() -> None:
    assert settings("mqtts://a:1", "mqtts://b:2").fetch_url == "mqtts://b:2"


def test_an_address_is_spelled_as_urls_spell_it() -> None:
    assert settings("mqtts://[::1]:9").fetch_url == "mqtts://[::1]:10"


def test_the_embedded_broker_guards_nothing() -> None:
    assert not settings("embedded").has_guarded_broker
    assert settings("embedded").fetch_url == "mqtt://127.0.0.1:1883"


@pytest.mark.parametrize("url", ["http://a:1", "mqtts://", "mqtts://a:x", "a:1"])
def test_what_is_no_broker_is_refused(url: str) -> None:
    with pytest.raises(BadSetting, match="mqtts://HOST:PORT"):
        _ = settings(url).broker_address
    with pytest.raises(BadSetting, match="fetch_url"):
        _ = settings("mqtt://a", url).fetch_url
