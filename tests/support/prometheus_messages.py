"""io.prometheus.client.MetricFamily as Google's library reads it, from the fields' numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _Field.TYPE_STRING,
    "double": _Field.TYPE_DOUBLE,
    "uint64": _Field.TYPE_UINT64,
    "uint32": _Field.TYPE_UINT32,
    "sint32": _Field.TYPE_SINT32,
    "sint64": _Field.TYPE_SINT64,
    "int64": _Field.TYPE_INT64,
    "int32": _Field.TYPE_INT32,
}
# Message -> field -> its number and type. A type of another name is a message; "*": repeated.
_MESSAGES: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "LabelPair": {"name": (1, "string"), "value": (2, "string")},
    "Time": {"seconds": (1, "int64"), "nanos": (2, "int32")},
    "Exemplar": {"label": (1, "*LabelPair"), "value": (2, "double"), "timestamp": (3, "Time")},
    "Value": {"value": (1, "double")},
    "Bucket": {
        "cumulative_count": (1, "uint64"),
        "upper_bound": (2, "double"),
        "exemplar": (3, "Exemplar"),
    },
    "BucketSpan": {"offset": (1, "sint32"), "length": (2, "uint32")},
    "Histogram": {
        "sample_count": (1, "uint64"),
        "sample_sum": (2, "double"),
        "bucket": (3, "*Bucket"),
        "schema": (5, "sint32"),
        "zero_threshold": (6, "double"),
        "zero_count": (7, "uint64"),
        "positive_span": (12, "*BucketSpan"),
        "positive_delta": (13, "*sint64"),
    },
    "Metric": {
        "label": (1, "*LabelPair"),
        "gauge": (2, "Value"),
        "counter": (3, "Value"),
        "untyped": (5, "Value"),
        "histogram": (7, "Histogram"),
    },
    "MetricFamily": {
        "name": (1, "string"),
        "help": (2, "string"),
        "type": (3, "int32"),
        "metric": (4, "*Metric"),
        "unit": (5, "string"),
    },
}


def families(body: bytes) -> dict[str, Any]:
    """By name; fails on a field that is not in the table."""
    found = {}
    for message in _messages(body):
        family = _CLASS.FromString(message)
        assert family.SerializeToString() == _known_only(family), family.name
        found[family.name] = family
    return found


def _messages(body: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(body):
        size = shift = 0
        while True:
            byte = body[at]
            at += 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        yield body[at : at + size]
        at += size


def _known_only(family: Any) -> bytes:
    copy = _CLASS()
    copy.CopyFrom(family)
    copy.DiscardUnknownFields()
    return bytes(copy.SerializeToString())


def _class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="prometheus_test.proto", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            repeated = kind.startswith("*")
            added = message.field.add(name=field, number=number)
            added.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if kind.lstrip("*") in _SCALARS:
                added.type = _SCALARS[kind.lstrip("*")]
            else:
                added.type, added.type_name = _Field.TYPE_MESSAGE, f".{kind.lstrip('*')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("MetricFamily"))


_CLASS = _class()
