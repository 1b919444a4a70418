"""Tests of steps kept by content: made once, whole or not at all, and anew for other facts."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import wherry_controller
from wherry_controller.builder.cache import Cache, code_digest, copy_into, tools


def test_a_step_is_made_once_for_the_same_facts(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path), []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").write_text("done")

    first = cache.made("model", ("a", 1), make)
    assert cache.made("model", ("a", 1), make) == first
    assert (first / "file").read_text() == "done"
    assert len(made) == 1
    assert cache.known("model", ("a", 1)) == first
    assert cache.known("model", ("a", 2)) is None
    assert cache.known("score", ("a", 1)) is None


def test_a_value_is_found_once_and_read_back_in_its_type(tmp_path: Path) -> None:
    cache, found = Cache(tmp_path), []

    def find() -> dict[str, float]:
        found.append(1)
        return {"drop": 0.25}

    for _ in range(2):
        assert cache.value("score", "facts", dict[str, float], find) == {"drop": 0.25}
    assert len(found) == 1


def test_a_step_that_fails_leaves_nothing_that_looks_done(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def fails(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError):
        cache.made("model", "facts", fails)
    assert cache.known("model", "facts") is None
    cache.made("model", "facts", lambda folder: (folder / "file").touch())
    assert cache.known("model", "facts") is not None


def test_two_that_want_one_step_take_turns_and_it_is_made_once(tmp_path: Path) -> None:
    cache, made, meet = Cache(tmp_path), [], threading.Barrier(2)

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "file").touch()

    def want() -> None:
        meet.wait()
        cache.made("model", "facts", make)

    threads = [threading.Thread(target=want) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_the_tools_are_named_with_their_versions_and_the_builders_code() -> None:
    assert {"onnxruntime", "torch", "numpy", "builder"} <= tools().keys()


def test_a_step_is_made_anew_by_other_tools(tmp_path: Path) -> None:
    made = [
        Cache(tmp_path, {"torch": version}).made("model", "facts", lambda folder: None)
        for version in ("2.13", "2.13", "2.14")
    ]
    assert made[0] == made[1] != made[2]


def test_a_change_of_the_builder_or_of_a_core_is_another_tool(tmp_path: Path) -> None:
    files = [tmp_path / "builder" / "passes" / "onnx.py", tmp_path / "core" / "recipe.py"]
    seen = {code_digest(tmp_path)}
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("LARGEST_SHARE = 0.9\n")
        seen.add(code_digest(tmp_path))
    (tmp_path / "api.py").write_text("")
    assert code_digest(tmp_path) in seen
    assert len(seen) == 3
    assert tools()["builder"] == code_digest(Path(wherry_controller.__file__).parent)


def test_a_folder_is_laid_out_beside_what_is_there(tmp_path: Path) -> None:
    source, to = tmp_path / "source", tmp_path / "to"
    (source / "blobs").mkdir(parents=True)
    (source / "blobs" / "a").write_text("new")
    (to / "blobs").mkdir(parents=True)
    (to / "blobs" / "a").write_text("old")
    (to / "blobs" / "b").write_text("other")
    copy_into(source, to)
    assert {file.name: file.read_text() for file in (to / "blobs").iterdir()} == {
        "a": "new",
        "b": "other",
    }
