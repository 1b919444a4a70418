"""Tests of the text of a card: it is read back as the card that it was written from."""

from __future__ import annotations

import tomllib

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.controller.builder.versions import a_card
from wherry.signature import BATCH, Datatype, Signature, StatePair, Tensor
from wherry_controller.cli.card_file import SAID, write_card
from wherry_controller.core.card import (
    Card,
    Data,
    Goal,
    Lineage,
    MetricName,
    Normalisation,
    Source,
    SourceKind,
    Task,
    parse_card,
)

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
REALS = st.floats(allow_nan=False, allow_infinity=False)
WHOLES = st.integers(-(2**63), 2**63 - 1)
FILES = st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9._-]{0,20}\Z")
ASSETS = st.from_regex(r"\A[a-z0-9][a-z0-9._-]{0,20}\Z")
NAMES = st.from_regex(r"\A[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?\Z")
ODD = 'quote " and \\ slash\nline \x7f\x00\t = [x] # b'
AXES = st.lists(st.integers(1, 9) | WORDS, max_size=3)


def a_tensor(name: str) -> st.SearchStrategy[Tensor]:
    return st.builds(
        lambda kind, axes: Tensor(name, kind, (BATCH, *axes), "N" * (len(axes) + 1)),
        st.sampled_from(Datatype),
        AXES,
    )


def sources() -> st.SearchStrategy[Source]:
    constants = st.dictionaries(KEYS, WHOLES | REALS | st.lists(WHOLES | REALS, max_size=3))
    return st.builds(
        Source,
        kind=st.just(SourceKind.ONNX),
        file=FILES,
        external_data=st.lists(FILES).map(tuple),
        names=st.dictionaries(KEYS, WORDS),
        constants=constants,
    )


def cards() -> st.SearchStrategy[Card]:
    signature = st.builds(
        lambda one, state, scores, most: Signature(
            (one, state),
            (scores, replace(state, name="stateN")),
            most,
            (StatePair("stateN", "state"),),
        ),
        a_tensor("image"),
        a_tensor("state"),
        a_tensor("scores"),
        st.integers(1, 512),
    )
    facts = st.dictionaries(KEYS, WORDS | WHOLES | REALS | st.booleans())
    return st.builds(
        Card,
        model=NAMES,
        version=NAMES,
        source=sources(),
        signature=signature,
        task=st.builds(
            Task,
            output=st.just("scores"),
            metric=st.sampled_from([MetricName.MAE, MetricName.AUC]),
            claimed=st.none() | REALS,
        ),
        data=st.builds(
            Data,
            evaluation=FILES,
            calibration=st.none() | st.just("rows.py:rows"),
            label=WORDS,
            columns=st.dictionaries(st.just("image"), st.lists(WORDS).map(tuple)),
            images=st.builds(Normalisation, scale=REALS, mean=st.lists(REALS).map(tuple)),
        ),
        goal=st.builds(Goal, floor=st.none() | REALS, largest_drop=st.floats(0, 1)),
        labels=st.lists(WORDS, max_size=40).map(tuple),
        assets=st.dictionaries(ASSETS, FILES),
        lineage=st.builds(Lineage, hyper_parameters=facts, licence=WORDS),
    )


@given(cards())
@example(replace(a_card(), lineage=Lineage(training_data={"": ODD, ODD: ""}, licence=ODD)))
@settings(max_examples=60, deadline=None)
def test_a_written_card_is_read_back_as_it_was(card: Card) -> None:
    whole = msgspec.convert(msgspec.to_builtins(card), Card)  # As a strict decode makes them.
    assert parse_card(write_card(whole).encode()) == whole


def test_a_card_is_written_for_people() -> None:
    text = write_card(a_card())
    assert text.startswith('model = "digits"\nversion = "v1"\nlabels = ["0", "1",')
    assert f"[goal]  # {SAID['goal']}\nfloor = 0.8\n" in text
    assert '{ name = "image", datatype = "FP32", shape = ["batch", 1, 28, 28], layout' in text
    assert "external_data" not in text and "[lineage]" not in text


def test_many_labels_fill_lines() -> None:
    labels = tuple(f"label {number}" for number in range(200))
    scores = Tensor("scores", Datatype.FP32, (BATCH, "classes"))
    signature = Signature(a_card().signature.inputs, (scores,))
    text = write_card(replace(a_card(signature=signature), labels=labels))
    assert max(map(len, text.splitlines())) <= 110
    assert len(text.splitlines()) < 70
    assert tomllib.loads(text)["labels"] == list(labels)
