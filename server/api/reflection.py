"""Server reflection, v1 and v1alpha, over all services. It includes the Open Inference Protocol's
private pool, and the types of google.rpc in which the details of a refusal are packed."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from proto import admin_pb2, inference_pb2, observe_pb2
from server.api import open_inference_messages

ALPHA, STABLE = "grpc.reflection.v1alpha", "grpc.reflection.v1"
METHOD = "ServerReflectionInfo"
OURS = (inference_pb2, observe_pb2, admin_pb2, health_pb2)
DETAILS = (any_pb2, duration_pb2, status_pb2, error_details_pb2)


def reflection_handlers() -> list[Any]:
    """Both versions have the same messages on the wire, so one servant answers for both."""
    pool = _pool()
    names = [name for module in OURS for name in _service_names(module.DESCRIPTOR)]
    names.append(open_inference_messages.SERVICE.full_name)
    services = [f"{version}.ServerReflection" for version in (ALPHA, STABLE)]
    servant = reflection.aio.ReflectionServicer([*names, *services], _WithMethods(pool))
    handler = grpc.stream_stream_rpc_method_handler(
        servant.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    return [
        grpc.method_handlers_generic_handler(service, {METHOD: handler}) for service in services
    ]


class _WithMethods:
    """A pool that also finds the file of a method, as the reflection protocol requires."""

    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            found = self._pool.FindServiceByName(service)
            if method not in found.methods_by_name:
                raise
            return found.file


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    files = [module.DESCRIPTOR for module in (*DETAILS, *OURS, reflection_pb2)]
    for file in (*files, open_inference_messages.SERVICE.file):
        pool.Add(_proto(file))
    pool.Add(_stable(_proto(reflection_pb2.DESCRIPTOR)))
    return pool


def _proto(file: Any) -> descriptor_pb2.FileDescriptorProto:
    found = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(found)
    return found


def _stable(alpha: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    """Version 1, which gRPC's Python package lacks: the same file with another package name."""
    data = alpha.SerializeToString()
    moved = descriptor_pb2.FileDescriptorProto.FromString(data)
    moved.name = moved.name.replace("v1alpha", "v1")
    moved.package = STABLE
    for message in moved.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(ALPHA, STABLE)
    for method in moved.service[0].method:
        method.input_type = method.input_type.replace(ALPHA, STABLE)
        method.output_type = method.output_type.replace(ALPHA, STABLE)
    return moved


def _service_names(file: Any) -> list[str]:
    return [service.full_name for service in file.services_by_name.values()]
