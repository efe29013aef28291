"""Frozen rows to JSON and back, by their annotations. Unknown keys are ignored. A missing key takes
the default, or else the empty value of its type, as on the wire. So a cache that another version of
the console wrote stays readable."""

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
def _plan(kind: Any) -> tuple[tuple[str, Any, Any, Any], ...]:
    """(field, container, element dataclass or None, empty value if the field has no default)."""
    hints = get_type_hints(kind)
    plan: list[tuple[str, Any, Any, Any]] = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        origin = get_origin(hint)
        required = field.default is field.default_factory is dataclasses.MISSING
        empty = (origin or hint)() if required else None
        if origin is tuple:
            element = get_args(hint)[0]
            nested = element if dataclasses.is_dataclass(element) else None
            plan.append((field.name, tuple, nested, empty))
        elif origin is not None and not isinstance(hint, types.UnionType):
            plan.append((field.name, Mapping, None, empty))
        else:
            nested = hint if dataclasses.is_dataclass(hint) else None
            plan.append((field.name, None, nested, empty))
    return tuple(plan)


def _build(kind: type[T], found: Mapping[str, Any]) -> T:
    values: dict[str, Any] = {}
    for name, container, element, empty in _plan(cast(Hashable, kind)):
        if name not in found:
            if empty is not None:
                values[name] = empty
            continue
        value = found[name]
        if container is tuple:
            value = tuple(_build(element, item) if element else item for item in value)
        elif element is not None:
            value = _build(element, value)
        values[name] = value
    return kind(**values)
