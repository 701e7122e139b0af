"""The messages and the service of the Open Inference Protocol over gRPC, as a table.

Relies on protobuf, and builds its classes at import in a pool of its own: no generated code to keep in step with the
installed version, and no quarrel with a client library that registers the same names in the same process. Field numbers
and types are the protocol's; ``tests/serve/test_grpc_messages.py`` compares them with those of NVIDIA's client.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

_SCALARS: dict[str, Any] = {
    "double": 1,
    "float": 2,
    "int64": 3,
    "uint64": 4,
    "int32": 5,
    "bool": 8,
    "string": 9,
    "bytes": 12,
    "uint32": 13,
}
_MESSAGE: Any = 11
_ENUM: Any = 14
_OPTIONAL, _REPEATED = 1, 3


class _Field(NamedTuple):
    """One field: ``kind`` is a scalar, a message, an enum, ``[kind]`` for many, or ``{kind}`` for a map from text."""

    number: int
    name: str
    kind: str
    oneof: str | None = None


def _fields(*told: str, oneof: str | None = None) -> list[_Field]:
    """Read fields written as ``number name kind``."""
    parts = (line.split() for line in told)
    return [_Field(int(number), name, kind, oneof) for number, name, kind in parts]


_NAMED = _fields("1 name string", "2 version string")
_CONTROL = _fields("1 repository_name string", "2 model_name string", "3 parameters {ModelRepositoryParameter}")

MESSAGES: dict[str, list[_Field]] = {
    "ServerLiveRequest": [],
    "ServerLiveResponse": _fields("1 live bool"),
    "ServerReadyRequest": [],
    "ServerReadyResponse": _fields("1 ready bool"),
    "ModelReadyRequest": _NAMED,
    "ModelReadyResponse": _fields("1 ready bool"),
    "ServerMetadataRequest": [],
    "ServerMetadataResponse": _fields("1 name string", "2 version string", "3 extensions [string]"),
    "ModelMetadataRequest": _NAMED,
    "ModelMetadataResponse": _fields(
        "1 name string",
        "2 versions [string]",
        "3 platform string",
        "4 inputs [ModelMetadataResponse.TensorMetadata]",
        "5 outputs [ModelMetadataResponse.TensorMetadata]",
    ),
    "ModelMetadataResponse.TensorMetadata": _fields("1 name string", "2 datatype string", "3 shape [int64]"),
    "InferParameter": _fields(
        "1 bool_param bool",
        "2 int64_param int64",
        "3 string_param string",
        "4 double_param double",
        "5 uint64_param uint64",
        oneof="parameter_choice",
    ),
    "InferTensorContents": _fields(
        "1 bool_contents [bool]",
        "2 int_contents [int32]",
        "3 int64_contents [int64]",
        "4 uint_contents [uint32]",
        "5 uint64_contents [uint64]",
        "6 fp32_contents [float]",
        "7 fp64_contents [double]",
        "8 bytes_contents [bytes]",
    ),
    "ModelInferRequest": _fields(
        "1 model_name string",
        "2 model_version string",
        "3 id string",
        "4 parameters {InferParameter}",
        "5 inputs [ModelInferRequest.InferInputTensor]",
        "6 outputs [ModelInferRequest.InferRequestedOutputTensor]",
        "7 raw_input_contents [bytes]",
    ),
    "ModelInferRequest.InferInputTensor": _fields(
        "1 name string",
        "2 datatype string",
        "3 shape [int64]",
        "4 parameters {InferParameter}",
        "5 contents InferTensorContents",
    ),
    "ModelInferRequest.InferRequestedOutputTensor": _fields("1 name string", "2 parameters {InferParameter}"),
    "ModelInferResponse": _fields(
        "1 model_name string",
        "2 model_version string",
        "3 id string",
        "4 parameters {InferParameter}",
        "5 outputs [ModelInferResponse.InferOutputTensor]",
        "6 raw_output_contents [bytes]",
    ),
    "ModelInferResponse.InferOutputTensor": _fields(
        "1 name string",
        "2 datatype string",
        "3 shape [int64]",
        "4 parameters {InferParameter}",
        "5 contents InferTensorContents",
    ),
    "ModelStreamInferResponse": _fields("1 error_message string", "2 infer_response ModelInferResponse"),
    "ModelConfigRequest": _NAMED,
    "ModelConfigResponse": _fields("1 config ModelConfig"),
    "ModelConfig": _fields(
        "1 name string",
        "2 platform string",
        "3 version_policy ModelVersionPolicy",
        "4 max_batch_size int32",
        "5 input [ModelInput]",
        "6 output [ModelOutput]",
        "7 instance_group [ModelInstanceGroup]",
        "14 parameters {ModelParameter}",
        "17 backend string",
    )
    + _fields("11 dynamic_batching ModelDynamicBatching", oneof="scheduling_choice"),
    "ModelVersionPolicy": _fields("1 latest ModelVersionPolicy.Latest", oneof="policy_choice"),
    "ModelVersionPolicy.Latest": _fields("1 num_versions uint32"),
    "ModelInput": _fields("1 name string", "2 data_type DataType", "3 format ModelInput.Format", "4 dims [int64]"),
    "ModelOutput": _fields("1 name string", "2 data_type DataType", "3 dims [int64]"),
    "ModelInstanceGroup": _fields("1 name string", "2 count int32", "4 kind ModelInstanceGroup.Kind"),
    "ModelDynamicBatching": _fields("1 preferred_batch_size [int32]", "2 max_queue_delay_microseconds uint64"),
    "ModelParameter": _fields("1 string_value string"),
    "ModelStatisticsRequest": _NAMED,
    "ModelStatisticsResponse": _fields("1 model_stats [ModelStatistics]"),
    "ModelStatistics": _fields(
        "1 name string",
        "2 version string",
        "3 last_inference uint64",
        "4 inference_count uint64",
        "5 execution_count uint64",
        "6 inference_stats InferStatistics",
        "7 batch_stats [InferBatchStatistics]",
    ),
    "StatisticDuration": _fields("1 count uint64", "2 ns uint64"),
    "InferStatistics": _fields(
        "1 success StatisticDuration",
        "2 fail StatisticDuration",
        "3 queue StatisticDuration",
        "4 compute_input StatisticDuration",
        "5 compute_infer StatisticDuration",
        "6 compute_output StatisticDuration",
        "7 cache_hit StatisticDuration",
        "8 cache_miss StatisticDuration",
    ),
    "InferBatchStatistics": _fields(
        "1 batch_size uint64",
        "2 compute_input StatisticDuration",
        "3 compute_infer StatisticDuration",
        "4 compute_output StatisticDuration",
    ),
    "ModelRepositoryParameter": _fields(
        "1 bool_param bool",
        "2 int64_param int64",
        "3 string_param string",
        "4 bytes_param bytes",
        oneof="parameter_choice",
    ),
    "RepositoryIndexRequest": _fields("1 repository_name string", "2 ready bool"),
    "RepositoryIndexResponse": _fields("1 models [RepositoryIndexResponse.ModelIndex]"),
    "RepositoryIndexResponse.ModelIndex": _fields(
        "1 name string", "2 version string", "3 state string", "4 reason string"
    ),
    "RepositoryModelLoadRequest": _CONTROL,
    "RepositoryModelLoadResponse": [],
    "RepositoryModelUnloadRequest": _CONTROL,
    "RepositoryModelUnloadResponse": [],
}

ENUMS = {
    "DataType": {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_FP32": 11},
    "ModelInput.Format": {"FORMAT_NONE": 0, "FORMAT_NHWC": 1, "FORMAT_NCHW": 2},
    "ModelInstanceGroup.Kind": {"KIND_AUTO": 0, "KIND_GPU": 1, "KIND_CPU": 2},
}

METHODS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
)
"""Each takes ``<method>Request`` and gives ``<method>Response``."""


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="deps/inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, descriptor_pb2.DescriptorProto] = {}
    for name, fields in MESSAGES.items():
        outer, _, inner = name.rpartition(".")
        message = made[outer].nested_type.add(name=inner) if outer else file.message_type.add(name=inner)
        made[name] = message
        for field in fields:
            _add_field(message, name, field)
    for name, values in ENUMS.items():
        outer, _, inner = name.rpartition(".")
        enum = made[outer].enum_type.add(name=inner) if outer else file.enum_type.add(name=inner)
        for key, number in values.items():
            enum.value.add(name=key, number=number)
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, owner: str, field: _Field) -> None:
    kind, label = field.kind, _OPTIONAL
    if kind.startswith("["):
        kind, label = kind[1:-1], _REPEATED
    elif kind.startswith("{"):
        # A map is many entries of key and value, in a message of its own.
        entry = message.nested_type.add(name="".join(part.title() for part in field.name.split("_")) + "Entry")
        entry.options.map_entry = True
        _add_field(entry, owner, _Field(1, "key", "string"))
        _add_field(entry, owner, _Field(2, "value", kind[1:-1]))
        kind, label = f"{owner}.{entry.name}", _REPEATED
    added = message.field.add(name=field.name, number=field.number, label=label)
    if kind in _SCALARS:
        added.type = _SCALARS[kind]
    else:
        added.type = _ENUM if kind in ENUMS else _MESSAGE
        added.type_name = f".{PACKAGE}.{kind}"
    if field.oneof is not None:
        names = [oneof.name for oneof in message.oneof_decl]
        if field.oneof not in names:
            message.oneof_decl.add(name=field.oneof)
            names.append(field.oneof)
        added.oneof_index = names.index(field.oneof)


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(_file().SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in MESSAGES}


CLASSES: dict[str, Any] = _classes()
"""Message classes by name, nested ones with their owner's name before a dot."""
