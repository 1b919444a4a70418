"""A controller's folder: founded once, read strictly."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest

from tests.builders import a_key
from wherry.signing import BadKey, key_id
from wherry.trust import documents
from wherry.trust.documents import Root, Targets
from wherry_controller.core.build import Limits
from wherry_controller.core.written import BadFile
from wherry_controller.foundation import (
    BUNDLES,
    DIRECTOR,
    FoundedAlready,
    NoKeys,
    add_online_key,
    found,
    read_first_trust,
    read_held_keys,
    read_keys,
    read_token_digest,
)
from wherry_controller.key_files import KeyRole, NoKeyFile, PublicKey, open_key, read_vouching
from wherry_controller.settings import BadSetting, Broker, NoFolder, Settings, read_settings


def test_a_founded_folder_has_two_keys_that_only_its_owner_reads(tmp_path: Path) -> None:
    found(tmp_path / "controller")
    settings = read_settings(tmp_path / "controller", {})
    keys = read_keys(settings)
    assert keys.director.private_bytes_raw() != keys.bundles.private_bytes_raw()
    for name in (DIRECTOR, BUNDLES):
        assert stat.S_IMODE((settings.key_folder / name).stat().st_mode) == 0o600


def test_the_folder_keeps_only_the_digest_of_its_token(tmp_path: Path) -> None:
    founded = found(tmp_path)
    assert founded.token is not None
    kept = read_token_digest(read_settings(tmp_path, {}))
    assert kept == hashlib.sha256(founded.token.encode()).hexdigest()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert founded.token.encode() not in written


def test_others_find_in_a_founded_folder_what_verifies_its_bundles(tmp_path: Path) -> None:
    found(tmp_path)
    (public,) = (tmp_path / "trust").glob("bundle-*.pub.json")
    signs = read_keys(read_settings(tmp_path, {})).bundles
    assert key_id(read_vouching(public)) == key_id(signs.public_key())


@pytest.mark.parametrize("text", ["", "{}", "-----BEGIN PUBLIC KEY-----\n"])
def test_a_file_without_a_key_vouches_for_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(NoKeyFile, match="holds no public key"):
        read_vouching(tmp_path / "key")


def test_a_founded_folder_is_not_founded_again(tmp_path: Path) -> None:
    found(tmp_path)
    before = read_keys(read_settings(tmp_path, {})).director.private_bytes_raw()
    with pytest.raises(FoundedAlready, match="serve it"):
        found(tmp_path)
    assert read_keys(read_settings(tmp_path, {})).director.private_bytes_raw() == before


def test_a_folder_is_not_founded_on_a_broker_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="mqtt://HOST:PORT or embedded"):
        found(tmp_path / "controller", broker="localhost:1883")
    assert not (tmp_path / "controller").exists()
    found(tmp_path / "controller", broker='mqtt://a"b:1884')
    assert read_settings(tmp_path / "controller", {}).broker_address == ('a"b', 1884)


def test_a_founding_that_was_cut_short_is_finished_with_the_keys_it_made(tmp_path: Path) -> None:
    found(tmp_path)
    before = read_keys(read_settings(tmp_path, {})).director.private_bytes_raw()
    (tmp_path / "wherry.toml").unlink()
    found(tmp_path)
    assert read_keys(read_settings(tmp_path, {})).director.private_bytes_raw() == before


def test_a_founded_file_says_nothing_but_the_defaults(tmp_path: Path) -> None:
    found(tmp_path)
    assert read_settings(tmp_path, {}) == Settings(folder=str(tmp_path.resolve()))


def test_paths_are_under_the_folder_of_the_file(tmp_path: Path) -> None:
    found(tmp_path)
    settings = read_settings(tmp_path, {})
    assert settings.database_url == f"sqlite:///{tmp_path.resolve()}/wherry.db"
    assert settings.blob_folder == tmp_path.resolve() / "blobs"


def test_another_database_is_taken_as_it_is_written() -> None:
    settings = Settings(database="postgresql://wherry@db/wherry")
    assert settings.database_url == "postgresql://wherry@db/wherry"


def test_the_environment_overrides_what_differs_from_machine_to_machine(tmp_path: Path) -> None:
    found(tmp_path)
    environment = {"WHERRY_BROKER": "mqtt://broker:2883", "WHERRY_HTTP_PORT": "9000"}
    settings = read_settings(tmp_path, environment)
    assert settings.broker_address == ("broker", 2883)
    assert settings.http.port == 9000
    with pytest.raises(BadSetting, match="a port"):
        read_settings(tmp_path, {"WHERRY_HTTP_PORT": "many"})


@pytest.mark.parametrize(
    "text",
    [
        'databse = "x"',
        "[broker]\nbudget = 3",
        "[http]\nport = 'many'",
        "[http]\nport = 65536",
        "[http",
        "\xff",
    ],
)
def test_an_unknown_key_or_a_wrong_value_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "wherry.toml").write_text(text, encoding="latin-1")
    with pytest.raises(BadFile, match="correct the file"):
        read_settings(tmp_path, {})


def test_what_a_build_may_use_is_a_setting(tmp_path: Path) -> None:
    assert Settings().build.limits == Limits()
    text = "[build]\nat_once = 2\nprocesses = 4\nmemory_bytes = 1000\ndeadline_s = 1.5\n"
    (tmp_path / "wherry.toml").write_text(text)
    build = read_settings(tmp_path, {}).build
    assert build.limits == Limits(processes=4, memory_bytes=1000, deadline_s=1.5)
    assert build.at_once == 2
    (tmp_path / "wherry.toml").write_text("[build]\nat_once = 0\n")
    with pytest.raises(BadFile, match="at_once"):
        read_settings(tmp_path, {})


@pytest.mark.parametrize(
    "url", ["amqp://host", "host:1883", "mqtt://", "mqtt://host:port", "mqtt://[host"]
)
def test_a_broker_is_named_by_an_mqtt_url(url: str) -> None:
    settings = Settings(broker=Broker(url=url))
    with pytest.raises(BadSetting, match="mqtt://HOST:PORT or embedded"):
        _ = settings.broker_address


def test_a_folder_that_was_never_founded_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoFolder, match="wherry init"):
        read_settings(tmp_path, {})


def test_a_lost_or_damaged_key_is_named(tmp_path: Path) -> None:
    found(tmp_path)
    settings = read_settings(tmp_path, {})
    (settings.key_folder / DIRECTOR).write_bytes(b"no key")
    with pytest.raises(BadKey):
        read_keys(settings)
    (settings.key_folder / DIRECTOR).unlink()
    with pytest.raises(NoKeys, match="restore it"):
        read_keys(settings)


def test_a_founded_folder_has_a_root_of_trust_that_its_keys_can_serve(tmp_path: Path) -> None:
    founded = found(tmp_path)
    settings = read_settings(tmp_path, {})
    trust = read_first_trust(settings)
    held = read_held_keys(settings)
    root = documents.read(Root, trust.root).signed
    assert root.roles["timestamp"].keyids[0] in held
    assert root.wherry.director.keyids[0] == key_id(read_keys(settings).director.public_key())
    assert not set(root.roles["root"].keyids) & held.keys()
    assert not set(root.roles["targets"].keyids) & held.keys()
    assert founded.offline == tmp_path / "offline" and founded.passphrase is not None
    (key,) = founded.offline.glob("root-*.key.json")
    assert open_key(key, founded.passphrase)[0] is KeyRole.ROOT


def test_a_folder_of_an_earlier_release_gets_a_root_of_trust_and_keeps_the_rest(
    tmp_path: Path,
) -> None:
    found(tmp_path)
    settings = read_settings(tmp_path, {})
    for name in ("snapshot.pem", "timestamp.pem"):
        (settings.key_folder / name).unlink()
    for path in (tmp_path / "trust").iterdir():
        path.unlink()
    before = read_token_digest(settings), read_keys(settings).director.private_bytes_raw()
    assert found(tmp_path).token is None
    after = read_token_digest(settings), read_keys(settings).director.private_bytes_raw()
    assert after == before
    assert read_first_trust(settings).root
    with pytest.raises(FoundedAlready):
        found(tmp_path)


def test_a_bundle_key_may_be_kept_apart_from_the_beginning(tmp_path: Path) -> None:
    apart = PublicKey(KeyRole.BUNDLE, a_key(7).public_key())
    found(tmp_path, bundle=apart)
    settings = read_settings(tmp_path, {})
    targets = documents.read(Targets, read_first_trust(settings).targets).signed
    assert targets.delegations.succinct_roles.keyids == (apart.keyid,)
    assert apart.keyid not in read_held_keys(settings)


def test_one_more_online_key_stands_beside_the_one_that_signs(tmp_path: Path) -> None:
    found(tmp_path)
    settings = read_settings(tmp_path, {})
    before = read_held_keys(settings)
    key = add_online_key(settings.key_folder, KeyRole.DIRECTOR)
    assert read_held_keys(settings).keys() == before.keys() | {key_id(key.public_key())}
