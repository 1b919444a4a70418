"""Files of TUF metadata on the machines where offline keys live: read, judged, written.

Whatever lies in the folder of a file may judge it: the roots there say who signs root and
targets, the targets there who signs bins, and copies of a file lend it their signatures. Nothing
is signed or changed that nobody there vouches for, and nothing that is there is written over.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wherry.errors import Malformed, Unsuitable, Untrusted
from wherry.names import KeyId
from wherry.trust import documents
from wherry.trust.documents import Bin, Metadata, Root, Targets
from wherry_controller.core import ceremony
from wherry_controller.core.ceremony import Standing
from wherry_controller.key_files import read_file, write_new

SUFFIX = ".json"


class NoMetadata(Malformed):
    """A file that is no metadata that keys of people sign."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} is neither root nor targets nor a bin: give one of those."


class NoJudge(Unsuitable):
    """A file without what says who may sign it."""

    def __init__(self, path: Path, judge: str) -> None:
        super().__init__(path, judge)
        self.path, self.judge = path, judge

    def __str__(self) -> str:
        return f"{self.judge} says who signs {self.path}: put it, signed, into the same folder."


class NotSigned(Untrusted):
    """A file that not enough of its keys have signed."""

    def __init__(self, path: Path, standing: Standing) -> None:
        super().__init__(path, standing)
        self.path, self.standing = path, standing

    def __str__(self) -> str:
        return (
            f"{self.path} has {len(self.standing.signed)} of {self.standing.threshold} signatures "
            f"that {self.standing.by} wants: have it signed first, or take a copy that is."
        )


class NotAHolder(Unsuitable):
    """A key that has no say in a file."""

    def __init__(self, path: Path, keyid: KeyId) -> None:
        super().__init__(path, keyid)
        self.path, self.keyid = path, keyid

    def __str__(self) -> str:
        return f"key {self.keyid[:8]} is none of those that sign {self.path}: use another."


@dataclass(frozen=True, slots=True)
class Paper:
    """A file of metadata, and by whose rules it must be signed."""

    path: Path
    metadata: Metadata[Root] | Metadata[Targets] | Metadata[Bin]
    standings: tuple[Standing, ...]

    @property
    def kind(self) -> str:
        return type(self.metadata.signed).__name__.lower()

    @property
    def is_met(self) -> bool:
        return bool(self.standings) and all(one.is_met for one in self.standings)


def read_paper(path: Path) -> Paper:
    """Return a file of metadata with what stands beside it: its copies, and what judges it.

    Raises `NoFile`, `NoMetadata` and `NoJudge`.
    """
    alone = _parsed(path, read_file(path))
    metadata = _parsed(path, _with_copies(path, alone.data))
    data = metadata.data
    if isinstance(metadata.signed, Bin):
        waiting = Metadata(metadata.signed, metadata.data)
        return Paper(path, metadata, (_standing_of_bin(path, waiting),))
    roots = roots_beside(path)
    if isinstance(metadata.signed, Root):
        signed = Metadata(metadata.signed, data)
        return Paper(path, metadata, ceremony.standings(signed, roots))
    if not roots:
        raise NoJudge(path, "root")
    return Paper(path, metadata, ceremony.standings(Metadata(metadata.signed, data), roots))


def read_root(path: Path) -> Metadata[Root]:
    """Return the root in a file that is signed as it should be; raise `NotSigned`."""
    paper = read_paper(path)
    if not isinstance(paper.metadata.signed, Root):
        raise ceremony.OtherDocument("root", "a root")
    _check_met(paper)
    return Metadata(paper.metadata.signed, paper.metadata.data)


def read_targets(path: Path) -> Metadata[Targets]:
    """Return the targets in a file that is signed as it should be; raise `NotSigned`."""
    paper = read_paper(path)
    if not isinstance(paper.metadata.signed, Targets):
        raise ceremony.OtherDocument("bundle", "targets")
    _check_met(paper)
    return Metadata(paper.metadata.signed, paper.metadata.data)


def roots_beside(path: Path) -> Sequence[Root]:
    """Return the roots in the folder of a file that are signed by themselves."""
    found: dict[int, Root] = {}
    for other in sorted(path.parent.glob(f"*root*{SUFFIX}")):
        metadata = _if_metadata(other)
        if metadata is None or not isinstance(metadata.signed, Root):
            continue
        root, data = metadata.signed, _with_copies(other, metadata.data)
        signed = documents.signers(data, root.keys, root.roles["root"])
        if len(signed) >= root.roles["root"].threshold:
            found[root.version] = root
    return [found[version] for version in sorted(found)]


def holders_of(paper: Paper) -> frozenset[KeyId]:
    """Return the keys that have a say in a file, whether or not they have signed it."""
    return frozenset(key for one in paper.standings for key in (*one.signed, *one.missing))


def save_signed(paper: Paper, data: bytes, keyid: KeyId, folder: Path | None) -> Path:
    """Write a copy that one more key has signed, under a name that says whose; return where."""
    name = f"{paper.path.name.removesuffix(SUFFIX)}.{keyid[:8]}{SUFFIX}"
    path = (folder or paper.path.parent) / name
    write_new(path, data)
    return path


def save_next(beside: Path, document: Root | Targets) -> Path:
    """Write a document that nobody has signed yet beside the one before it; return where."""
    kind = type(document).__name__.lower()
    path = beside.parent / f"{document.version}.{kind}{SUFFIX}"
    write_new(path, documents.sign(document).data)
    return path


def is_copy(path: Path, data: bytes) -> bool:
    """Say whether a file is there and says what `data` says, whoever has signed it."""
    if not path.exists():
        return False
    with suppress(Malformed):
        return documents.signed_part(read_file(path)) == documents.signed_part(data)
    return False


def _parsed(path: Path, data: bytes) -> Metadata[Root] | Metadata[Targets] | Metadata[Bin]:
    try:
        return documents.read_of_people(data)
    except Malformed as error:
        raise NoMetadata(path) from error


def _with_copies(path: Path, data: bytes) -> bytes:
    """Return `data` with the signatures of those copies that lie beside it."""
    signed = documents.signed_part(data)
    for other in sorted(path.parent.glob(f"*{SUFFIX}")):
        with suppress(Malformed):
            copy = read_file(other)
            if documents.signed_part(copy) == signed:
                data = documents.merge_signatures(data, copy)
    return data


def _if_metadata(
    path: Path,
) -> Metadata[Root] | Metadata[Targets] | Metadata[Bin] | None:
    try:
        return _parsed(path, read_file(path))
    except Malformed:
        return None


def _standing_of_bin(path: Path, document: Metadata[Bin]) -> Standing:
    """Judge a bin by the newest targets beside it that the newest root there vouches for."""
    newest: Targets | None = None
    for other in sorted(path.parent.glob(f"*targets*{SUFFIX}")):
        metadata = _if_metadata(other)
        if metadata is None or not isinstance(metadata.signed, Targets):
            continue
        targets = metadata.signed
        if read_paper(other).is_met and (newest is None or targets.version > newest.version):
            newest = targets
    if newest is None:
        raise NoJudge(path, "targets")
    return ceremony.standing_of_bin(document, newest)


def _check_met(paper: Paper) -> None:
    for standing in paper.standings:
        if not standing.is_met:
            raise NotSigned(paper.path, standing)
