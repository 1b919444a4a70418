"""The door to blobs: bytes by digest and range, for whoever shows a device's certificate.

TLS has asked for the certificate before a request comes here, and each answer ends the connection,
so a revoked device reads no further. What is read is named by its digest, and verified there.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.types import Lifespan

from wherry.enrolment import BLOBS_PATH
from wherry.names import parse_digest
from wherry_controller.api import problems
from wherry_controller.services.missing import Missing
from wherry_controller.store.blobs import BlobFolder

BYTES = "application/octet-stream"


class UnknownBlob(Missing):
    kind, remedy = "blob", "ask for one that a manifest of yours names"


def make_blob_door(blobs: BlobFolder, *, lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    """Return the application behind the door to blobs."""
    app = FastAPI(openapi_url=None, lifespan=lifespan)
    problems.install(app)

    @app.api_route(f"{BLOBS_PATH}/{{digest}}", methods=["GET", "HEAD"])
    def blob(digest: str) -> FileResponse:
        known = parse_digest(digest)
        if not blobs.has(known):
            raise UnknownBlob(known)
        headers = {"ETag": f'"{known}"', "Connection": "close"}
        return FileResponse(blobs.path(known), media_type=BYTES, headers=headers)

    return app
