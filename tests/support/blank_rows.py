"""Rows for tests that set only the fields they are about."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar, get_origin, get_type_hints

T = TypeVar("T")


def blank(kind: type[T], /, *first: object, **named: object) -> T:
    """A row of `kind`: the fields given, first by place and then by name, the others empty."""
    values: dict[str, Any] = {}
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.default is field.default_factory is dataclasses.MISSING:
            hint = hints[field.name]
            values[field.name] = (get_origin(hint) or hint)()
    values |= {f.name: value for f, value in zip(dataclasses.fields(kind), first, strict=False)}  # type: ignore[arg-type]
    return kind(**{**values, **named})
