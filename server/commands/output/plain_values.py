"""A message as plain values for json.dumps: every field present, integers as integers, enums by
name. (protobuf's own JSON form writes 64-bit integers as strings and leaves out zeros.)"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor


def plain(message: Any) -> dict[str, Any]:
    return {
        field.name: _value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def _value(field: Any, value: Any) -> Any:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        return {str(key): value[key] for key in sorted(value)}  # this project's maps hold scalars
    if field.is_repeated:
        return [_one(field, item) for item in value]
    return _one(field, value)


def _one(field: Any, value: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return plain(value)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return field.enum_type.values_by_number[value].name
    return value
