"""`wherry bundle`: what was built, and whether a bundle is what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wherry import codec, signing
from wherry.blobs import check_digest, digest_of
from wherry.bundle import open_manifest
from wherry.manifest import LARGEST_MANIFEST_BYTES, Manifest, blobs_of, size_of
from wherry.names import Digest, parse_digest
from wherry_controller.cli import show
from wherry_controller.cli.outcome import Ended, Exit
from wherry_controller.cli.profile import read_file
from wherry_controller.cli.remote import connect
from wherry_controller.cli.replies import Page, Variant, read

app = typer.Typer(no_args_is_help=True, help="Signed packages of variants.")

File = Annotated[Path, typer.Argument(help="A signed manifest, as `wherry bundle get` writes it.")]


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
        )
        for one in page.items
    ]
    show.table(("bundle", "version", "profile", "size"), rows, more=page.next_cursor)


@app.command()
def get(
    digest: Annotated[str, typer.Argument(metavar="DIGEST")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it.")],
) -> None:
    """Write a bundle's signed manifest into a file."""
    output.write_bytes(connect().get(f"/bundles/{parse_digest(digest)}/manifest"))
    show.line(f"{output} is written.")


@app.command()
def inspect(file: File, *, json: show.Json = False) -> None:
    """Show what a signed manifest says; nothing vouches for it before `wherry bundle verify`."""
    signed = _signed(read_file(file))
    manifest = codec.decode(Manifest, signed, limit_bytes=LARGEST_MANIFEST_BYTES)
    if json:
        show.raw(signed)
        return
    show.facts(
        [
            ("bundle", digest_of(signed)),
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


@app.command()
def verify(
    file: File,
    *,
    keys: Annotated[
        list[Path], typer.Option("--key", help="A trusted public key in PEM; repeatable.")
    ],
    blobs: Annotated[
        Path | None, typer.Option("--blobs", help="A controller's folder of blobs to check too.")
    ] = None,
) -> None:
    """Check a bundle's signature, and its blobs where their folder is given."""
    trusted = signing.keyring(*(signing.parse_public_pem(read_file(key)) for key in keys))
    envelope = read_file(file)
    digest = digest_of(_signed(envelope))
    manifest = open_manifest(envelope, trusted, digest)
    if blobs is not None:
        for blob in blobs_of(manifest):
            _check_blob(blobs, blob.digest)
    show.line(f"bundle {digest} is whole, and signed by a trusted key.")


def _signed(envelope: bytes) -> bytes:
    """Return the bytes that the signatures are over, whoever made them."""
    limit_bytes = 2 * LARGEST_MANIFEST_BYTES
    return bytes(codec.decode(signing.Envelope, envelope, limit_bytes=limit_bytes).signed)


def _check_blob(folder: Path, digest: Digest) -> None:
    path = folder / digest[:2] / digest
    if not path.is_file():
        problem = f"the blob {digest} is not in {folder}: give the folder that holds it."
        raise Ended(Exit.MISSING, problem)
    check_digest(path.read_bytes(), digest)
