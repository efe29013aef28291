"""Strict reading of parameter blocks (`preprocess.json`, `template.json`) into frozen dataclasses.

Unknown keys are refused, because a user may rely on a parameter that nothing reads. Missing keys
are refused, because a default may change with the next version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from pipelines.bundle import bounds
from pipelines.errors import BundleRefused

_MAX_ITEMS = 256

T = TypeVar("T")


def read(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass `cls`; `where` names the block in the refusal.

    Raises BundleRefused("config", ...) for unknown or missing keys and for wrong types. Lists
    become tuples; an int is accepted where a float is meant, a bool never where a number is.
    """
    if not isinstance(values, Mapping):
        raise BundleRefused("config", f"{where} is not an object")
    names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(names))
    missing = sorted(set(names) - set(values))
    if unknown or missing:
        names_of = f"unknown keys {_some(unknown)}, missing keys {_some(missing)}"
        raise BundleRefused("config", f"{where}: {names_of}")
    hints = get_type_hints(cls)
    return cls(**{name: _fit(values[name], hints[name], f"{where}.{name}") for name in names})


def write(config: Any) -> dict[str, Any]:
    """The inverse of `read`: nested dataclasses as dicts, tuples as lists, ready for JSON."""
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config)}


def only(where: str, value: object, allowed: tuple[object, ...]) -> None:
    """Refuses a value this code does not implement: a silent substitute would be version skew."""
    if value not in allowed:
        raise BundleRefused("config", f"{where} is {value!r}; this code implements {allowed!r}")


def _some(names: list[str]) -> list[str]:
    return [bounds.short(name) for name in names[:8]]


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return write(value) if is_dataclass(value) else value


def _fit(value: Any, hint: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(value, Mapping):
        return read(cast(type[Any], hint), value, where)
    if get_origin(hint) is tuple:
        return _fit_items(value, get_args(hint), where)
    if type(value) is not hint and not (hint is float and type(value) is int):
        expected = f"expected {hint.__name__}"
        raise BundleRefused("config", f"{where} is {bounds.short(repr(value))}; {expected}")
    if hint in (int, float):
        bounds.parameter(where, value)
        return hint(value)
    return value


def _fit_items(value: Any, hints: tuple[Any, ...], where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise BundleRefused("config", f"{where} is {bounds.short(repr(value))}; expected a list")
    if len(value) > _MAX_ITEMS:
        raise BundleRefused("config", f"{where} has {len(value)} items; at most {_MAX_ITEMS}")
    if hints[-1] is not Ellipsis and len(value) != len(hints):
        raise BundleRefused("config", f"{where} has {len(value)} items; expected {len(hints)}")
    return tuple(_fit(item, hints[0], f"{where}[{i}]") for i, item in enumerate(value))
