"""The protocol buffers of the Open Inference Protocol's gRPC half, as its specification lists them.

They are made when the module is imported, from the table below, so that no generated code has to
fit the installed protobuf. Each message: its fields as `name: (number, kind)`; a kind in brackets
is repeated, one in braces the value of a map from names.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

_Fields = dict[str, tuple[int, "str | list[str] | set[str]"]]

# github.com/kserve/open-inference-protocol, specification/protocol/open_inference_grpc.proto.
_MESSAGES: dict[str, _Fields] = {
    "ServerLiveRequest": {},
    "ServerLiveResponse": {"live": (1, "bool")},
    "ServerReadyRequest": {},
    "ServerReadyResponse": {"ready": (1, "bool")},
    "ModelReadyRequest": {"name": (1, "string"), "version": (2, "string")},
    "ModelReadyResponse": {"ready": (1, "bool")},
    "ServerMetadataRequest": {},
    "ServerMetadataResponse": {
        "name": (1, "string"),
        "version": (2, "string"),
        "extensions": (3, ["string"]),
    },
    "ModelMetadataRequest": {"name": (1, "string"), "version": (2, "string")},
    "TensorMetadata": {
        "name": (1, "string"),
        "datatype": (2, "string"),
        "shape": (3, ["int64"]),
    },
    "ModelMetadataResponse": {
        "name": (1, "string"),
        "versions": (2, ["string"]),
        "platform": (3, "string"),
        "inputs": (4, ["TensorMetadata"]),
        "outputs": (5, ["TensorMetadata"]),
    },
    "InferParameter": {
        "bool_param": (1, "bool"),
        "int64_param": (2, "int64"),
        "string_param": (3, "string"),
        "double_param": (4, "double"),
        "uint64_param": (5, "uint64"),
    },
    "InferTensorContents": {
        "bool_contents": (1, ["bool"]),
        "int_contents": (2, ["int32"]),
        "int64_contents": (3, ["int64"]),
        "uint_contents": (4, ["uint32"]),
        "uint64_contents": (5, ["uint64"]),
        "fp32_contents": (6, ["float"]),
        "fp64_contents": (7, ["double"]),
        "bytes_contents": (8, ["bytes"]),
    },
    "InferInputTensor": {
        "name": (1, "string"),
        "datatype": (2, "string"),
        "shape": (3, ["int64"]),
        "parameters": (4, {"InferParameter"}),
        "contents": (5, "InferTensorContents"),
    },
    "InferRequestedOutputTensor": {
        "name": (1, "string"),
        "parameters": (2, {"InferParameter"}),
    },
    "ModelInferRequest": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, {"InferParameter"}),
        "inputs": (5, ["InferInputTensor"]),
        "outputs": (6, ["InferRequestedOutputTensor"]),
        "raw_input_contents": (7, ["bytes"]),
    },
    "InferOutputTensor": {
        "name": (1, "string"),
        "datatype": (2, "string"),
        "shape": (3, ["int64"]),
        "parameters": (4, {"InferParameter"}),
        "contents": (5, "InferTensorContents"),
    },
    "ModelInferResponse": {
        "model_name": (1, "string"),
        "model_version": (2, "string"),
        "id": (3, "string"),
        "parameters": (4, {"InferParameter"}),
        "outputs": (5, ["InferOutputTensor"]),
        "raw_output_contents": (6, ["bytes"]),
    },
}

_Field = descriptor_pb2.FieldDescriptorProto
_ONE_OF = {"InferParameter": "parameter_choice"}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="wherry/open_inference.proto", package=PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name in _ONE_OF:
            message.oneof_decl.add(name=_ONE_OF[name])
        for field, (number, kind) in fields.items():
            _add_field(message, field, number, kind)
    return file


def _add_field(
    message: descriptor_pb2.DescriptorProto,
    name: str,
    number: int,
    kind: str | list[str] | set[str],
) -> None:
    (word,) = (kind,) if isinstance(kind, str) else kind
    field = message.field.add(name=name, number=number, label=_Field.LABEL_REPEATED)
    if isinstance(kind, str):
        field.label = _Field.LABEL_OPTIONAL
    if isinstance(kind, set):
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add_field(entry, "key", 1, "string")
        _add_field(entry, "value", 2, word)
        word = f"{message.name}.{entry.name}"
    if word in _MESSAGES or "." in word:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{word}"
    else:
        field.type = getattr(_Field, f"TYPE_{word.upper()}")
    if message.name in _ONE_OF:
        field.oneof_index = 0


# A pool of our own: a client of the same protocol may live in the same process.
_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_file())


def words(name: str) -> Any:
    """Return the class of a message, by its name in the specification."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))
