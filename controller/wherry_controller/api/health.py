"""Whether the controller is there: the one address that needs no token."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from fastapi import APIRouter
from pydantic import BaseModel, Field

import wherry
from wherry_controller.api.context import Context, Here
from wherry_controller.services.crl import ends_soon
from wherry_controller.services.standing import standing_of

CRL_ENDS_SOON = (
    "the list of revoked certificates ends within days and every device is locked out then: "
    "read in the controller's log why none is issued."
)

OFFLINE_ROLE_ENDS_SOON = (
    "{role} ends within a month and every device refuses new orders then: "
    "renew it where its keys are (`wherry keys renew`), sign it and publish it."
)
OPEN_BROKER = (
    "the broker asks nobody for a certificate, so a revoked device is not cut off from it: "
    "write one that does with `wherry broker config mosquitto`."
)
MONTH_S = 30 * 86_400.0
OFFLINE_ROLES = ("root", "targets")
LOOPBACK = ("127.0.0.1", "localhost", "::1")

router = APIRouter(tags=["health"])


class Health(BaseModel):
    status: str = Field(examples=["ok"])
    version: str = Field(examples=["0.1.0"])
    warnings: list[str] = Field(description="What an operator must see to; none is well")


@router.get("/health", operation_id="get_health")
def get_health(here: Here) -> Health:
    """Say that the controller answers, which release it is, and what is wrong."""
    return Health(status="ok", version=wherry.__version__, warnings=list(_warnings(here)))


def _warnings(here: Context) -> Iterator[str]:
    now = here.clock()
    if ends_soon(here.revocations.newest, now):
        yield CRL_ENDS_SOON
    with here.store.reading() as tx:
        roles = standing_of(tx, here.trust).roles
    for role in roles:
        if role.role in OFFLINE_ROLES and role.expires_at - now < MONTH_S:
            yield OFFLINE_ROLE_ENDS_SOON.format(role=role.role)
    broker = urlsplit(here.broker_url)
    if broker.scheme == "mqtt" and broker.hostname not in LOOPBACK:
        yield OPEN_BROKER
