"""Whether the controller is there: the one address that needs no token."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

import wherry

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: str = Field(examples=["ok"])
    version: str = Field(examples=["0.1.0"])


@router.get("/health", operation_id="get_health")
def get_health() -> Health:
    """Say that the controller answers, and which release it is."""
    return Health(status="ok", version=wherry.__version__)
