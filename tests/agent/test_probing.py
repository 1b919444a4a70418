"""Runtimes are tried in children, and what was found sound is remembered."""

from __future__ import annotations

import queue
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.vectors import probes
from wherry.profile import Facts, Runtime
from wherry_agent import host, probe, probing
from wherry_agent.probing import Probed, RuntimesProbed

FACTS = Facts(arch="aarch64", cpu_features=("asimd", "atomics"))
OLD = replace(FACTS, cpu_features=("asimd",))
# tflite-runtime and the other two are never installed together.
MISSING = next(runtime.value for runtime in Runtime if runtime.value not in host.runtimes())
INSTALLED = {"onnxruntime": "1.31.1", "litert": "2.3.0"}


def in_a_child(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


class Trying:
    """Tries runtimes as it is told, and keeps which."""

    def __init__(self, **wrong: str) -> None:
        self.tried: list[str] = []
        self._wrong = wrong

    def __call__(self, runtime: Runtime, version: str) -> Probed:
        self.tried.append(f"{runtime.value} {version}")
        wrong = self._wrong.get(runtime.value)
        return Probed(wrong is None, wrong or "")


@pytest.mark.system
@pytest.mark.parametrize("runtime", [Runtime.ONNXRUNTIME, Runtime.LITERT])
def test_what_is_installed_here_is_sound(runtime: Runtime) -> None:
    assert probing.probe(runtime, host.runtimes()[runtime.value]) == Probed(True)


@pytest.mark.system
@pytest.mark.parametrize(
    ("runtime", "name"), [(Runtime.ONNXRUNTIME, "EXACT"), (Runtime.LITERT, "EIGHTHS")]
)
def test_a_runtime_that_computes_wrongly_is_bad(runtime: Runtime, name: str) -> None:
    other = f"import sys; from wherry_agent import probe; probe.{name} = 1; sys.exit(probe.main())"
    probed = probing.probe(runtime, "1.0", command=in_a_child(other))
    assert not probed.ok
    assert "it answered" in probed.detail


def test_a_runtime_that_is_not_there_is_bad() -> None:
    command = in_a_child("import no_such_runtime")
    probed = probing.probe(Runtime.LITERT, "1.0", command=command)
    assert not probed.ok
    assert "No module named 'no_such_runtime'" in probed.detail


def test_a_runtime_that_does_not_fit_the_processor_is_bad() -> None:
    command = in_a_child("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    probed = probing.probe(Runtime.ONNXRUNTIME, "1.31.1", facts=OLD, command=command)
    assert probed == Probed(False, "it was ended by SIGILL when it was tried")


def test_a_runtime_that_hangs_is_bad() -> None:
    command = in_a_child("import signal; signal.pause()")
    probed = probing.probe(Runtime.LITERT, "1.0", command=command, timeout_s=0.2)
    assert probed == Probed(False, "its probe did not end within 0.2 s")


def test_a_probe_that_cannot_be_started_says_so() -> None:
    probed = probing.probe(Runtime.LITERT, "1.0", command=("/no/such/python",))
    assert not probed.ok
    assert "could not be started" in probed.detail


def test_a_release_that_is_known_to_be_bad_is_not_tried(tmp_path: Path) -> None:
    tried = tmp_path / "tried"
    command = in_a_child(f"open({str(tried)!r}, 'w')")
    probed = probing.probe(Runtime.ONNXRUNTIME, "1.21.0", facts=OLD, command=command)
    assert not probed.ok
    assert "github.com/microsoft/onnxruntime/issues/" in probed.detail
    assert not tried.exists()
    assert probing.probe(Runtime.ONNXRUNTIME, "1.21.0", facts=FACTS, command=command).ok
    assert tried.exists()


def test_the_doctor_hears_what_is_wrong_and_nothing_of_what_is_sound() -> None:
    assert probing.prove("onnxruntime", host.runtimes()["onnxruntime"]) is None
    assert "exit status 1" in str(probing.prove(MISSING, "1.0"))


def test_what_was_found_sound_is_not_tried_again(tmp_path: Path) -> None:
    first, second = Trying(), Trying()
    assert probing.probe_all(INSTALLED, FACTS, tmp_path, probe=first) == RuntimesProbed({})
    assert probing.probe_all(INSTALLED, FACTS, tmp_path, probe=second) == RuntimesProbed({})
    assert first.tried == ["onnxruntime 1.31.1", "litert 2.3.0"]
    assert second.tried == []


@pytest.mark.parametrize(
    ("installed", "facts", "tried"),
    [
        (INSTALLED | {"litert": "2.4.0"}, FACTS, ["litert 2.4.0"]),
        (INSTALLED, OLD, ["onnxruntime 1.31.1", "litert 2.3.0"]),
    ],
    ids=["another version", "another machine"],
)
def test_another_version_or_machine_is_tried(
    tmp_path: Path, installed: dict[str, str], facts: Facts, tried: list[str]
) -> None:
    probing.probe_all(INSTALLED, FACTS, tmp_path, probe=Trying())
    again = Trying()
    probing.probe_all(installed, facts, tmp_path, probe=again)
    assert again.tried == tried


def test_what_was_bad_is_tried_at_each_start(tmp_path: Path) -> None:
    for _ in range(2):
        trying = Trying(litert="it was ended by SIGILL")
        found = probing.probe_all(INSTALLED, FACTS, tmp_path, probe=trying)
        assert found == RuntimesProbed({"litert": "it was ended by SIGILL"})
        assert "litert 2.3.0" in trying.tried
    mended = Trying()
    assert probing.probe_all(INSTALLED, FACTS, tmp_path, probe=mended) == RuntimesProbed({})
    assert mended.tried == ["litert 2.3.0"]


@pytest.mark.parametrize("kept", [b"", b"{}", b"\xff", b'{"format":"wherry.probes/2"}'])
def test_a_damaged_memory_of_probes_is_no_memory(tmp_path: Path, kept: bytes) -> None:
    (tmp_path / probing.FILE).write_bytes(kept)
    trying = Trying()
    probing.probe_all(INSTALLED, FACTS, tmp_path, probe=trying)
    assert len(trying.tried) == 2


def test_a_disk_that_takes_nothing_costs_only_the_memory(tmp_path: Path) -> None:
    folder = tmp_path / "file"
    folder.write_text("no folder")
    assert probing.probe_all(INSTALLED, FACTS, folder, probe=Trying()) == RuntimesProbed({})


@pytest.mark.system
def test_probing_puts_what_came_of_it(tmp_path: Path) -> None:
    found: queue.SimpleQueue[RuntimesProbed] = queue.SimpleQueue()
    installed = {"onnxruntime": host.runtimes()["onnxruntime"], MISSING: "1.0"}
    probing.start_probing(installed, FACTS, tmp_path, found.put)
    assert list(found.get(timeout=60).bad) == [MISSING]


def test_the_models_are_those_that_the_script_writes(tmp_path: Path) -> None:
    probes.write(tmp_path)
    for file in (probe.ONNX_FILE, probe.LITE_FILE):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
