"""What a device shows to whom it asks for blobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import a_device_id
from tests.enrolled import an_authority, an_enrolled_home
from tests.trusted import a_root
from wherry.names import ProfileName
from wherry_agent.sources import source_context

OWN = "https://controller.example:8323"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    root = a_root().data
    an_enrolled_home(tmp_path, "mqtt://127.0.0.1:1", a_device_id(), ProfileName("pi"), root)
    return tmp_path


def trusts_the_controller(home: Path, source: str, own: str | None) -> bool:
    """Say whether a source is dialled as the device; that goes with showing its certificate."""
    name = an_authority().certificate.subject.rfc4514_string().removeprefix("CN=")
    trusted = source_context(home, source, own=own).get_ca_certs()
    return any((("commonName", name),) in one["subject"] for one in trusted)


def test_a_device_shows_its_certificate_to_its_controllers_door_alone(home: Path) -> None:
    assert trusts_the_controller(home, f"{OWN}/v1/blobs", OWN)
    assert not trusts_the_controller(home, f"{OWN}/v1/blobs", None)
    for stranger in ("https://mirror.example/blobs", f"{OWN}1/v1/blobs", f"{OWN}.evil.example/"):
        assert not trusts_the_controller(home, stranger, OWN)
