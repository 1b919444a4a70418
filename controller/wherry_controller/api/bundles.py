"""Bundles over HTTP: list them, read one's manifest and blobs, and take one in from elsewhere."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, Response, UploadFile, status
from fastapi.responses import FileResponse

from wherry.codec import DOCUMENT_LIMIT_BYTES
from wherry.manifest import LARGEST_MANIFEST_BYTES, Manifest
from wherry.names import parse_digest
from wherry_controller.api.context import Here
from wherry_controller.api.documents import schema_of
from wherry_controller.api.models import Variant, variant
from wherry_controller.api.pages import Asked, Page, page
from wherry_controller.services.exchange import import_bundle
from wherry_controller.services.missing import UnknownBundle
from wherry_controller.store import models
from wherry_controller.store.blobs import LostBlob

router = APIRouter(tags=["bundles"])

LARGEST_KEY_BYTES = 4096

ENVELOPE = {
    "type": "object",
    "required": ["signed", "signatures"],
    "properties": {
        "signed": schema_of(Manifest),
        "signatures": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["keyid", "sig"],
                "properties": {"keyid": {"type": "string"}, "sig": {"type": "string"}},
            },
        },
    },
}


@router.get("/bundles", operation_id="list_bundles")
def list_bundles(here: Here, asked: Asked) -> Page[Variant]:
    """List the bundles with what they are of, the newest first."""
    with here.store.reading() as tx:
        return page(
            models.list_bundles(tx),
            asked,
            name=lambda one: f"{one.model}:{one.version}:{one.profile}",
            show=lambda one: variant(tx, one),
        )


@router.get(
    "/bundles/{digest}/manifest",
    operation_id="get_manifest",
    response_class=Response,
    responses={200: {"content": {"application/json": {"schema": ENVELOPE}}}},
)
def get_manifest(here: Here, digest: str) -> Response:
    """Give a bundle's signed manifest, byte for byte as devices receive it."""
    with here.store.reading() as tx:
        envelope = models.get_envelope(tx, parse_digest(digest))
    if envelope is None:
        raise UnknownBundle(digest)
    return Response(envelope, media_type="application/json")


@router.post("/bundles", operation_id="import_bundle", status_code=status.HTTP_201_CREATED)
def take_bundle(
    here: Here,
    manifest: Annotated[UploadFile, File(description="The bundle's signed manifest")],
    card: Annotated[UploadFile, File(description="The card of its version, as JSON")],
    keys: Annotated[
        list[UploadFile], File(description="Public keys in PEM; one of them must have signed")
    ],
    files: Annotated[list[UploadFile], File(description="Each blob, under its digest")],
) -> Variant:
    """Take in a bundle that another controller built; the same again changes nothing."""
    record = import_bundle(
        here.store,
        here.blobs,
        envelope=manifest.file.read(2 * LARGEST_MANIFEST_BYTES + 1),
        card=card.file.read(DOCUMENT_LIMIT_BYTES + 1),
        files={file.filename or "": file.file for file in files},
        keys=[key.file.read(LARGEST_KEY_BYTES) for key in keys],
        vouch=here.trust.add_bundle,
        now=here.clock(),
    )
    with here.store.reading() as tx:
        return variant(tx, record)


@router.get(
    "/blobs/{digest}",
    operation_id="get_blob",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}}},
)
def get_blob(here: Here, digest: str) -> FileResponse:
    """Give a blob's bytes; whoever reads them verifies them by the digest."""
    path = here.blobs.path(parse_digest(digest))
    if not path.exists():
        raise LostBlob(digest)
    return FileResponse(path, media_type="application/octet-stream")
