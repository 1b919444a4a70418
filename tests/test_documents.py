"""What the documents say is there: links, files, functions, tests, commands, words and topics."""

from __future__ import annotations

import argparse
import re
import shlex
import string
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import typer
import typer.main
from typer.core import TyperGroup

from wherry import __version__, topics
from wherry.errors import REFUSALS
from wherry.names import DeviceId, Digest, RoleName
from wherry.reasons import Reason
from wherry.trust.making import Lifetimes
from wherry_agent import cli as agent_cli
from wherry_agent.core.health import Bounds
from wherry_agent.settings import ApiSettings, ServingSettings, TelemetrySettings
from wherry_controller import profiles
from wherry_controller.api.problems import reason_of
from wherry_controller.app import Controller as Controller  # It imports all that refuses.
from wherry_controller.cli import make_app
from wherry_controller.core.card import Card, Data, Source
from wherry_controller.core.fault import REMEDIES, BuildReason
from wherry_controller.settings import Build as BuildSettings
from wherry_controller.settings import Delivery, Door
from wherry_controller.store.records import Flag

ROOT = Path(__file__).parent.parent
FOLDERS = ("docs", "systemd", "packaging", "tests/vectors")
DOCUMENTS = sorted(
    path for folder in (ROOT, *(ROOT / name for name in FOLDERS)) for path in folder.glob("*.md")
)
BUILDING = ROOT / "docs/building.md"
TRUST = ROOT / "docs/trust.md"
DELIVERY = ROOT / "docs/delivery.md"
SERVING = ROOT / "docs/serving.md"
SOURCES = (ROOT, *(ROOT / part for part in ("shared", "agent", "controller")))
PACKAGES = ("", "wherry", "wherry_agent", "wherry_controller", "wherry_sim")
TLS_ALERTS = {"unknown_ca", "certificate_required"}
MADE = ("build/", "dist/")  # What commands make is not there before they ran.
FORMAT = re.compile(r"wherry\.\w+/[0-9]+")

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def spoken(document: Path) -> str:
    """Return a document without its code blocks."""
    return re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)


def find(name: str, near: Path) -> list[Path]:
    """Return the files that a document may mean by a name."""
    bases = [near.parent, *SOURCES]
    places = [base / package / name for base in bases for package in PACKAGES]
    return [place for place in places if place.exists()]


@each_document
def test_every_link_within_the_repository_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", spoken(document)):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        place = document.parent / path if path else document
        assert place.exists(), target
        if anchor:
            assert anchor in anchors_of(place), target


def anchors_of(document: Path) -> set[str]:
    """Return what headings can be linked as: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", spoken(document), flags=re.MULTILINE)
    punctuation = str.maketrans("", "", string.punctuation.replace("-", ""))
    return {heading.lower().translate(punctuation).replace(" ", "-") for heading in headings}


@each_document
def test_every_file_that_is_named_is_there(document: Path) -> None:
    for name in re.findall(r"`([\w.-]+(?:/[\w.-]+)+/?|[\w-]+\.py)`", spoken(document)):
        if FORMAT.fullmatch(name):
            continue
        if "/" in name and not name.startswith(MADE) and (name.endswith("/") or "." in name):
            assert find(name, document), name


@each_document
def test_every_function_that_is_named_is_in_its_file(document: Path) -> None:
    for name, what in re.findall(r"`([\w./-]+\.py):(\w+)`", spoken(document)):
        defined = re.compile(rf"^\s*(?:(?:async )?def|class) {what}\b|^{what}\b.* = ", re.MULTILINE)
        assert any(defined.search(place.read_text()) for place in find(name, document)), name


@each_document
def test_every_test_that_is_named_exists(document: Path) -> None:
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), flags=re.MULTILINE)
    }
    assert set(re.findall(r"`(test_\w+)`", spoken(document))) <= defined


def commands_of(document: Path) -> list[list[str]]:
    """Return the words of each command of Wherry that a document shows after a prompt."""
    text = document.read_text().replace("\\\n", " ")
    lines = re.findall(r"^\$ (wherry(?:-agent)? .+)$", text, flags=re.MULTILINE)
    return [words_before_redirection(line) for line in lines]


def words_before_redirection(line: str) -> list[str]:
    return shlex.split(re.split(r" (?:2?>|&)", line)[0])


@each_document
def test_every_command_that_is_shown_parses(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHERRY_TOKEN", "What `wherry login` would ask for.")
    for program, *words in commands_of(document):
        parses = parses_as_wherry if program == "wherry" else parses_as_agent
        assert parses(words), words


def parses_as_wherry(words: list[str]) -> bool:
    """Say whether the command line takes these words; nothing is run."""
    command = typer.main.get_command(make_app(words))
    context = typer.Context(command, info_name="wherry")
    while isinstance(command, TyperGroup):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, typer.Context(found, info_name=name, parent=context)
    command.parse_args(context, list(words))
    return True


def parses_as_agent(words: list[str]) -> bool:
    return isinstance(agent_cli._parser().parse_args(words), argparse.Namespace)


def test_the_readme_and_the_pages_for_operators_show_commands() -> None:
    assert len(commands_of(ROOT / "README.md")) > 20
    assert len(commands_of(BUILDING)) > 5
    assert len(commands_of(TRUST)) > 20
    assert len(commands_of(SERVING)) > 4


def test_the_parser_refuses_what_is_no_option() -> None:
    with pytest.raises(Exception, match="--nonsense"):
        parses_as_wherry(["rollout", "watch", "digits-v1", "--nonsense"])
    with pytest.raises(SystemExit):
        parses_as_agent(["run", "--nonsense"])


def test_each_word_of_the_glossary_stands_once() -> None:
    words = re.findall(r"^\| \*\*([^*]+)\*\* \|", (ROOT / "GLOSSARY.md").read_text(), re.MULTILINE)
    assert len(words) > 100
    assert sorted(set(words)) == sorted(words)


def test_the_architecture_names_exactly_the_topics_that_there_are() -> None:
    device, digest = DeviceId("id"), Digest("d" * 64)
    role = RoleName("snapshot")
    example: dict[type[topics.Topic], topics.Topic] = {
        topics.BundleTopic: topics.BundleTopic(digest),
        topics.BlobTopic: topics.BlobTopic(digest),
        topics.TimestampTopic: topics.TimestampTopic(),
        topics.MetadataTopic: topics.MetadataTopic(role, 7),
    }
    spelled = set()
    for kind in get_args(topics.Topic):
        text = topics.text(example[kind] if kind in example else kind(device))
        text = text.replace(digest, "{digest}").replace("/id", "/{id}")
        spelled.add(text.replace(f"{role}/7", "{role}/{version}"))
    document = (ROOT / "ARCHITECTURE.md").read_text()
    named = re.findall(r"^\| `(wherry/v1/[^`]+)`", document, re.MULTILINE)
    assert set(named) == spelled
    assert len(named) == len(spelled)


def test_the_page_on_building_says_of_each_refusal_what_to_do() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", BUILDING.read_text(), re.MULTILINE)
    told = {reason: remedy for reason, remedy in rows if reason in set(BuildReason)}
    assert told == {reason.value: remedy for reason, remedy in REMEDIES.items()}


def test_the_page_on_building_names_the_profiles_that_come_along() -> None:
    table = BUILDING.read_text().partition("\n## Profiles\n")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE)
    assert sorted(named) == sorted(profiles.names())


def test_the_card_that_is_shown_is_one_with_every_key() -> None:
    text = re.findall(
        r"^```toml\n(model = .+?)^```", BUILDING.read_text(), re.DOTALL | re.MULTILINE
    )
    shown = tomllib.loads(text[0])
    for part, kind in ((shown, Card), (shown["source"], Source), (shown["data"], Data)):
        assert set(part) == set(kind.__struct_fields__)


def settings_in(document: Path, section: str) -> dict[str, object]:
    """Return a section of the settings as a document shows it."""
    block = rf"^```toml\n(\[{section}\].+?)^```"
    (text,) = re.findall(block, document.read_text(), re.DOTALL | re.MULTILINE)
    shown: dict[str, object] = tomllib.loads(text)[section]
    return shown


def test_the_settings_that_are_shown_are_the_defaults() -> None:
    shown = settings_in(BUILDING, "build")
    assert msgspec.convert(shown, BuildSettings) == BuildSettings()
    assert set(shown) == set(BuildSettings.__struct_fields__)
    lifetimes = settings_in(TRUST, "trust")
    assert msgspec.convert(lifetimes, Lifetimes) == Lifetimes()
    assert set(lifetimes) == set(Lifetimes.__struct_fields__)
    assert msgspec.convert(settings_in(TRUST, "door"), Door) == Door()
    assert msgspec.convert(settings_in(DELIVERY, "delivery"), Delivery) == Delivery()


def defaults_in(document: Path, section: str) -> dict[str, object]:
    """Return the defaults of a section as a document's table shows them; none is None."""
    part = document.read_text().partition(f"\n`[{section}]`: ")[2].partition("\n`[")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", part, re.MULTILINE)
    return {key: None if told == "none" else _read_literal(told) for key, told in rows}


def _read_literal(told: str) -> object:
    read: dict[str, object] = tomllib.loads(f"value = {told.strip('`')}")
    return read["value"]


@pytest.mark.parametrize(
    ("section", "defaults"),
    [
        ("api", ApiSettings()),
        ("serving", ServingSettings()),
        ("telemetry", TelemetrySettings()),
        ("probation", Bounds()),
    ],
)
def test_the_defaults_of_an_agent_that_are_shown_are_those_that_hold(
    section: str, defaults: msgspec.Struct
) -> None:
    shown = defaults_in(SERVING, section)
    told = msgspec.to_builtins(defaults)
    assert shown == {key: list(one) if one == () else one for key, one in told.items()}


def rows_of_threats() -> list[tuple[str, str, str]]:
    """Return threat, answer and tests of each row of the table of threats."""
    part = (ROOT / "SECURITY.md").read_text().partition("\n## Threats")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", part, re.MULTILINE)
    return [row for row in rows if row[0] != "threat"]


def test_each_threat_names_its_tests() -> None:
    rows = rows_of_threats()
    assert len(rows) > 60
    for threat, _, tests in rows:
        assert re.fullmatch(r"`test_\w+`(?:, `test_\w+`)*", tests), threat


def test_each_answer_to_a_threat_is_a_reason_a_problem_or_a_flag() -> None:
    refusals = {reason_of(kind.__new__(kind)) for kind in kinds_of_refusals()}
    known = {reason.value for reason in Reason} | {flag.value for flag in Flag} | refusals
    for threat, answer, _ in rows_of_threats():
        named = set(re.findall(r"`([a-z]+(?:_[a-z0-9]+)+)`", answer)) - TLS_ALERTS
        assert named <= known, threat


def kinds_of_refusals() -> Iterator[type[Exception]]:
    """Yield every class of a refusal that the controller knows."""
    waiting: list[type[Exception]] = [*REFUSALS]
    while waiting:
        kind = waiting.pop()
        yield kind
        waiting.extend(kind.__subclasses__())


def test_the_page_on_containers_names_this_release_alone() -> None:
    text = (ROOT / "docs/containers.md").read_text()
    assert set(re.findall(r"(?<![\d.])\d+\.\d+\.\d+(?![\d.])", text)) == {__version__}


def test_the_changelog_begins_with_this_release() -> None:
    releases = re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[0] == __version__
