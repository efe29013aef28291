"""Strict reading of parameter blocks (`preprocess.json`, `template.json`) into frozen dataclasses.

A key nobody reads is a parameter somebody believes in, and a key that is missing would be filled
with today's default tomorrow: both are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar, get_type_hints

from pipelines.errors import BundleRefused

T = TypeVar("T")


def read(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass `cls`; `where` names the block in the refusal.

    Raises BundleRefused("config", ...) for unknown or missing keys and for wrong types. Lists
    become tuples; an int is accepted where a float is meant, a bool never where a number is.
    """
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(names))
    missing = sorted(set(names) - set(values))
    if unknown or missing:
        raise BundleRefused("config", f"{where}: unknown keys {unknown}, missing keys {missing}")
    hints = get_type_hints(cls)
    return cls(**{name: _fit(values[name], hints[name], f"{where}.{name}") for name in names})


def write(config: Any) -> dict[str, Any]:
    """What `read` reads back; tuples as lists, ready for JSON."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(config).items()
    }


def only(where: str, value: object, allowed: tuple[object, ...]) -> None:
    """Refuse a value this code does not implement: a silent substitute would be skew."""
    if value not in allowed:
        raise BundleRefused("config", f"{where} is {value!r}; this code implements {allowed!r}")


def _fit(value: Any, hint: Any, where: str) -> Any:
    origin = getattr(hint, "__origin__", None)
    if origin is tuple:
        inner = hint.__args__[0]
        if not isinstance(value, list | tuple):
            raise BundleRefused("config", f"{where} is {value!r}; expected a list")
        return tuple(_fit(item, inner, f"{where}[{i}]") for i, item in enumerate(value))
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise BundleRefused("config", f"{where} is {value!r}; expected {hint.__name__}")
    return value
