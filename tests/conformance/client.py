"""A TUF client with files and HTTP around `wherry.trust.workflow`, for the conformance suite.

It speaks the command line that theupdateframework/tuf-conformance describes in CLIENT-CLI.md.
What is accepted is decided by the module that agents use; here is only where bytes come from,
where they are kept, and the walk through delegations, which Wherry's own repositories lack.
"""

from __future__ import annotations

import argparse
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tuf.api.exceptions import LengthOrHashMismatchError

from wherry.errors import REFUSALS, Unavailable
from wherry.files import write_whole
from wherry.trust import metadata, workflow
from wherry.trust.metadata import TargetFile
from wherry.trust.refusals import MetadataRefused
from wherry.trust.workflow import TrustedSet

MOST_ROOTS = 256
MOST_DELEGATIONS = 32
TIMEOUT_S = 10.0


class NotThere(Unavailable):
    """What the repository does not have."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url

    def __str__(self) -> str:
        return f"there is nothing at {self.url}; publish it first."


class Client:
    """A folder of trusted metadata, a repository's URL, and the time at which this began."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.now = time.time()
        self.trusted = workflow.begin(self._stored("root"))

    def refresh(self) -> None:
        """Bring the four top-level roles up to date (5.3 to 5.6)."""
        self._refresh_root()
        self._refresh_timestamp()
        self._refresh_snapshot()
        self.load_targets("targets", "root")

    def load_targets(self, role: str, delegator: str) -> None:
        """Take the targets that the snapshot names, from the folder or else from the repository."""

        def taken(data: bytes) -> TrustedSet:
            return workflow.update_targets(self.trusted, role, data, self.now, delegator=delegator)

        with suppress(*REFUSALS, OSError):
            self.trusted = taken(self._stored(role))
            return
        version = workflow.promised_version(self.trusted, role)
        if not version:
            raise NotThere(f"{role} in the snapshot")
        data = self._fetched(role, version)
        self.trusted = taken(data)
        self._store(role, data)

    def find(self, path: str) -> TargetFile:
        """Return the target at `path`: delegations in pre-order, depth first (5.6.7)."""
        waiting, seen = [("targets", "root")], set[str]()
        while waiting and len(seen) <= MOST_DELEGATIONS:
            role, delegator = waiting.pop()
            if role in seen:
                continue
            self.load_targets(role, delegator)
            seen.add(role)
            if path in self.trusted.targets[role].targets:
                return self.trusted.targets[role].targets[path]
            below = list(self._delegated(role, path))
            if any(terminating for _, terminating in below):
                waiting.clear()
            waiting += [(name, role) for name, _ in reversed(below)]
        raise NotThere(path)

    def _delegated(self, role: str, path: str) -> Iterator[tuple[str, bool]]:
        """Give the roles to look in, up to the first that ends the search."""
        delegations = self.trusted.targets[role].delegations
        for name, terminating in delegations.get_roles_for_target(path) if delegations else ():
            yield name, terminating
            if terminating:
                return

    def _refresh_root(self) -> None:
        for _ in range(MOST_ROOTS):
            try:
                data = self._fetched("root", self.trusted.root.version + 1)
            except NotThere:
                return
            self.trusted = workflow.update_root(self.trusted, data)
            self._store("root", data)

    def _refresh_timestamp(self) -> None:
        with suppress(*REFUSALS, OSError):
            self.trusted = workflow.restore_timestamp(self.trusted, self._stored("timestamp"))
        data = self._fetched("timestamp", None)
        before, self.trusted = self.trusted, workflow.update_timestamp(self.trusted, data, self.now)
        if self.trusted is not before:
            self._store("timestamp", data)

    def _refresh_snapshot(self) -> None:
        with suppress(*REFUSALS, OSError):
            stored = self._stored("snapshot")
            with suppress(MetadataRefused):
                self.trusted = workflow.update_snapshot(self.trusted, stored, self.now)
                return
            self.trusted = workflow.restore_snapshot(self.trusted, stored)
        named = workflow.check_timestamp(self.trusted, self.now).snapshot_meta
        data = self._fetched("snapshot", named.version)
        self.trusted = workflow.update_snapshot(self.trusted, data, self.now)
        self._store("snapshot", data)

    def _fetched(self, role: str, version: int | None) -> bytes:
        name = f"{urllib.parse.quote(role, '')}.json"
        if version is not None and (role == "root" or self.trusted.root.consistent_snapshot):
            name = f"{version}.{name}"
        return fetch(f"{self.url}/{name}", metadata.largest_bytes(role))

    def _stored(self, role: str) -> bytes:
        return self._place(role).read_bytes()

    def _store(self, role: str, data: bytes) -> None:
        write_whole(self._place(role), data)

    def _place(self, role: str) -> Path:
        return self.folder / f"{urllib.parse.quote(role, '')}.json"


def fetch(url: str, limit_bytes: int) -> bytes:
    """Return what is at `url`, one byte more than allowed at most."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            data: bytes = answer.read(limit_bytes + 1)
            return data
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (403, 404):
            raise NotThere(url) from error
        raise


def download(client: Client, path: str, folder: Path, url: str) -> None:
    """Fetch a target where it is not in `folder` already."""
    target = client.find(path)
    place = folder / urllib.parse.quote(path, "")
    if place.is_file() and _is_it(target, place.read_bytes()):
        return
    name = path
    if client.trusted.root.consistent_snapshot:
        parent, slash, last = path.rpartition("/")
        name = f"{parent}{slash}{next(iter(target.hashes.values()))}.{last}"
    data = fetch(f"{url}/{name}", target.length)
    target.verify_length_and_hashes(data)
    write_whole(place, data)


def main(words: Sequence[str]) -> int:
    asked = _parser().parse_args(words)
    try:
        if asked.command == "init":
            write_whole(asked.metadata_dir / "root.json", asked.root.read_bytes())
            return 0
        client = Client(asked.metadata_dir, asked.metadata_url.rstrip("/"))
        client.refresh()
        for path in asked.target_name if asked.command == "download" else ():
            download(client, path, asked.target_dir, asked.target_base_url.rstrip("/"))
    except (*REFUSALS, OSError, LengthOrHashMismatchError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tuf_client", description=__doc__)
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url", default="")
    parser.add_argument("--target-name", action="append", default=[])
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("--target-base-url", default="")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("root", type=Path)
    commands.add_parser("refresh")
    commands.add_parser("download")
    return parser


def _is_it(target: TargetFile, data: bytes) -> bool:
    try:
        target.verify_length_and_hashes(data)
    except LengthOrHashMismatchError:
        return False
    return True
