"""Combines flags, environment and file into one ServerConfig, and records the source of each
setting.

A flag overrides the environment, the environment the file, the file the default.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from server.commands.flags import config_of, flags_of
from server.commands.output.command_line import near
from server.config import ServerConfig

PREFIX = "TREFOIL_"
CONFIG = "--config"
PRINT = "--print-config"
PRECEDENCE = (
    f"Every flag is also a variable ({PREFIX}WARM_POOL=2 for --warm-pool 2) and a line of the\n"
    f"file of {CONFIG} (warm-pool = 2). Flags take precedence over the environment, the\n"
    "environment over the file, the file over the default. A switch is true or false. An empty\n"
    "variable is not set."
)
SWITCH = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


class SettingInvalid(ValueError):
    """The file or a variable has a value that no flag accepts."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`sources` has a line for each setting that differs from the default, by the flag's name."""

    config: ServerConfig
    sources: Mapping[str, str]
    print_only: bool = False


def add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where settings come from")
    group.add_argument(
        CONFIG, type=Path, metavar="FILE", help="a TOML file with a line for each setting"
    )
    group.add_argument(
        PRINT, action="store_true", help="print every setting and where it comes from, and exit"
    )


def settings_of(
    parser: argparse.ArgumentParser, arguments: Sequence[str], environment: Mapping[str, str]
) -> Settings:
    """Raises SettingInvalid. Wrong flags end the process, as argparse does."""
    flags = _flags(parser)
    for action in flags.values():
        action.default = argparse.SUPPRESS  # only flags that were given are left
    given = vars(parser.parse_args(arguments))
    path = given.pop("config", None) or environment.get(f"{PREFIX}CONFIG")
    print_only = given.pop("print_config", False)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, found in (
        (f"{path}", _of_file(Path(path), flags) if path else {}),
        ("environment", _of_environment(environment, flags)),
    ):
        for name, value in found.items():
            values[flags[name].dest], sources[name] = value, source
    for name, action in flags.items():
        if action.dest in given:
            values[action.dest], sources[name] = given[action.dest], "flag"
    return Settings(config_of(argparse.Namespace(**values)), sources, print_only)


def as_toml(settings: Settings) -> str:
    """Every setting in the form of the --config file. Reading it back gives the same settings."""
    lines = []
    for name, text in flags_of(settings.config).items():
        if not text:
            continue
        source = settings.sources.get(name, "default")
        lines.append(f"{name} = {_toml(settings.config, name, text)}  # {source}")
    return "\n".join(lines)


def _flags(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The flags by name without dashes; --help and similar flags are not settings."""
    own = {"--help", "--version", CONFIG, PRINT}
    actions = [one for one in parser._actions if not own & set(one.option_strings)]
    return {one.option_strings[-1].removeprefix("--"): one for one in actions}


def _of_environment(
    environment: Mapping[str, str], flags: Mapping[str, argparse.Action]
) -> dict[str, Any]:
    names = {name: PREFIX + name.upper().replace("-", "_") for name in flags}
    return {
        name: _value(flags[name], environment[variable], variable)
        for name, variable in names.items()
        if environment.get(variable)
    }


def _of_file(path: Path, flags: Mapping[str, argparse.Action]) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text())
    except OSError as error:
        raise SettingInvalid(f"{CONFIG} {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"{CONFIG} {path}: not TOML: {error}") from None
    values = {}
    for key, value in found.items():
        name = key.replace("_", "-")
        if name not in flags:
            raise SettingInvalid(f"{CONFIG} {path}: there is no setting {key!r}{near(name, flags)}")
        if not isinstance(value, str | int | float):
            raise SettingInvalid(f"{CONFIG} {path}: {key}: expected a text, a number or a switch")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        values[name] = _value(flags[name], text, f"{CONFIG} {path}: {key}")
    return values


def _value(action: argparse.Action, text: str, where: str) -> Any:
    """Parse the text as the flag itself would."""
    if action.nargs == 0:
        if text.lower() not in SWITCH:
            raise SettingInvalid(f"{where}: {text!r}: expected true or false")
        return action.const if SWITCH[text.lower()] else not action.const
    read: Any = action.type or str
    try:
        return read(text)
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise SettingInvalid(f"{where}: {error}") from None


def _toml(config: ServerConfig, name: str, text: str) -> str:
    if name == "simulated-time" and config.simulated_time is not None:
        start, speed = config.simulated_time
        return _quoted(f"{datetime.fromtimestamp(start, UTC).isoformat()},{speed!r}")
    if text in ("True", "False"):
        return text.lower()
    try:
        return repr(int(text)) if text.isdecimal() else repr(float(text))
    except ValueError:
        return _quoted(text)


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
