"""Threats to the keys themselves: what a thief of some, or a careless holder, cannot publish.

Each is refused by the controller with a reason of its own, changes nothing of what devices are
told, and stands in the audit log.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace

from tests.builders import A_TIME, a_bundle_of, a_key, an_alias
from tests.controller.served import Served, a_served_controller
from tests.controller.stores import add_version
from tests.trusted import (
    BUNDLE_KEY,
    DIRECTOR_KEY,
    EVIL_KEY,
    ROOT_KEYS,
    SNAPSHOT_KEY,
    TARGETS_KEY,
    TIMESTAMP_KEY,
    a_root,
    a_targets,
    the_holders,
)
from wherry import codec
from wherry.names import parse_version_name
from wherry.signing import key_id
from wherry.trust import documents
from wherry.trust.documents import add_signature
from wherry.trust.making import make_bin
from wherry_controller import key_files
from wherry_controller.core.audit import Entry
from wherry_controller.key_files import FalseKey, KeyRole, Passphrase, WrongPassphrase
from wherry_controller.services.trust import Trust
from wherry_controller.store import audit

DAY_S = 86_400.0
BUNDLE = a_bundle_of(b"weights" * 100, version=parse_version_name("v1"))
THIEF = Passphrase("a passphrase of a holder", 1 << 14)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Serve a controller with one bundle that is release 1."""
    with a_served_controller(tmp_path) as served:
        served.now = A_TIME
        trust = trust_of(served)
        with served.store.transaction() as tx:
            add_version(tx, "v1")
            trust.add_bundle(tx, BUNDLE.manifest, BUNDLE.digest, A_TIME)
            trust.release(tx, an_alias(), [BUNDLE.digest], now=A_TIME)
        yield served


def trust_of(served: Served) -> Trust:
    trust = served.rollouts._trust
    assert isinstance(trust, Trust)
    return trust


def told(served: Served) -> object:
    """Return all that devices are told."""
    with served.store.reading() as tx:
        return trust_of(served).repository(tx, [BUNDLE.digest])


def refusals(served: Served) -> list[Entry]:
    with served.store.reading() as tx:
        bodies = audit.newest_entries(tx, kind="refused")
    return [codec.decode(Entry, body.encode()) for body in bodies]


def publish(served: Served, files: Sequence[bytes]) -> httpx.Response:
    with served.client() as client:
        return client.post("/trust/files", json={"files": [file.decode() for file in files]})


def refused(served: Served, *files: bytes) -> str:
    """Return the reason why files are refused; nothing else may have happened."""
    before = told(served)
    answer = publish(served, files)
    assert answer.status_code in (403, 409, 422)
    assert told(served) == before
    (noted,) = refusals(served)
    assert noted.facts["why"] == answer.json()["detail"]
    return str(answer.json()["reason"])


def test_one_of_three_root_keys_publishes_no_root(served: Served) -> None:
    root = a_root(2, holders=the_holders(root=[EVIL_KEY], root_threshold=1))
    alone = documents.sign(root.signed, ROOT_KEYS[0], EVIL_KEY)
    assert refused(served, alone.data) == "too_few_signatures"


def test_a_thief_of_every_online_key_publishes_no_root_and_no_targets(served: Served) -> None:
    online = [TIMESTAMP_KEY, SNAPSHOT_KEY, DIRECTOR_KEY, BUNDLE_KEY]
    assert refused(served, a_root(2, signed_by=online).data) == "too_few_signatures"


def test_a_thief_of_the_bundle_key_lifts_no_minimum(served: Served) -> None:
    lifted = a_targets(2, signed_by=[BUNDLE_KEY])
    assert refused(served, lifted.data) == "too_few_signatures"


def test_a_thief_of_the_targets_key_still_cannot_lower_a_minimum(served: Served) -> None:
    assert publish(served, [a_targets(2, min_release={an_alias(): 1}).data]).status_code == 200
    assert refused(served, a_targets(3, signed_by=[TARGETS_KEY]).data) == "lower_minimum"


def test_a_minimum_that_would_shut_out_every_release_is_refused(served: Served) -> None:
    far = a_targets(2, min_release={an_alias(): 2})
    assert refused(served, far.data) == "no_such_release"


def test_one_key_under_two_names_is_one_signature(served: Served) -> None:
    root = documents.read(documents.Root, a_root(2).data).signed
    document = documents.canonical(root)
    twice = ROOT_KEYS[0].sign(document).hex()
    mine, other = (key_id(key.public_key()) for key in ROOT_KEYS[:2])
    signatures = [{"keyid": mine, "sig": twice}, {"keyid": other, "sig": twice}]
    data = b'{"signatures":' + codec.encode(signatures) + b',"signed":' + document + b"}"
    assert refused(served, data) == "too_few_signatures"


def test_a_root_that_lists_one_key_twice_needs_two_keys_still(served: Served) -> None:
    """The same raw key under an id of the thief's choice must not count beside its own."""
    known = documents.read(documents.Root, a_root(2).data).signed
    keyids = known.roles["root"].keyids
    doubled = replace(known, keys={**known.keys, keyids[1]: known.keys[keyids[0]]})
    document = documents.canonical(doubled)
    twice = ROOT_KEYS[0].sign(document).hex()
    signatures = [{"keyid": keyid, "sig": twice} for keyid in keyids[:2]]
    data = b'{"signatures":' + codec.encode(signatures) + b',"signed":' + document + b"}"
    assert refused(served, data) == "too_few_signatures"


def test_a_root_that_takes_the_fleet_from_its_controller_is_refused(served: Served) -> None:
    for role in ("timestamp", "snapshot", "director"):
        stolen = a_root(2, holders=the_holders(**{role: EVIL_KEY}))  # type: ignore[arg-type]
        before = told(served)
        assert publish(served, [stolen.data]).json()["reason"] == "no_online_key"
        assert told(served) == before


def test_a_root_that_orphans_targets_is_refused(served: Served) -> None:
    root = a_root(2, holders=the_holders(targets=a_key(120)))
    assert refused(served, root.data) == "too_few_signatures"


def test_an_old_root_is_not_published_again(served: Served) -> None:
    assert publish(served, [a_root(2).data]).status_code == 200
    other = a_root(1, now=A_TIME + 1)
    assert refused(served, other.data) == "wrong_version"


def test_metadata_that_is_expired_is_not_published(served: Served) -> None:
    assert refused(served, a_root(2, now=A_TIME - 366 * DAY_S).data) == "expired_already"


def test_a_bin_that_the_controller_did_not_make_is_refused(served: Served) -> None:
    """A thief of the bundle key gets nothing published through the controller."""
    strange = make_bin({}, A_TIME, version=9, lifetime_s=DAY_S)
    assert refused(served, documents.sign(strange, BUNDLE_KEY).data) == "nothing_waits"


def test_an_online_role_is_never_taken_from_outside(served: Served) -> None:
    with served.store.reading() as tx:
        snapshot = trust_of(served).repository(tx).snapshot
    assert refused(served, add_signature(snapshot.data, EVIL_KEY)) == "not_of_people"


def test_one_bad_file_of_many_publishes_none(served: Served) -> None:
    good, bad = a_root(2), a_targets(2, signed_by=[EVIL_KEY])
    assert refused(served, good.data, bad.data) == "too_few_signatures"


def test_metadata_with_a_key_twice_is_refused(served: Served) -> None:
    doubled = a_root(2).data.replace(b'"version":2', b'"version":2,"version":3')
    assert refused(served, doubled) == "bad_document"


def test_a_stolen_key_file_opens_with_its_passphrase_only(tmp_path: Path) -> None:
    made = key_files.make_key(tmp_path, KeyRole.ROOT, THIEF)
    before = made.private_path.read_bytes()
    for guess in ("", "a passphrase of a holde", "A passphrase of a holder"):
        with pytest.raises(WrongPassphrase):
            key_files.open_key(made.private_path, guess)
    assert made.private_path.read_bytes() == before
    assert key_files.open_key(made.private_path, THIEF.text)[0] is KeyRole.ROOT


def test_a_key_file_that_asks_for_endless_work_is_refused(tmp_path: Path) -> None:
    made = key_files.make_key(tmp_path, KeyRole.ROOT, THIEF)
    text = made.private_path.read_text().replace('"n":16384', '"n":1099511627776')
    made.private_path.write_text(text)
    with pytest.raises(key_files.NoKeyFile):
        key_files.open_key(made.private_path, THIEF.text)


def test_a_public_key_under_anothers_id_is_refused(tmp_path: Path) -> None:
    """Who carries public files to the ceremony cannot slip in a key of their own."""
    good = key_files.make_key(tmp_path, KeyRole.ROOT, THIEF).public_path
    evil = key_files.make_key(tmp_path, KeyRole.ROOT, THIEF, key=EVIL_KEY).public_path
    mine = codec.decode(key_files.PublicKeyFile, evil.read_bytes()).public
    known = codec.decode(key_files.PublicKeyFile, good.read_bytes())
    good.write_bytes(codec.encode(replace(known, public=mine)))
    with pytest.raises(FalseKey):
        key_files.read_public(good)
