"""What builds found of a version, over HTTP: as JSON, as a page, and its reference weights."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

from wherry.names import parse_model_name, parse_version_name
from wherry_controller.api.context import Context, Here
from wherry_controller.api.documents import VersionReportDocument, json_of
from wherry_controller.api.html import HTML, alone
from wherry_controller.core.report import VersionReport
from wherry_controller.services.missing import UnknownReference
from wherry_controller.services.models import version_of
from wherry_controller.services.page import page_of
from wherry_controller.services.reports import report_of
from wherry_controller.store.blobs import LostBlob

router = APIRouter(tags=["models"])

VERSION = "/models/{model}/versions/{version}"
SAFETENSORS = "application/octet-stream"


@router.get(
    f"{VERSION}/report",
    operation_id="get_report",
    response_model=VersionReportDocument,
    responses={200: {"content": {HTML: {"schema": {"type": "string"}}}}},
)
def get_report(
    here: Here, model: str, version: str, accept: Annotated[str, Header()] = ""
) -> Response:
    """Say what was tried for each profile, what was chosen and why; as a page if HTML is wished."""
    report = _report(here, model, version)
    if HTML in accept:
        return alone(page_of(report))
    return JSONResponse(json_of(report))


@router.get(f"{VERSION}/report.html", operation_id="get_report_page", response_class=HTMLResponse)
def get_report_page(here: Here, model: str, version: str) -> Response:
    """Give the report as one page of HTML that needs nothing else."""
    return alone(page_of(_report(here, model, version)))


@router.get(
    f"{VERSION}/reference",
    operation_id="get_reference",
    response_class=Response,
    responses={200: {"content": {SAFETENSORS: {"schema": {"type": "string", "format": "binary"}}}}},
)
def get_reference(here: Here, model: str, version: str) -> Response:
    """Give the version's weights as safetensors; the version says what they hash to."""
    with here.store.reading() as tx:
        found = version_of(tx, parse_model_name(model), parse_version_name(version))
    if found.reference is None:
        raise UnknownReference(f"{model}:{version}")
    if not here.blobs.has(found.reference):
        raise LostBlob(found.reference)
    name = f"{model}-{version}.safetensors"
    return FileResponse(here.blobs.path(found.reference), media_type=SAFETENSORS, filename=name)


def _report(here: Context, model: str, version: str) -> VersionReport:
    with here.store.reading() as tx:
        return report_of(tx, parse_model_name(model), parse_version_name(version))
