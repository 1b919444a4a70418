"""What a worker's desk answers: outputs, comparisons, refusals, and what it saw."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from tests.agent.bundles import (
    Floats,
    a_bundle,
    a_litert_bundle,
    images,
    logits_of,
    write_bundle,
)
from wherry.bundle import Bundle
from wherry.manifest import Manifest
from wherry.names import Digest
from wherry.reference import Distribution, Reference
from wherry.signature import Datatype
from wherry_agent import frames
from wherry_agent.arena import INLINE_BYTES, Arena, Window, create_arena
from wherry_agent.asking import Bringing, Proof
from wherry_agent.bringup import Loaded, Place, bring_up
from wherry_agent.desk import Desk
from wherry_agent.observing import Observer
from wherry_agent.runtimes.base import Array, Model, RunFailed
from wherry_agent.runtimes.variant import Variant

PROOF = Proof("1", Digest("0" * 64), 0.0, 0, 0)
PATIENCE_S = 30.0


class Failing:
    def run(self, inputs: Sequence[Array]) -> list[Array]:
        raise RunFailed("it is out of memory")


class Doubling:
    """Gives back its input, doubled, in one place over and over."""

    def __init__(self) -> None:
        self._place = np.zeros((16, 4), np.float32)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        rows = len(inputs[0])
        self._place[:rows] = 2 * inputs[0].reshape(rows, 4)
        return [self._place[:rows]]


class Flooding:
    """Answers with more than can be handed on."""

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        return [np.zeros((1, frames.LARGEST_BODY_BYTES // 4 + 1), np.float32)]


@dataclass
class Engine:
    """The engine's end of a desk."""

    link: socket.socket
    questions: Arena
    answers: Window

    def send(self, head: frames.Head, tensors: Sequence[frames.Tensor] = ()) -> None:
        self.link.sendall(frames.encode(head, tensors))

    def receive(self) -> tuple[frames.Head, bytes]:
        reader = frames.Reader()
        while True:
            data = self.link.recv(1 << 16)
            assert data, "the desk closed its end"
            for frame in reader.feed(data):
                return frame

    def ask(self, rows: Floats, number: int = 7) -> tuple[frames.Head, bytes]:
        image = an_image(rows)
        self.send(frames.Infer(number, 0, None, frames.heads_of([image])), [image])
        return self.receive()


def an_image(rows: Floats) -> frames.Tensor:
    return frames.Tensor("image", Datatype.FP32, rows.shape, rows.tobytes())


def logits(rows: Floats) -> frames.Tensor:
    return frames.Tensor("logits", Datatype.FP32, rows.shape, rows.tobytes())


def a_loaded(bundle: Bundle, folder: Path) -> Loaded:
    manifest, blobs = write_bundle(bundle, folder)
    return bring_up(Place(bundle.digest, manifest, blobs), bundle.manifest, Bringing())


def a_fake(model: Model, manifest: Manifest | None = None) -> Loaded:
    manifest = manifest or a_bundle().manifest
    return Loaded(Variant(model, manifest), manifest, PROOF, 0)


@contextmanager
def a_desk(
    loaded: Loaded,
    observer: Observer | None = None,
    *,
    tell_s: float = PATIENCE_S,
    niceness: int = 0,
) -> Iterator[Engine]:
    ours, theirs = socket.socketpair()
    questions, answers = create_arena(), create_arena()
    place = Desk(
        theirs,
        loaded,
        observer or Observer(loaded.manifest, None, 0.0),
        arenas=(Window(questions), Arena(answers)),
        niceness=niceness,
        tell_s=tell_s,
    )
    thread = threading.Thread(target=place.answer_all)
    thread.start()
    ours.settimeout(PATIENCE_S)
    try:
        yield Engine(ours, Arena(questions), Window(answers))
    finally:
        ours.close()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        theirs.close()


def values_of(head: frames.Head, body: bytes | memoryview) -> Floats:
    assert isinstance(head, frames.Answered), head
    (tensor,) = frames.tensors_of(head.tensors, body)
    return np.frombuffer(tensor.data, np.float32).reshape(tensor.shape)


@pytest.mark.system
@pytest.mark.parametrize("bundle", [a_bundle(), a_litert_bundle()], ids=["onnx", "litert"])
def test_a_loaded_bundle_answers_in_the_signatures_terms(tmp_path: Path, bundle: Bundle) -> None:
    with a_desk(a_loaded(bundle, tmp_path)) as engine:
        head, body = engine.ask(images(2))
    assert isinstance(head, frames.Answered)
    assert head.number == 7
    assert head.compute_ns > 0
    assert [(tensor.name, tensor.shape) for tensor in head.tensors] == [("logits", (2, 4))]
    off = np.abs(values_of(head, body) - logits_of(images(2))).max()
    assert off <= bundle.manifest.golden.tolerance


def test_a_run_that_breaks_off_is_refused_and_the_desk_goes_on() -> None:
    with a_desk(a_fake(Failing())) as engine:
        for number in (7, 8):
            head, _ = engine.ask(images(2), number)
            assert isinstance(head, frames.Refused)
            assert (head.number, head.fault) == (number, frames.Fault.RUNTIME_FAILED)
            assert "it is out of memory" in head.detail


def test_questions_in_the_arena_are_answered_like_those_in_frames() -> None:
    image = an_image(images(3))
    heads = frames.heads_of([image])
    with a_desk(a_fake(Doubling())) as engine:
        at = engine.questions.reserve(1, frames.body_bytes(heads))
        assert at is not None
        engine.questions.write(at, [image.data])
        engine.send(frames.Infer(1, 0, at, heads))
        head, body = engine.receive()
    assert np.array_equal(values_of(head, body), 2 * images(3).reshape(3, 4))


def test_questions_that_stand_in_one_place_are_each_answered_for_what_they_hold() -> None:
    asked = [images(2, seed=1), images(2, seed=2), images(1, seed=3), images(2, seed=4)]
    with a_desk(a_fake(Doubling())) as engine:
        answers = [engine.ask(rows, number) for number, rows in enumerate(asked)]
    for rows, (head, body) in zip(asked, answers, strict=True):
        assert np.array_equal(values_of(head, body), 2 * rows.reshape(len(rows), 4))


def test_a_question_that_stands_nowhere_in_the_arena_ends_the_worker() -> None:
    image = an_image(images(1))
    nowhere, _ = pair = socket.socketpair()
    place = Desk(
        nowhere,
        a_fake(Doubling()),
        Observer(a_bundle().manifest, None, 0.0),
        arenas=(Window(create_arena()), Arena(create_arena())),
        niceness=0,
    )
    for at in (-64, 1 << 40):
        with pytest.raises(frames.BadFrame):
            place.hear(frames.Infer(1, 0, at, frames.heads_of([image])), b"")
    for end in pair:
        end.close()


def test_a_large_answer_stands_in_the_arena_until_it_was_heard() -> None:
    rows = INLINE_BYTES // 16 + 1
    profile = replace(a_bundle().manifest.profile, max_batch=4)
    manifest = replace(a_bundle().manifest, profile=profile)
    first, second = images(rows, seed=1), images(rows, seed=2)
    with a_desk(a_fake(Doubling(), manifest)) as engine:
        places: list[int] = []
        for number, heard, image in ((1, 0, first), (2, 0, second), (3, 1, first)):
            tensor = an_image(image)
            engine.send(frames.Infer(number, heard, None, frames.heads_of([tensor])), [tensor])
            head, body = engine.receive()
            assert isinstance(head, frames.Answered) and head.at is not None and not body
            held = engine.answers.read(head.at, frames.body_bytes(head.tensors))
            assert np.array_equal(values_of(head, held), 2 * image.reshape(-1, 4))
            places.append(head.at)
            held.release()
    assert places[1] > places[0], "the first answer was written over before it was heard"
    assert places[2] == places[0], "the place of an answer that was heard is not used again"


@pytest.mark.parametrize(
    ("shift", "class_shift", "agreed"), [(0.5, 0, 2), (0.0, 1, 0)], ids=["as good", "sick"]
)
def test_a_comparison_says_how_many_classes_are_the_same(
    tmp_path: Path, shift: float, class_shift: int, agreed: int
) -> None:
    image = an_image(images(2))
    mine = logits_of(images(2))
    reference = logits(logits_of(images(2), shift=shift, class_shift=class_shift))
    with a_desk(a_loaded(a_bundle(), tmp_path)) as engine:
        head = frames.Compare(3, 0, None, frames.heads_of([image]), frames.heads_of([reference]))
        engine.send(head, [image, reference])
        compared, _ = engine.receive()
    assert isinstance(compared, frames.Compared)
    assert (compared.number, compared.rows, compared.agreed) == (3, 2, agreed)
    other = np.frombuffer(reference.data, np.float32).reshape(2, 4)
    distances = np.linalg.norm(mine - other, axis=1) / np.linalg.norm(other, axis=1)
    assert compared.distance == pytest.approx(distances.sum(), rel=1e-4)
    assert compared.largest_distance == pytest.approx(distances.max(), rel=1e-4)


class Noting(Doubling):
    """Notes the priority that it computes at."""

    def __init__(self) -> None:
        super().__init__()
        self.priorities: list[int] = []

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        self.priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return super().run(inputs)


def test_comparisons_compute_at_a_low_priority_and_requests_do_not() -> None:
    noting, own = Noting(), os.getpriority(os.PRIO_PROCESS, 0)
    image, reference = an_image(images(2)), logits(logits_of(images(2)))
    heads = frames.heads_of([image]), frames.heads_of([reference])
    with a_desk(a_fake(noting), niceness=own + 3) as engine:
        engine.ask(images(2))
        engine.send(frames.Compare(3, 0, None, *heads), [image, reference])
        engine.receive()
        engine.ask(images(2))
    assert noting.priorities == [own, own + 3, own]


def test_a_comparison_that_breaks_off_is_refused() -> None:
    image, reference = an_image(images(2)), logits(logits_of(images(2)))
    with a_desk(a_fake(Failing())) as engine:
        head = frames.Compare(3, 0, None, frames.heads_of([image]), frames.heads_of([reference]))
        engine.send(head, [image, reference])
        refused, _ = engine.receive()
    assert isinstance(refused, frames.Refused)


def test_a_question_that_is_not_looked_at_may_be_written_over_at_once() -> None:
    with a_desk(a_fake(Doubling())) as engine:
        answered, _ = engine.ask(images(2))
    assert isinstance(answered, frames.Answered) and not answered.looks


def test_what_was_seen_is_told_after_a_while_even_if_nobody_asks() -> None:
    known = Distribution(
        name="image", rows=2, edges=(0.0,), counts=(1, 1), zeros=0.0, not_finite=0.0
    )
    manifest = a_bundle().manifest
    observer = Observer(manifest, Reference(inputs=(known,), outputs=()), 1000.0)
    with a_desk(a_fake(Doubling()), observer, tell_s=0.01) as engine:
        answered, _ = engine.ask(images(2))
        saw, _ = engine.receive()
    assert isinstance(answered, frames.Answered) and answered.looks
    assert isinstance(saw, frames.Saw)
    (image,) = saw.inputs
    assert (image.rows, image.values) == (2, 8)


def test_an_answer_that_is_too_large_is_refused_and_the_next_one_given() -> None:
    with a_desk(a_fake(Flooding())) as engine:
        for number in (7, 8):
            head, _ = engine.ask(images(1), number)
            assert head == frames.Refused(number, frames.Fault.RUNTIME_FAILED, frames.TOO_LARGE)
