"""Bundles out of a controller into an OCI image layout, and from a layout into a controller."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import msgspec
from rich.progress import BarColumn, DownloadColumn, TextColumn

from wherry import codec, signing
from wherry.manifest import blobs_of
from wherry.names import Digest, parse_digest, parse_model_name, parse_version_name
from wherry_controller import key_files
from wherry_controller.cli import layouts, show
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.cli.remote import Remote, connect
from wherry_controller.cli.replies import Page, Variant, read
from wherry_controller.core.card import Card
from wherry_controller.core.exchange import (
    BLOBS,
    Layout,
    Package,
    lay_out,
    read_layout,
)


class _Carded(msgspec.Struct, frozen=True):
    card: Card


def export(which: Sequence[str], to: Path) -> None:
    """Write the bundles that are named, by digest or by version, as a layout."""
    remote = connect()
    variants = [one for name in which for one in _variants(remote, name)]
    packages = [_package(remote, one) for one in variants]
    layout = lay_out(packages)
    _write(remote, layout, to)
    count = len({package.bundle for package in packages})
    show.line(f"{to} holds {count} {'bundle' if count == 1 else 'bundles'}.")


def import_layout(place: Path, keys: Sequence[Path]) -> None:
    """Send every bundle of a layout to the controller; it verifies the signatures."""
    pems = [signing.public_pem(key_files.read_vouching(key)) for key in keys]
    with layouts.opened(place) as layout:
        packages, _ = read_layout(layouts.index_of(layout), layouts.reader_of(layout))
        remote = connect()
        for package in packages:
            variant = read(Variant, _send(remote, layout, package, pems))
            show.line(
                f"{variant.model}:{variant.version} for {variant.profile} is imported: "
                f"bundle {show.short(variant.bundle)}."
            )


def is_layout(given: Path) -> bool:
    return given.is_dir() or given.suffix == layouts.TAR


def read_whole(place: Path) -> tuple[Package, ...]:
    """Return the bundles of a layout, every blob of it checked."""
    with layouts.opened(place) as layout:
        packages, blobs = read_layout(layouts.index_of(layout), layouts.reader_of(layout))
        for digest, size in blobs.items():
            layouts.check_blob(layout, digest, size)
    return packages


def _variants(remote: Remote, name: str) -> Iterator[Variant]:
    model, is_version, version = name.partition(":")
    if is_version:
        path = f"/models/{parse_model_name(model)}/versions/{parse_version_name(version)}/variants"
        found = read(Page[Variant], remote.get(path)).items
        if not found:
            raise Ended(Exit.MISSING, f"{name} has no bundle: build it with `wherry build {name}`.")
        yield from found
        return
    yield _variant_of(remote, parse_digest(name))


def _variant_of(remote: Remote, digest: Digest) -> Variant:
    cursor: str | None = None
    while True:
        page = read(Page[Variant], remote.get("/bundles", limit=1000, cursor=cursor))
        for one in page.items:
            if one.bundle == digest:
                return one
        cursor = page.next_cursor
        if cursor is None:
            raise Ended(Exit.MISSING, f"there is no bundle {digest}: see `wherry bundle list`.")


def _package(remote: Remote, variant: Variant) -> Package:
    envelope = remote.get(f"/bundles/{variant.bundle}/manifest")
    version = remote.get(f"/models/{variant.model}/versions/{variant.version}")
    return Package(envelope, codec.encode(read(_Carded, version).card))


def _write(remote: Remote, layout: Layout, to: Path) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with show.bars(*columns) as bars:
        task = bars.add_task("exporting", total=sum(layout.blobs.values()))

        def fill(digest: Digest, sink: IO[bytes]) -> None:
            remote.fetch(f"/blobs/{digest}", sink)
            bars.advance(task, layout.blobs[digest])

        layouts.write(layout, to, fill)


def _send(remote: Remote, layout: layouts.Opened, package: Package, keys: Sequence[bytes]) -> bytes:
    with ExitStack() as stack:
        opened: Mapping[Digest, IO[bytes]] = {
            blob.digest: stack.enter_context(layout.open(f"{BLOBS}/{blob.digest}"))
            for blob in blobs_of(package.manifest)
        }
        parts = [
            ("manifest", ("manifest", io.BytesIO(package.envelope))),
            ("card", ("card", io.BytesIO(package.card))),
            *(("keys", (f"key{number}", io.BytesIO(pem))) for number, pem in enumerate(keys)),
            *(("files", (digest, file)) for digest, file in opened.items()),
        ]
        return remote.send("/bundles", parts)
