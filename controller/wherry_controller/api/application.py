"""The API as one ASGI application: every route behind the door, every error a problem document."""

from __future__ import annotations

from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import HTTPBearer
from starlette.types import Lifespan

import wherry
from wherry_controller.api import (
    audit,
    broker,
    builds,
    bundles,
    devices,
    groups,
    health,
    identities,
    models,
    problems,
    profiles,
    reports,
    rollouts,
    sides,
    telemetry,
    trust,
)
from wherry_controller.api.context import PREFIX, Context
from wherry_controller.api.documents import written_out
from wherry_controller.api.door import LARGEST_BODY_BYTES, Door

TAGS = [
    {"name": "health", "description": "Whether the controller is there; needs no token."},
    {"name": "models", "description": "Models, their immutable versions, and variants."},
    {"name": "profiles", "description": "The hardware classes that bundles are built for."},
    {"name": "builds", "description": "Versions being exported, quantized and measured."},
    {"name": "bundles", "description": "Signed, content-addressed packages of variants."},
    {"name": "devices", "description": "The machines that run the agent."},
    {"name": "identities", "description": "Tokens, approvals, certificates and their end."},
    {"name": "groups", "description": "Named sets of devices."},
    {"name": "rollouts", "description": "One version's way to some groups, stage by stage."},
    {"name": "trust", "description": "Who vouches for bundles, and what they signed."},
    {"name": "audit", "description": "What was signed, enrolled, approved, revoked, refused."},
    {"name": "broker", "description": "The controller's link to the broker."},
]

PROBLEMS: dict[int | str, dict[str, object]] = {
    status: {
        "description": description,
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for status, description in {
        401: "No valid token",
        404: "There is no such thing",
        409: "It does not fit the state of things",
        422: "The request is not understood",
        503: "Not now",
    }.items()
}


class Api(FastAPI):
    """FastAPI whose description holds the schema that `PROBLEMS` refers to."""

    def openapi(self) -> dict[str, object]:
        description = super().openapi()
        problem = written_out(problems.Problem.model_json_schema())
        description["components"]["schemas"]["Problem"] = problem
        return description


def make_api(
    context: Context,
    *,
    token_sha256: str,
    lifespan: Lifespan[FastAPI] | None = None,
    largest_body_bytes: int = LARGEST_BODY_BYTES,
) -> FastAPI:
    """Return the API over `context` for bearers of the token with that sha256."""
    api = Api(
        title="Wherry",
        version=wherry.__version__,
        summary="Models to fleets of edge devices",
        openapi_url=f"{PREFIX}/openapi.json",
        openapi_tags=TAGS,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        separate_input_output_schemas=False,
    )
    api.state.context = context
    problems.install(api)
    api.add_middleware(Door, token_sha256=token_sha256, limit_bytes=largest_body_bytes)
    api.include_router(health.router, prefix=PREFIX)
    guarded = [Depends(HTTPBearer(auto_error=False, description="From `wherry init`"))]
    for router in _routers():
        api.include_router(router, prefix=PREFIX, dependencies=guarded, responses=PROBLEMS)
    return api


def _routers() -> tuple[APIRouter, ...]:
    return (
        models.router,
        reports.router,
        profiles.router,
        builds.router,
        bundles.router,
        devices.router,
        identities.router,
        telemetry.router,
        groups.router,
        rollouts.router,
        sides.router,
        trust.router,
        audit.router,
        broker.router,
    )
