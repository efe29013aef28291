"""The messages of the Open Inference Protocol, built in their own descriptor pool. Triton's client
registers a file of the same package, and by default one process can hold only one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import proto.inference_pb2

DESCRIPTORS = Path(proto.inference_pb2.__file__).with_name("open_inference.binpb")


def _open_pool() -> Any:
    pool = descriptor_pool.DescriptorPool()
    files = descriptor_pb2.FileDescriptorSet.FromString(DESCRIPTORS.read_bytes())
    for file in files.file:
        pool.Add(file)
    return pool


POOL = _open_pool()
SERVICE = POOL.FindServiceByName("inference.GRPCInferenceService")


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


ServerLiveRequest = _class("ServerLiveRequest")
ServerLiveResponse = _class("ServerLiveResponse")
ServerReadyRequest = _class("ServerReadyRequest")
ServerReadyResponse = _class("ServerReadyResponse")
ModelReadyRequest = _class("ModelReadyRequest")
ModelReadyResponse = _class("ModelReadyResponse")
ServerMetadataRequest = _class("ServerMetadataRequest")
ServerMetadataResponse = _class("ServerMetadataResponse")
ModelMetadataRequest = _class("ModelMetadataRequest")
ModelMetadataResponse = _class("ModelMetadataResponse")
ModelInferRequest = _class("ModelInferRequest")
ModelInferResponse = _class("ModelInferResponse")
ModelStreamInferResponse = _class("ModelStreamInferResponse")
ModelConfigRequest = _class("ModelConfigRequest")
ModelConfigResponse = _class("ModelConfigResponse")
ModelStatisticsRequest = _class("ModelStatisticsRequest")
ModelStatisticsResponse = _class("ModelStatisticsResponse")
RepositoryIndexRequest = _class("RepositoryIndexRequest")
RepositoryIndexResponse = _class("RepositoryIndexResponse")
