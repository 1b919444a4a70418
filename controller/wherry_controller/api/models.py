"""Models and their versions over HTTP: register, list, look at one with its variants."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, File, UploadFile, status
from pydantic import BaseModel, ConfigDict, Field

from wherry.names import ModelName, VersionName, parse_model_name, parse_version_name
from wherry.profile import Precision
from wherry_controller.api.context import Here
from wherry_controller.api.documents import CardDocument, LatencyDocument, ReportDocument, json_of
from wherry_controller.api.pages import Asked, Page, page
from wherry_controller.core.written import LARGEST_FILE_BYTES
from wherry_controller.services.missing import UnknownModel
from wherry_controller.services.models import card_of, register, version_of
from wherry_controller.store import models, records
from wherry_controller.store.database import Transaction
from wherry_controller.store.records import VersionStatus
from wherry_controller.store.trust import releases_of

router = APIRouter(tags=["models"])


class Model(BaseModel):
    name: str = Field(examples=["digits"])
    created_at: float = Field(description="UNIX seconds", examples=[1764000000.0])
    versions: list[str] = Field(description="The oldest first", examples=[["v1", "v2"]])


class Version(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    model: str = Field(examples=["digits"])
    name: str = Field(examples=["v1"])
    status: VersionStatus
    reason: str = Field(description="Why it was refused", examples=["claim_differs"])
    lineage: str = Field(description="The digest of its card and files")
    reference: str | None = Field(description="The digest of its weights as safetensors")
    created_at: float


class VersionFile(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    name: str = Field(examples=["net.py"])
    digest: str
    size_bytes: int


class Variant(BaseModel):
    """One version built for one profile; `bundle` is the digest that names it everywhere."""

    model: str = Field(examples=["digits"])
    version: str = Field(examples=["v1"])
    profile: str = Field(examples=["pi-int8"])
    runtime: str = Field(examples=["onnxruntime"])
    precision: Precision
    bundle: str
    size_bytes: int
    report: ReportDocument
    latency: LatencyDocument | None = Field(
        description="Null where nothing was timed on hardware of the profile"
    )
    releases: dict[str, int] = Field(
        description="The version's release counter under each alias", examples=[{"default": 3}]
    )
    created_at: float


class VersionDetail(Version):
    card: CardDocument
    files: list[VersionFile]
    variants: list[Variant]


@router.get("/models", operation_id="list_models")
def list_models(here: Here, asked: Asked) -> Page[Model]:
    """List the models by name."""
    with here.store.reading() as tx:

        def show(model: records.Model) -> Model:
            return _model(tx, model)

        return page(models.list_models(tx), asked, name=lambda model: model.name, show=show)


@router.get("/models/{model}", operation_id="get_model")
def get_model(here: Here, model: str) -> Model:
    """Show one model with the names of its versions."""
    with here.store.reading() as tx:
        return _model(tx, _model_of(tx, parse_model_name(model)))


@router.get("/models/{model}/versions", operation_id="list_versions")
def list_versions(here: Here, model: str, asked: Asked) -> Page[Version]:
    """List a model's versions, the oldest first."""
    with here.store.reading() as tx:
        found = models.list_versions(tx, _model_of(tx, parse_model_name(model)).name)
    return page(found, asked, name=lambda one: one.name, show=Version.model_validate)


@router.post("/versions", operation_id="register_version", status_code=status.HTTP_201_CREATED)
def register_version(
    here: Here,
    card: Annotated[UploadFile, File(description="`model.toml`")],
    files: Annotated[
        list[UploadFile], File(description="Each file that the card names, under that name")
    ],
) -> VersionDetail:
    """Register a version from its card and files.

    The same card with the same bytes may be sent again; anything else under the same name is
    refused, since a version does not change.
    """
    content = [(file.filename or "", file.file) for file in files]
    toml = card.file.read(LARGEST_FILE_BYTES + 1)
    version = register(here.store, here.blobs, toml, content, now=here.clock())
    with here.store.reading() as tx:
        return _detail(tx, version)


@router.get("/models/{model}/versions/{version}", operation_id="get_version")
def get_version(here: Here, model: str, version: str) -> VersionDetail:
    """Show one version with its card, files and variants."""
    with here.store.reading() as tx:
        return _detail(tx, version_of(tx, parse_model_name(model), parse_version_name(version)))


@router.get("/models/{model}/versions/{version}/variants", operation_id="list_variants")
def list_variants(here: Here, model: str, version: str) -> Page[Variant]:
    """List what was built of a version, by profile."""
    with here.store.reading() as tx:
        found = version_of(tx, parse_model_name(model), parse_version_name(version))
        return Page(items=_variants(tx, found.model, found.name))


def variant(tx: Transaction, record: records.Variant) -> Variant:
    profile = models.get_profile(tx, record.profile)
    return Variant(
        model=record.model,
        version=record.version,
        profile=record.profile,
        runtime=profile.runtime.value if profile else "",
        precision=record.precision,
        bundle=record.bundle,
        size_bytes=record.size_bytes,
        report=json_of(record.report),
        latency=None if record.latency is None else json_of(record.latency),
        releases={
            str(alias): counter
            for alias, counter in releases_of(tx, record.model, record.version).items()
        },
        created_at=record.created_at,
    )


def _model_of(tx: Transaction, name: ModelName) -> records.Model:
    found = models.get_model(tx, name)
    if found is None:
        raise UnknownModel(name)
    return found


def _model(tx: Transaction, model: records.Model) -> Model:
    versions = [version.name for version in models.list_versions(tx, model.name)]
    return Model(name=model.name, created_at=model.created_at, versions=list(versions))


def _variants(tx: Transaction, model: ModelName, version: VersionName) -> list[Variant]:
    return [variant(tx, record) for record in models.list_variants(tx, model, version)]


def _detail(tx: Transaction, version: records.Version) -> VersionDetail:
    files = models.list_files(tx, version.model, version.name)
    return VersionDetail(
        **Version.model_validate(version).model_dump(),
        card=json_of(card_of(version)),
        files=[VersionFile.model_validate(file) for file in files],
        variants=_variants(tx, version.model, version.name),
    )
