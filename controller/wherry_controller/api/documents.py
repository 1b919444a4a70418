"""Structs of the wire and the cores as HTTP types: their own JSON, and their own schema.

A profile, a manifest or a gate has one definition, its struct. Here it becomes a JSON object
whose schema stands in OpenAPI, so no second list of its fields can fall behind the first.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias, TypeVar

import msgspec
from pydantic import JsonValue, WithJsonSchema

from wherry.codec import BadDocument, learned
from wherry.manifest import Report
from wherry.messages import Event, Reported, Shadow, Split
from wherry.profile import Facts, Profile
from wherry_controller.core.card import Card
from wherry_controller.core.choice import Latency
from wherry_controller.core.gate import Gate, Verdict
from wherry_controller.core.report import VersionReport
from wherry_controller.core.sides import RolloutSides

S = TypeVar("S", bound=msgspec.Struct)
Json: TypeAlias = dict[str, JsonValue]

DEFINITIONS = "#/$defs/"


def json_of(struct: msgspec.Struct) -> Json:
    """Return the struct as the JSON that it has on the wire."""
    return msgspec.json.decode(msgspec.json.encode(struct), type=dict)


def struct_of(kind: type[S], document: Json) -> S:
    """Return the struct that a request's document spells; raise `BadDocument`."""
    try:
        return msgspec.convert(document, learned(kind))
    except msgspec.ValidationError as error:
        raise BadDocument(kind.__name__.lower(), str(error)) from error


def exact_struct_of(kind: type[S], document: Json) -> S:
    """Return the struct that a document spells with no key besides; raise `BadDocument`.

    For structs of the wire, which leave alone what they do not know.
    """
    unknown = sorted(document.keys() - set(kind.__struct_fields__))
    if unknown:
        raise BadDocument(kind.__name__.lower(), f"it has no {unknown[0]!r}")
    return struct_of(kind, document)


def schema_of(kind: type[msgspec.Struct]) -> Json:
    """Return the struct's JSON schema."""
    return written_out(msgspec.json.schema(kind))


def written_out(schema: Json) -> Json:
    """Return the schema with every reference to its own definitions written out."""
    whole = dict(schema)
    definitions = whole.pop("$defs", {})
    assert isinstance(definitions, dict)
    written = _written_out(whole, definitions)
    assert isinstance(written, dict)
    return written


def _written_out(schema: JsonValue, definitions: Json) -> JsonValue:
    if isinstance(schema, list):
        return [_written_out(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    name = schema.get("$ref")
    base: JsonValue = {}
    if isinstance(name, str):
        base = _written_out(definitions[name.removeprefix(DEFINITIONS)], definitions)
    assert isinstance(base, dict)
    rest = {key: _written_out(part, definitions) for key, part in schema.items() if key != "$ref"}
    return base | rest


CardDocument = Annotated[Json, WithJsonSchema(schema_of(Card))]
EventDocument = Annotated[Json, WithJsonSchema(schema_of(Event))]
FactsDocument = Annotated[Json, WithJsonSchema(schema_of(Facts))]
GateDocument = Annotated[Json, WithJsonSchema(schema_of(Gate))]
LatencyDocument = Annotated[Json, WithJsonSchema(schema_of(Latency))]
ProfileDocument = Annotated[Json, WithJsonSchema(schema_of(Profile))]
ReportDocument = Annotated[Json, WithJsonSchema(schema_of(Report))]
ReportedDocument = Annotated[Json, WithJsonSchema(schema_of(Reported))]
ShadowDocument = Annotated[Json, WithJsonSchema(schema_of(Shadow))]
SidesDocument = Annotated[Json, WithJsonSchema(schema_of(RolloutSides))]
SplitDocument = Annotated[Json, WithJsonSchema(schema_of(Split))]
VersionReportDocument = Annotated[Json, WithJsonSchema(schema_of(VersionReport))]
VerdictDocument = Annotated[Json, WithJsonSchema(schema_of(Verdict))]
