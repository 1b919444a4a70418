"""The controller's link to the broker over HTTP: where it is, and how much went over it."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from wherry_controller.api.context import Here

router = APIRouter(tags=["broker"])


class Broker(BaseModel):
    """Bytes are counted at the controller's sockets, since it started."""

    url: str = Field(examples=["mqtt://10.0.0.5:1883"])
    sent_bytes: int
    received_bytes: int


@router.get("/broker", operation_id="get_broker")
def get_broker(here: Here) -> Broker:
    """Show where devices and controller meet, and what the controller sent there."""
    traffic = here.traffic()
    return Broker(
        url=here.broker_url,
        sent_bytes=traffic.sent_bytes,
        received_bytes=traffic.received_bytes,
    )
