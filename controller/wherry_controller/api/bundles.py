"""Bundles over HTTP: list them, and read one's signed manifest."""

from __future__ import annotations

from fastapi import APIRouter, Response

from wherry.manifest import Manifest
from wherry.names import parse_digest
from wherry_controller.api.context import Here
from wherry_controller.api.documents import schema_of
from wherry_controller.api.models import Variant, variant
from wherry_controller.api.pages import Asked, Page, page
from wherry_controller.services.missing import UnknownBundle
from wherry_controller.store import models

router = APIRouter(tags=["bundles"])

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
