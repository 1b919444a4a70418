"""Whether the controller is there: the one address that needs no token."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

import wherry
from wherry_controller.api.context import Here
from wherry_controller.services.crl import ends_soon

CRL_ENDS_SOON = (
    "the list of revoked certificates ends within days and every device is locked out then: "
    "read in the controller's log why none is issued."
)

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: str = Field(examples=["ok"])
    version: str = Field(examples=["0.1.0"])
    warnings: list[str] = Field(description="What an operator must see to; none is well")


@router.get("/health", operation_id="get_health")
def get_health(here: Here) -> Health:
    """Say that the controller answers, which release it is, and what is wrong."""
    is_ending = ends_soon(here.revocations.newest, here.clock())
    warnings = [CRL_ENDS_SOON] if is_ending else []
    return Health(status="ok", version=wherry.__version__, warnings=warnings)
