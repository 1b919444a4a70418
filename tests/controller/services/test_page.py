"""The page of a version's report: what it shows, and that nothing in it is taken for markup."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.builders import a_digest
from tests.controller.reports import a_baseline, a_candidate, a_profile_report
from wherry.names import parse_model_name, parse_version_name
from wherry_controller.core.choice import ProfileReport, Sensitivity
from wherry_controller.core.fault import BuildReason
from wherry_controller.core.report import ProfilePart, VersionReport
from wherry_controller.services.axes import ticks_of
from wherry_controller.services.page import page_of
from wherry_controller.services.plot import plot_of

SVG_CIRCLES = ("circle", "rect")


def a_report(*profiles: ProfileReport) -> VersionReport:
    return VersionReport(
        model=parse_model_name("digits"),
        version=parse_version_name("v1"),
        lineage=a_digest("lineage"),
        reference=None,
        profiles=tuple(
            ProfilePart(
                build="b1",
                built_at=1.0,
                bundle=a_digest(),
                tools={"torch": "2.13.0"},
                report=report,
            )
            for report in profiles or (a_profile_report(),)
        ),
    )


class Reader(HTMLParser):
    """Reads a page: its tags in order, their attributes, and whether each is closed."""

    VOID = ("meta",)

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def test_the_page_shows_each_candidate_with_its_figures_and_the_choice_with_its_reason() -> None:
    page = Reader(page_of(a_report()))
    for said in (
        "fp32",
        "int8-s8s8-1_float",
        "4.00x",
        "2.50x",
        "0.180",
        "+0.0040 [+0.0020, +0.0060]",
        "0.9900",
        "int8 is the best in latency",
        "/head/Gemm",
        "stays in float",
        "torch 2.13.0",
    ):
        assert said in page.text, said


def test_the_page_needs_nothing_from_elsewhere() -> None:
    text = page_of(a_report())
    page = Reader(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert all(link.startswith("#") for link in page.attributes.get("href", []))
    assert "src" not in page.attributes and "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text


EVIL = "\"><script>alert('x')</script>&amp;"


def test_no_text_of_a_model_is_markup() -> None:
    evil = replace(
        a_candidate(), name=EVIL, evaluated_on=EVIL, fault=BuildReason.NO_RECIPE, problem=EVIL
    )
    report = replace(
        a_profile_report(),
        candidates=(replace(a_baseline(), name=EVIL), evil),
        chosen=EVIL,
        why=EVIL,
        runtime=EVIL,
        metric=EVIL,
        sensitivities=(Sensitivity(EVIL, EVIL, EVIL, 0.1),),
        not_emulated=(EVIL,),
    )
    page = Reader(page_of(a_report(report)))
    assert "script" not in page.tags
    assert page.text.count("alert('x')") > 8


def test_a_profile_that_was_refused_shows_why() -> None:
    fault = replace(a_candidate(), fault=BuildReason.DROP_TOO_LARGE, problem="a drop of 0.2")
    report = replace(a_profile_report(), candidates=(a_baseline(), fault), chosen=None)
    page = Reader(page_of(a_report(report)))
    assert "drop_too_large: a drop of 0.2" in page.text
    assert "the profile was refused" in page.text


def shapes_of(plot: str) -> list[ElementTree.Element]:
    return [one for one in ElementTree.fromstring(plot).iter() if one.tag in SVG_CIRCLES]


def test_the_plot_marks_the_chosen_candidate_and_float() -> None:
    base, chosen = shapes_of(plot_of(a_profile_report(), "p"))
    assert (base.tag, base.get("class")) == ("rect", "base")
    assert (chosen.tag, chosen.get("class")) == ("circle", "chosen")
    title = chosen.find("title")
    assert title is not None and "p50 ms 0.180" in str(title.text)


def test_the_plot_is_against_latency_where_one_was_measured_and_else_against_the_drop() -> None:
    report = a_profile_report()
    untimed = tuple(replace(one, latency=None) for one in report.candidates)
    assert "p50 latency in ms" in plot_of(report, "p")
    assert "drop of the metric" in plot_of(replace(report, candidates=untimed), "p")


def test_the_plot_can_be_read_aloud() -> None:
    plot = ElementTree.fromstring(plot_of(a_profile_report(), "p"))
    assert plot.get("role") == "img"
    words = {one.get("id"): str(one.text) for one in plot if one.tag in ("title", "desc")}
    named = [words[name] for name in str(plot.get("aria-labelledby")).split()]
    assert "x86-onnx-fp32" in named[0] and "int8-s8s8-1_float: size 0.40 MB" in named[1]


def test_smaller_and_faster_stand_nearer_to_the_corner() -> None:
    base, chosen = shapes_of(plot_of(a_profile_report(), "p"))
    assert float(chosen.get("cx", "nan")) < float(base.get("x", "nan"))
    assert float(chosen.get("cy", "nan")) > float(base.get("y", "nan"))  # Down is less.


def test_a_profile_of_which_nothing_was_measured_has_no_plot() -> None:
    unmeasured = replace(a_baseline(), size_bytes=None, judged=None, latency=None)
    report = replace(a_profile_report(), candidates=(unmeasured,), chosen=None)
    assert plot_of(report, "p") == ""
    Reader(page_of(a_report(report)))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 10, (0, 2, 4, 6, 8, 10)), (0, 0, (0, 0.2)), (-0.01, 0.02, (-0.01, 0.0, 0.01, 0.02))],
)
def test_ticks_are_round_numbers(low: float, high: float, ticks: tuple[float, ...]) -> None:
    assert ticks_of(low, high) == pytest.approx(ticks)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_enclose_their_span_and_are_few(low: float, span: float) -> None:
    ticks = ticks_of(low, low + span)
    assert 2 <= len(ticks) <= 8
    slack = 1e-9 * max(1.0, abs(low), span)
    assert ticks[0] <= low + slack and ticks[-1] >= low + span - slack
    assert all(math.isfinite(tick) for tick in ticks)
