"""The audit log over HTTP: entries byte for byte, so that whoever reads them can verify them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from wherry_controller.api.context import Here
from wherry_controller.core.audit import Kind
from wherry_controller.store import audit

router = APIRouter(tags=["audit"])

Limit = Annotated[int, Query(ge=1, le=1000)]


class Entries(BaseModel):
    """Each entry is the text whose sha256 the next one names as `previous`."""

    entries: list[str]


@router.get("/audit", operation_id="list_audit")
def list_audit(here: Here, after: Annotated[int, Query(ge=0)] = 0, limit: Limit = 1000) -> Entries:
    """Give the log from the entry after a number on, the oldest first."""
    with here.store.reading() as tx:
        return Entries(entries=list(audit.list_entries(tx, after=after, limit=limit)))


@router.get("/audit/newest", operation_id="newest_audit")
def newest_audit(
    here: Here,
    kind: Annotated[Kind | None, Query(description="Only entries of this kind")] = None,
    limit: Limit = 100,
) -> Entries:
    """Give the newest entries, the newest first."""
    with here.store.reading() as tx:
        return Entries(entries=list(audit.newest_entries(tx, kind=kind, limit=limit)))
