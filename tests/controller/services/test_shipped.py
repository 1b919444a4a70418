"""A new database knows the profiles that come along; one that is there stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from wherry.profile import Profile
from wherry_controller.app import open_controller
from wherry_controller.foundation import found
from wherry_controller.profiles import names, shipped
from wherry_controller.services.shipped import declare_shipped
from wherry_controller.settings import read_settings
from wherry_controller.store import models
from wherry_controller.store.database import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path / 'wherry.db'}")
    yield store
    store.close()


def known(store: Store) -> dict[str, Profile]:
    with store.reading() as tx:
        return {profile.name: profile for profile in models.list_profiles(tx)}


def test_a_new_database_knows_every_profile_that_comes_along(store: Store) -> None:
    assert tuple(declare_shipped(store)) == names()
    assert tuple(known(store).values()) == shipped()


def test_a_second_start_declares_nothing(store: Store) -> None:
    declare_shipped(store)
    assert declare_shipped(store) == []


def test_a_controller_that_opens_has_declared_them(tmp_path: Path) -> None:
    found(tmp_path / "controller")
    controller = open_controller(read_settings(tmp_path / "controller", {}))
    try:
        assert tuple(known(controller.store)) == names()
    finally:
        controller.close()


def test_what_an_operator_made_of_a_profile_stays(store: Store) -> None:
    mine = replace(shipped()[0], threads=7)
    with store.transaction() as tx:
        models.save_profile(tx, mine)
    assert mine.name not in declare_shipped(store)
    assert known(store)[mine.name] == mine
    assert tuple(known(store)) == names()
