"""Frozen rows to JSON and back, by their annotations. Unknown keys are ignored and missing ones
take the default, so a cache written by another version of the console stays readable."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def pack(row: Any) -> str:
    """One row as JSON; NaN is written as NaN, which json.loads reads back."""
    return json.dumps(dataclasses.asdict(row), separators=(",", ":"))


def unpack(kind: type[T], text: str) -> T:
    """The row written by `pack`. Raises ValueError for anything else."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"{kind.__name__}: not an object")
    return _build(kind, found)


@cache
def _plan(kind: Any) -> tuple[tuple[str, Any, Any], ...]:
    """(field, container, element dataclass or None) of every field."""
    hints = get_type_hints(kind)
    plan: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        origin = get_origin(hint)
        if origin is tuple:
            element = get_args(hint)[0]
            plan.append((field.name, tuple, element if dataclasses.is_dataclass(element) else None))
        elif origin is not None and not isinstance(hint, types.UnionType):
            plan.append((field.name, Mapping, None))
        else:
            plan.append((field.name, None, hint if dataclasses.is_dataclass(hint) else None))
    return tuple(plan)


def _build(kind: type[T], found: Mapping[str, Any]) -> T:
    values: dict[str, Any] = {}
    for name, container, element in _plan(cast(Hashable, kind)):
        if name not in found:
            continue
        value = found[name]
        if container is tuple:
            value = tuple(_build(element, item) if element else item for item in value)
        elif element is not None:
            value = _build(element, value)
        values[name] = value
    return kind(**values)
