"""`wherry keys`: who may sign what. All but `status`, `fetch` and `publish` need no controller.

The holders of offline keys work on files: a change makes the next version of root or targets,
each holder signs a copy on the machine where the key is, and the copies are published together.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from wherry.files import make_folder
from wherry.names import KeyId, parse_alias_name
from wherry.trust import documents
from wherry.trust.documents import Root, Targets
from wherry_controller import key_files
from wherry_controller.cli import ceremonies, passphrases, show
from wherry_controller.cli.ceremonies import Paper
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.cli.remote import connect
from wherry_controller.cli.replies import PublishedFiles, Trust, TrustFiles, read
from wherry_controller.core import ceremony
from wherry_controller.core.ceremony import Standing
from wherry_controller.key_files import KeyRole, PublicKey

app = typer.Typer(no_args_is_help=True, help="Keys of the root of trust, and what they sign.")

PassphraseFile = Annotated[
    Path | None, typer.Option(help="Its first line is the passphrase; else it is asked for.")
]
On = Annotated[Path, typer.Option("--on", help="The signed root or targets to change.")]
KeyFile = Annotated[Path | None, typer.Option("--key", help="Sign the change with this key, too.")]
Threshold = Annotated[
    int | None, typer.Option("--threshold", min=1, help="How many keys must sign from then on.")
]
Public = Annotated[Path, typer.Argument(metavar="PUBLIC", help="A file that `init` wrote.")]


@app.command()
def init(
    folder: Path,
    *,
    roles: Annotated[
        list[KeyRole] | None,
        typer.Option("--role", help="Repeatable; root and targets by default."),
    ] = None,
    online: Annotated[
        bool, typer.Option("--online", help="What a controller's folder signs by itself.")
    ] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make keys in a folder: each a private file under a passphrase, and a public one."""
    if online:
        _init_online(folder, roles or [])
        return
    passphrase = passphrases.new(passphrase_file)
    for role in roles or list(key_files.OFFLINE):
        made = key_files.make_key(folder, role, passphrase)
        show.line(f"{role}: {made.public.keyid}")
        show.line(f"  keep {made.private_path}, give away {made.public_path}")


@app.command()
def found(
    publics: Annotated[list[Path], typer.Argument(metavar="PUBLIC...", help="For every role.")],
    *,
    to: Annotated[Path, typer.Option(help="The folder for root and targets.")],
    thresholds: Annotated[
        list[str] | None, typer.Option("--threshold", metavar="ROLE=N", help="Repeatable.")
    ] = None,
) -> None:
    """Make the first root and targets of public keys; nobody has signed them yet."""
    keys = [key_files.read_public(path) for path in publics]
    by_role = {role: [one.key for one in keys if one.role.value == role] for role in ceremony.ROLES}
    numbers = {name: _number(pair, text) for name, text, pair in _pairs(thresholds or [])}
    root, targets = ceremony.founded(by_role, numbers, time.time())
    make_folder(to)
    for document in (root, targets):
        _say_unsigned(ceremonies.save_next(to / "1", document))


@app.command()
def add(
    public: Public,
    *,
    on: On,
    threshold: Threshold = None,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Give a role one more key: the one that the public file is for."""
    new = key_files.read_public(public)
    document: Root | Targets
    if new.role is KeyRole.BUNDLE:
        document = ceremony.with_bundle_key(
            ceremonies.read_targets(on).signed, new.key, time.time()
        )
    else:
        root = ceremonies.read_root(on).signed
        document = ceremony.with_key(root, new.role, new.key, time.time(), threshold=threshold)
    _save(on, document, key, passphrase_file)


@app.command()
def rotate(
    old: Annotated[str, typer.Argument(help="The id of the key that goes, or its beginning.")],
    public: Public,
    *,
    on: On,
    threshold: Threshold = None,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Put a new key in the place of an old one, which has no say from then on."""
    new = key_files.read_public(public)
    _save(on, _rotated(old, new, on, threshold), key, passphrase_file)


@app.command()
def renew(on: On, *, key: KeyFile = None, passphrase_file: PassphraseFile = None) -> None:
    """Make the next version of root or targets, which says the same for another year."""
    paper = ceremonies.read_paper(on)
    if isinstance(paper.metadata.signed, Root):
        root = ceremonies.read_root(on).signed
        _save(on, ceremony.renewed_root(root, time.time()), key, passphrase_file)
    else:
        targets = ceremonies.read_targets(on).signed
        _save(on, ceremony.renewed_targets(targets, time.time()), key, passphrase_file)


@app.command("min-release")
def min_release(
    minima: Annotated[list[str], typer.Argument(metavar="ALIAS=N...")],
    *,
    on: On,
    key: KeyFile = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Have devices refuse every release of an alias below a number."""
    numbers = {parse_alias_name(name): _number(pair, text) for name, text, pair in _pairs(minima)}
    targets = ceremonies.read_targets(on).signed
    _save(on, ceremony.with_minima(targets, numbers, time.time()), key, passphrase_file)


@app.command()
def sign(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...")],
    *,
    key: Annotated[Path, typer.Option(help="A private key's file.")],
    to: Annotated[Path | None, typer.Option(help="The folder for the signed copies.")] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Write signed copies of root, targets or bins; what is beside them says who may sign."""
    _sign(files, key, to, passphrase_file)


@app.command()
def status(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...")] = None,
    *,
    json: show.Json = False,
) -> None:
    """Say who has signed files and who has not; without files, how the controller stands."""
    if files:
        _show_files(files)
        return
    body = connect().get("/trust")
    if json:
        show.raw(body)
        return
    trust = read(Trust, body)
    rows = [
        (
            one.role,
            str(one.version),
            show.moment(one.expires_at),
            f"{one.threshold} of {len(one.keyids)}",
            "by itself" if one.is_here else f"before {show.moment(one.sign_again_at)}",
            ", ".join(keyid[:8] for keyid in one.keyids),
        )
        for one in trust.roles
    ]
    show.table(("role", "version", "expires", "needs", "signed again", "keys"), rows)
    if trust.waiting:
        names = ", ".join(f"{one.role}/{one.version}" for one in trust.waiting)
        show.line(f"{names} wait for the bundle key: wherry keys fetch, sign, publish")


@app.command()
def fetch(folder: Path) -> None:
    """Bring root, targets and the bins that wait into a folder; what is there stays."""
    files = read(TrustFiles, connect().get("/trust/files")).files
    make_folder(folder)
    for name, text in files.items():
        path = folder / Path(name).name
        if not ceremonies.is_copy(path, text.encode()):
            key_files.write_new(path, text.encode())
        show.line(str(path))


@app.command()
def publish(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...")], *, json: show.Json = False
) -> None:
    """Publish signed copies of root, targets or bins: all of them, or none."""
    texts = [key_files.read_file(path).decode(errors="replace") for path in files]
    body = connect().post("/trust/files", {"files": texts})
    if json:
        show.raw(body)
        return
    show.line(f"{', '.join(read(PublishedFiles, body).names)} published.")


def _init_online(folder: Path, roles: list[KeyRole]) -> None:
    """Make what is missing of a controller's own keys, and one more of each role that is named."""
    from wherry_controller import foundation

    keys, trust = folder / "keys", folder / foundation.TRUST
    held = foundation.make_online_keys(keys)
    added = {role: foundation.add_online_key(keys, role) for role in roles}
    make_folder(trust)
    for role, key in (added or held).items():
        public = PublicKey(role, key.public_key())
        show.line(f"{role}: {public.keyid}")
        show.line(f"  give away {key_files.write_public(trust, public)}")


def _rotated(old: str, new: PublicKey, on: Path, threshold: int | None) -> Root | Targets:
    now = time.time()
    if new.role is KeyRole.BUNDLE:
        targets = ceremonies.read_targets(on).signed
        known = targets.delegations.succinct_roles.keyids
        gone = _whole(old, known, new.role)
        return ceremony.with_bundle_key_replaced(targets, gone, new.key, now)
    root = ceremonies.read_root(on).signed
    gone = _whole(old, ceremony.role_of(root, new.role).keyids, new.role)
    return ceremony.with_key_replaced(root, new.role, gone, new.key, now, threshold=threshold)


def _whole(beginning: str, keyids: tuple[KeyId, ...], role: KeyRole) -> KeyId:
    found = [keyid for keyid in keyids if beginning and keyid.startswith(beginning)]
    if len(found) != 1:
        raise ceremony.NotItsKey(role, beginning)
    return found[0]


def _save(
    on: Path, document: Root | Targets, key: Path | None, passphrase_file: Path | None
) -> None:
    path = ceremonies.save_next(on, document)
    _say_unsigned(path)
    if key is not None:
        _sign([path], key, None, passphrase_file)


def _sign(files: list[Path], key: Path, to: Path | None, passphrase_file: Path | None) -> None:
    papers = [ceremonies.read_paper(path) for path in files]
    keyid = key_files.keyid_of(key)
    for paper in papers:
        if keyid not in ceremonies.holders_of(paper):
            raise ceremonies.NotAHolder(paper.path, keyid)
    _, private = key_files.open_key(key, passphrases.known(passphrase_file))
    if to is not None:
        make_folder(to)
    for paper in papers:
        data = documents.add_signature(paper.metadata.data, private)
        show.line(str(ceremonies.save_signed(paper, data, keyid, to)))


def _show_files(files: list[Path]) -> None:
    papers = [ceremonies.read_paper(path) for path in files]
    rows = [_row(paper, one) for paper in papers for one in paper.standings]
    show.table(("file", "what", "expires", "by", "signed", "missing"), rows)


def _row(paper: Paper, standing: Standing) -> tuple[str, ...]:
    document = paper.metadata.signed
    return (
        str(paper.path),
        f"{paper.kind} {document.version}",
        show.moment(documents.expires_at(document)),
        standing.by,
        f"{len(standing.signed)} of {standing.threshold}",
        "" if standing.is_met else ", ".join(keyid[:8] for keyid in standing.missing),
    )


def _say_unsigned(path: Path) -> None:
    show.line(f"{path} waits for its signatures: wherry keys sign {path} --key KEY")


def _pairs(texts: list[str]) -> list[tuple[str, str, str]]:
    return [(*text.partition("=")[::2], text) for text in texts]


def _number(pair: str, text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) < 1 << 53:
        raise Ended(Exit.USAGE, f"{pair!r} names no number above 0: write NAME=N.")
    return int(text)
