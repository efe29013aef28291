"""Fills messages from plain data whose fields have the same names."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, cast

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

M = TypeVar("M", bound=Message)


def filled(kind: type[M], source: Any, **others: Any) -> M:
    """A message with each field that the dataclass `source` has too, nested ones included; `others`
    are the fields that differ, and override those of `source`."""
    for name, part in _shared(cast(Hashable, kind), cast(Hashable, type(source))):
        if name not in others:
            value = getattr(source, name)
            if part is not None:
                single = is_dataclass(value)
                value = filled(part, value) if single else [filled(part, item) for item in value]
            others[name] = value
    made: M = kind(**others)
    return made


@cache
def _shared(kind: Any, source: Any) -> tuple[tuple[str, type[Message] | None], ...]:
    """(the field's name, its message class) of the fields that both have; maps count as plain
    values."""
    described = kind.DESCRIPTOR.fields_by_name
    found = []
    for name in (field.name for field in fields(source) if field.name in described):
        inner = described[name].message_type
        plain = inner is None or inner.GetOptions().map_entry
        found.append((name, None if plain else GetMessageClass(inner)))
    return tuple(found)
