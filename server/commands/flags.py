"""The flags of `server` without a subcommand: from flags to ServerConfig, and back for `server
status`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

from server.config import CHOOSE, Flag, ServerConfig
from server.values import MIB, at_least_one, count, expecting, kib, mib, seconds, share, whole

METAVARS: dict[Callable[[str], Any], str] = {
    **{whole: "N", count: "N", seconds: "S", at_least_one: "S"},
    **{mib: "MIB", kib: "KIB", share: "SHARE"},
}
# Reader -> the ending of the field's name, that of the flag's name, the unit.
UNITS: dict[Callable[[str], Any], tuple[str, str, int]] = {
    mib: ("_bytes", "_mb", MIB),
    kib: ("_bytes", "_kb", 1024),
    seconds: ("_s", "", 1),
    at_least_one: ("_s", "", 1),
}


def flags() -> Iterator[tuple[str, str, Any, Flag]]:
    """(the flag's name, its field, the default, the rest of its description) of each setting."""
    for field in fields(ServerConfig):
        flag: Flag = field.metadata[""]
        end, unit, _ = UNITS.get(flag.read, ("", "", 1))
        name = field.name.removesuffix(end) + unit
        name = f"no_{name}" if field.default is True else name
        yield flag.name or f"--{name.replace('_', '-')}", field.name, field.default, flag


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = None
    for name, field, default, flag in flags():
        if group is None or flag.group:
            group = parser.add_argument_group(flag.group)
        if flag.read is bool:
            action = "store_false" if default else "store_true"
            group.add_argument(name, dest=field, action=action, help=flag.help)
            continue
        silent = "default" in flag.help or default in ("", 0, None)
        group.add_argument(
            name,
            dest=field,
            type=expecting(flag.read),
            default=default,
            metavar=flag.metavar or METAVARS[flag.read],
            help=flag.help + ("" if silent else f" ({_text(flag, default)})"),
        )


def config_of(arguments: argparse.Namespace) -> ServerConfig:
    given = vars(arguments)
    known = {field.name for field in fields(ServerConfig)}
    return ServerConfig(**{name: value for name, value in given.items() if name in known})


def flags_of(config: ServerConfig) -> dict[str, str]:
    """Every flag with the value it has, for `server status`."""
    found = {}
    for name, field, _, flag in flags():
        value = getattr(config, field)
        value = not value if name.startswith("--no-") else value
        found[name.removeprefix("--")] = _text(flag, value)
    return found


def _text(flag: Flag, value: Any) -> str:
    if value is None or value == CHOOSE:
        return ""
    unit = UNITS.get(flag.read, ("", "", 1))[2]
    value = value / unit if unit > 1 else value
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
