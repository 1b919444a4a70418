"""Both sides of a rollout over HTTP, by profile and by device: as JSON, and as a page."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import HTMLResponse, JSONResponse

from wherry.names import parse_rollout_name
from wherry_controller.api.context import Context, Here
from wherry_controller.api.documents import SidesDocument, json_of
from wherry_controller.api.html import HTML, alone
from wherry_controller.core.sides import RolloutSides
from wherry_controller.services.rollouts import rollout_of
from wherry_controller.services.sides_page import page_of

router = APIRouter(tags=["rollouts"])


@router.get(
    "/rollouts/{rollout}/sides",
    operation_id="get_sides",
    response_model=SidesDocument,
    responses={200: {"content": {HTML: {"schema": {"type": "string"}}}}},
)
def get_sides(here: Here, rollout: str, accept: Annotated[str, Header()] = "") -> Response:
    """Compare the candidate with each device's incumbent; as a page if HTML is wished."""
    sides = _sides(here, rollout)
    if HTML in accept:
        return alone(page_of(sides))
    return JSONResponse(json_of(sides))


@router.get(
    "/rollouts/{rollout}/sides.html", operation_id="get_sides_page", response_class=HTMLResponse
)
def get_sides_page(here: Here, rollout: str) -> Response:
    """Give both sides as one page of HTML that needs nothing else."""
    return alone(page_of(_sides(here, rollout)))


def _sides(here: Context, rollout: str) -> RolloutSides:
    with here.store.reading() as tx:
        record = rollout_of(tx, parse_rollout_name(rollout))
        return here.sides.read(tx, record, here.clock())
