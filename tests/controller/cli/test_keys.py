"""Keys that are made and used on different machines, with files between them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.controller.cli.conftest import Ran, Wherry
from wherry_controller import key_files
from wherry_controller.cli.outcome import Exit
from wherry_controller.key_files import KeyRole, Passphrase

SECRET = "correct horse battery"


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text(f"{SECRET}\n")
    return path


def make_key(folder: Path, role: KeyRole) -> tuple[Path, Path]:
    """Make one key of a role on a machine of its own; return its private and its public file."""
    # As `keys init` does, but for what scrypt costs.
    made = key_files.make_key(folder, role, Passphrase(SECRET, 1 << 14))
    return made.private_path, made.public_path


def fine(ran: Ran) -> Ran:
    assert ran.status == 0, ran.err
    return ran


class Ceremony:
    """Three holders of root keys, one of targets, and a controller's own keys."""

    def __init__(self, wherry: Wherry, folder: Path, passphrase: Path) -> None:
        self.wherry, self.folder, self.passphrase = wherry, folder, passphrase
        self.controller = folder / "controller"
        fine(wherry("keys", "init", self.controller, "--online"))
        online = list((self.controller / "trust").glob("*.pub.json"))
        self.roots = [make_key(folder / name, KeyRole.ROOT) for name in "abc"]
        self.targets = make_key(folder / "t", KeyRole.TARGETS)
        publics = [*online, self.targets[1], *(public for _, public in self.roots)]
        self.table = folder / "table"
        fine(wherry("keys", "found", *publics, "--threshold", "root=2", "--to", self.table))

    def sign(self, file: Path, key: Path) -> Ran:
        words = ("--key", key, "--passphrase-file", self.passphrase)
        return self.wherry("keys", "sign", file, *words)

    def sign_first(self) -> tuple[list[Path], Path]:
        """Have two holders sign the first root and one the targets; return the signed copies."""
        for private, _ in self.roots[:2]:
            fine(self.sign(self.table / "1.root.json", private))
        fine(self.sign(self.table / "1.targets.json", self.targets[0]))
        (targets,) = self.table.glob("1.targets.*.json")
        return sorted(self.table.glob("1.root.*.json")), targets


@pytest.fixture
def ceremony(wherry: Wherry, tmp_path: Path, passphrase: Path) -> Ceremony:
    return Ceremony(wherry, tmp_path, passphrase)


def test_a_private_key_is_its_owners_and_sealed(
    wherry: Wherry, tmp_path: Path, passphrase: Path
) -> None:
    folder = tmp_path / "a"
    fine(wherry("keys", "init", folder, "--role", "root", "--passphrase-file", passphrase))
    (private,), (public,) = folder.glob("root-*.key.json"), folder.glob("root-*.pub.json")
    assert json.loads(private.read_text())["scrypt"]["n"] == 1 << 17
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert SECRET not in private.read_text() + public.read_text()
    assert '"format":"wherry.private_key/1"' in private.read_text()


def test_a_passphrase_that_is_too_short_is_refused(wherry: Wherry, tmp_path: Path) -> None:
    weak = tmp_path / "weak"
    weak.write_text("1234567\n")
    made = wherry("keys", "init", tmp_path / "a", "--passphrase-file", weak)
    assert made.status == Exit.USAGE and "at least 8" in made.err
    assert not (tmp_path / "a").exists()


def test_a_controller_is_founded_on_a_root_that_was_signed_elsewhere(ceremony: Ceremony) -> None:
    roots, targets = ceremony.sign_first()
    given = [word for root in roots for word in ("--root", root)]
    founded = ceremony.wherry("init", ceremony.controller, *given, "--targets", targets)
    assert founded.status == 0, founded.err
    assert not (ceremony.controller / "offline").exists()
    assert (ceremony.controller / "trust" / "1.root.json").exists()


def test_one_signature_of_two_founds_nothing(ceremony: Ceremony) -> None:
    roots, targets = ceremony.sign_first()
    # Who signed second signed on with the copy of the first beside it.
    (alone,) = (one for one in roots if len(json.loads(one.read_text())["signatures"]) == 1)
    founded = ceremony.wherry("init", ceremony.controller, "--root", alone, "--targets", targets)
    assert founded.status == Exit.REFUSED and "1 of 2 signatures" in founded.err
    assert not (ceremony.controller / "wherry.toml").exists()


def test_a_root_of_other_online_keys_founds_nothing(ceremony: Ceremony, tmp_path: Path) -> None:
    roots, targets = ceremony.sign_first()
    given = [word for root in roots for word in ("--root", root)]
    founded = ceremony.wherry("init", tmp_path / "other", *given, "--targets", targets)
    assert founded.status == Exit.REFUSED and "has no such key" in founded.err
    assert not (tmp_path / "other" / "wherry.toml").exists()


def test_status_says_who_has_signed(ceremony: Ceremony) -> None:
    file = ceremony.table / "1.root.json"
    fine(ceremony.sign(file, ceremony.roots[0][0]))
    shown = fine(ceremony.wherry("keys", "status", file))
    assert "1 of 2" in shown.out
    fine(ceremony.sign(file, ceremony.roots[2][0]))
    assert "2 of 2" in fine(ceremony.wherry("keys", "status", file)).out


def test_a_key_without_a_say_signs_nothing(ceremony: Ceremony) -> None:
    refused = ceremony.sign(ceremony.table / "1.root.json", ceremony.targets[0])
    assert refused.status == Exit.REFUSED and "none of those that sign" in refused.err
    assert len(list(ceremony.table.iterdir())) == 2


def test_targets_are_signed_only_beside_a_root_that_is_signed(ceremony: Ceremony) -> None:
    refused = ceremony.sign(ceremony.table / "1.targets.json", ceremony.targets[0])
    assert refused.status == Exit.REFUSED and "root says who signs" in refused.err


def test_a_wrong_passphrase_signs_nothing(ceremony: Ceremony, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("another passphrase")
    ceremony.passphrase = wrong
    refused = ceremony.sign(ceremony.table / "1.root.json", ceremony.roots[0][0])
    assert refused.status == Exit.REFUSED and "does not open" in refused.err
    assert len(list(ceremony.table.iterdir())) == 2


def test_a_signed_copy_is_never_written_over(ceremony: Ceremony) -> None:
    file = ceremony.table / "1.root.json"
    fine(ceremony.sign(file, ceremony.roots[0][0]))
    (copy,) = ceremony.table.glob("1.root.*.json")
    before = copy.read_bytes()
    again = ceremony.sign(file, ceremony.roots[0][0])
    assert again.status == Exit.REFUSED and "there already" in again.err
    assert copy.read_bytes() == before


def test_a_change_is_made_only_of_what_is_signed(ceremony: Ceremony) -> None:
    refused = ceremony.wherry(
        "keys", "add", ceremony.roots[0][1], "--on", ceremony.table / "1.root.json"
    )
    assert refused.status == Exit.REFUSED and "0 of 2 signatures" in refused.err
    assert len(list(ceremony.table.iterdir())) == 2


def test_a_lost_root_key_is_replaced_by_the_other_two(ceremony: Ceremony, tmp_path: Path) -> None:
    ceremony.sign_first()
    _, new = make_key(tmp_path / "d", KeyRole.ROOT)
    lost = ceremony.roots[2][0].name.removeprefix("root-").partition(".")[0]
    on = ceremony.table / "1.root.json"
    fine(ceremony.wherry("keys", "rotate", lost, new, "--on", on))
    file = ceremony.table / "2.root.json"
    for private, _ in ceremony.roots[:2]:
        fine(ceremony.sign(file, private))
    shown = fine(ceremony.wherry("keys", "status", file))
    assert shown.out.count("2 of 2") == 2
    assert "root/1" in shown.out and "root/2" in shown.out


def test_a_key_that_is_unknown_is_not_replaced(ceremony: Ceremony) -> None:
    ceremony.sign_first()
    refused = ceremony.wherry(
        "keys", "rotate", "0000", ceremony.roots[0][1], "--on", ceremony.table / "1.root.json"
    )
    assert refused.status == Exit.REFUSED and "no key of root" in refused.err


def test_a_threshold_that_cannot_be_reached_is_refused(ceremony: Ceremony) -> None:
    ceremony.sign_first()
    on = ceremony.table / "1.root.json"
    refused = ceremony.wherry("keys", "add", ceremony.roots[0][1], "--on", on, "--threshold", 9)
    assert refused.status == Exit.REFUSED and "add keys" in refused.err
    assert not (ceremony.table / "2.root.json").exists()


def test_a_minimum_is_signed_where_the_targets_key_is(ceremony: Ceremony) -> None:
    ceremony.sign_first()
    done = ceremony.wherry(
        *("keys", "min-release", "digits=2", "--on", ceremony.table / "1.targets.json"),
        *("--key", ceremony.targets[0], "--passphrase-file", ceremony.passphrase),
    )
    assert done.status == 0, done.err
    (signed,) = ceremony.table.glob("2.targets.*.json")
    assert '"min_release":{"digits":2}' in signed.read_text()


def test_a_minimum_is_a_number(ceremony: Ceremony) -> None:
    ceremony.sign_first()
    on = ceremony.table / "1.targets.json"
    assert ceremony.wherry("keys", "min-release", "digits", "--on", on).status == Exit.USAGE


def test_renewing_says_the_same_again(ceremony: Ceremony) -> None:
    ceremony.sign_first()
    for kind in ("root", "targets"):
        fine(ceremony.wherry("keys", "renew", "--on", ceremony.table / f"1.{kind}.json"))
        assert '"version":2' in (ceremony.table / f"2.{kind}.json").read_text()


def test_a_public_file_with_another_key_than_it_names_is_refused(ceremony: Ceremony) -> None:
    ceremony.sign_first()
    public, other = ceremony.roots[0][1], json.loads(ceremony.roots[1][1].read_text())
    public.write_text(json.dumps(json.loads(public.read_text()) | {"public": other["public"]}))
    on = ceremony.table / "1.root.json"
    refused = ceremony.wherry("keys", "add", public, "--on", on)
    assert refused.status == Exit.REFUSED and "not the one that it names" in refused.err
    assert not (ceremony.table / "2.root.json").exists()


def test_a_private_file_that_claims_another_role_does_not_open(ceremony: Ceremony) -> None:
    private, _ = ceremony.roots[0]
    private.write_text(private.read_text().replace('"role":"root"', '"role":"targets"'))
    refused = ceremony.sign(ceremony.table / "1.root.json", private)
    assert refused.status == Exit.REFUSED and "does not open" in refused.err


def test_init_keeps_offline_keys_apart_and_shows_their_passphrase_once(
    wherry: Wherry, tmp_path: Path
) -> None:
    founded = fine(wherry("init", tmp_path / "controller"))
    offline = tmp_path / "controller" / "offline"
    assert str(offline) in founded.out and "move it" in founded.out
    generated = founded.out.splitlines()[5]
    secret = tmp_path / "secret"
    secret.write_text(generated)
    (key,) = offline.glob("root-*.key.json")
    trust = tmp_path / "controller" / "trust"
    fine(
        wherry(
            "keys",
            "renew",
            "--on",
            trust / "1.root.json",
            "--key",
            key,
            "--passphrase-file",
            secret,
        )
    )
    assert len(list(trust.glob("2.root.*.json"))) == 1
