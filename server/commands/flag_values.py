"""From the command line to ServerConfig, and from ServerConfig to what `server status` shows."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from server.commands.flags import GROUPS, METAVARS, Flag
from server.commands.values import expecting, kib, mib
from server.config import CHOOSE, MIB, ServerConfig

DEFAULTS = ServerConfig()


def add_flags(parser: argparse.ArgumentParser) -> None:
    for title, flags in GROUPS.items():
        group = parser.add_argument_group(title)
        for flag in flags:
            _add(group, flag)


def config_of(arguments: argparse.Namespace) -> ServerConfig:
    given = vars(arguments)
    known = {field.name for field in fields(ServerConfig)}
    return ServerConfig(**{name: value for name, value in given.items() if name in known})


def flags_of(config: ServerConfig) -> dict[str, str]:
    """Every flag with the value it has, for `server status`."""
    return {
        flag.name.removeprefix("--"): _text(flag, getattr(config, flag.field))
        for flags in GROUPS.values()
        for flag in flags
    }


def _add(group: argparse._ArgumentGroup, flag: Flag) -> None:
    default = getattr(DEFAULTS, flag.field)
    if flag.read is None:
        action = "store_false" if default else "store_true"
        group.add_argument(flag.name, dest=flag.field, action=action, help=flag.help)
        return
    silent = "default" in flag.help or default in ("", 0, None)
    shown = "" if silent else f" ({_text(flag, default)})"
    group.add_argument(
        flag.name,
        dest=flag.field,
        type=expecting(flag.read),
        default=default,
        metavar=flag.metavar or METAVARS[flag.read],
        help=flag.help + shown,
    )


def _text(flag: Flag, value: Any) -> str:
    if value is None or value == CHOOSE:
        return ""
    if flag.read is None and flag.name.startswith("--no-"):
        value = not value
    if flag.read is mib:
        value = value / MIB
    elif flag.read is kib:
        value = value / 1024
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
