"""`wherry bundle`: what was built, and whether a bundle is what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wherry import codec, signing
from wherry.blobs import check_digest, digest_of
from wherry.bundle import open_signed_manifest
from wherry.manifest import LARGEST_MANIFEST_BYTES, Manifest, blobs_of, size_of
from wherry.names import Digest, parse_digest
from wherry_controller import key_files
from wherry_controller.cli import exchange, show
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.cli.profile import read_file
from wherry_controller.cli.remote import connect
from wherry_controller.cli.replies import Page, Variant, read
from wherry_controller.core.exchange import Package, signed_of

app = typer.Typer(no_args_is_help=True, help="Signed packages of variants.")

Given = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="A signed manifest (`bundle get`) or a layout (`bundle export`)."
    ),
]
Keys = Annotated[
    list[Path],
    typer.Option(
        "--key", help="bundle-*.pub.json from trust/ of the controller that signed; repeatable."
    ),
]


@app.command("list")
def list_bundles(
    *, json: show.Json = False, limit: show.Limit = 100, cursor: show.Cursor = None
) -> None:
    """List the bundles, the newest first."""
    body = connect().get("/bundles", limit=limit, cursor=cursor)
    if json:
        show.raw(body)
        return
    page = read(Page[Variant], body)
    rows = [
        (
            show.short(one.bundle),
            f"{one.model}:{one.version}",
            one.profile,
            show.size(one.size_bytes),
            ", ".join(f"{alias}={counter}" for alias, counter in one.releases.items()),
        )
        for one in page.items
    ]
    show.table(("bundle", "version", "profile", "size", "releases"), rows, more=page.next_cursor)


@app.command()
def get(
    digest: Annotated[str, typer.Argument(metavar="DIGEST")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it.")],
) -> None:
    """Write a bundle's signed manifest into a file."""
    output.write_bytes(connect().get(f"/bundles/{parse_digest(digest)}/manifest"))
    show.line(f"{output} is written.")


@app.command("export")
def export_bundles(
    which: Annotated[
        list[str], typer.Argument(metavar="DIGEST|MODEL:VERSION...", help="What to export.")
    ],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder, or a file that ends in .tar.")
    ],
) -> None:
    """Write bundles as an OCI image layout, which registries and other controllers take.

    The same bundles give the same bytes.
    """
    exchange.export(which, output)


@app.command("import")
def import_bundles(
    layout: Annotated[Path, typer.Argument(help="What `wherry bundle export` wrote.")],
    *,
    keys: Keys,
) -> None:
    """Take in bundles that another controller built and a trusted key signed; no network."""
    exchange.import_layout(layout, keys)


@app.command()
def inspect(given: Given, *, json: show.Json = False) -> None:
    """Show what bundles say they are; nothing vouches for it before `wherry bundle verify`."""
    packages = _packages_in(given)
    if json:
        for package in packages:
            show.raw(signed_of(package.envelope))
        return
    for number, package in enumerate(packages):
        if number:
            show.line("")
        _show(package)


@app.command()
def verify(
    given: Given,
    *,
    keys: Keys,
    blobs: Annotated[
        Path | None, typer.Option("--blobs", help="A controller's folder of blobs to check too.")
    ] = None,
) -> None:
    """Check bundles' signatures, and their blobs: a layout's own, or those of --blobs."""
    trusted = signing.keyring(*map(key_files.read_vouching, keys))
    for package in _packages_in(given):
        manifest = open_signed_manifest(package.envelope, trusted, package.bundle)
        if blobs is not None:
            for blob in blobs_of(manifest):
                _check_blob(blobs, blob.digest)
        show.line(f"bundle {package.bundle} is whole, and signed by a trusted key.")


def _packages_in(given: Path) -> tuple[Package, ...]:
    """Return the bundles of a layout, its blobs checked, or the one of a signed manifest."""
    if exchange.is_layout(given):
        return exchange.read_whole(given)
    envelope = read_file(given)
    codec.decode(Manifest, signed_of(envelope), limit_bytes=LARGEST_MANIFEST_BYTES)
    return (Package(envelope, b""),)


def _show(package: Package) -> None:
    manifest = package.manifest
    show.facts(
        [
            ("bundle", digest_of(signed_of(package.envelope))),
            ("version", f"{manifest.model}:{manifest.version}"),
            ("profile", manifest.profile.name),
            ("made for", f"{manifest.profile.runtime.value} {manifest.precision.value}"),
            ("recipe", ", ".join(manifest.recipe)),
            ("lineage", manifest.lineage),
            (manifest.report.metric, show.share(manifest.report.value)),
            (f"{manifest.report.metric} of float", show.share(manifest.report.reference_value)),
            ("evaluated on", manifest.report.evaluated_on),
            ("size", show.size(size_of(manifest))),
        ]
    )
    rows = [
        (show.short(one.digest), str(one.size_bytes), str(len(one.chunks)))
        for one in blobs_of(manifest)
    ]
    show.table(("blob", "bytes", "chunks"), rows)


def _check_blob(folder: Path, digest: Digest) -> None:
    path = folder / digest[:2] / digest
    if not path.is_file():
        problem = f"the blob {digest} is not in {folder}: give the folder that holds it."
        raise Ended(Exit.MISSING, problem)
    check_digest(path.read_bytes(), digest)
