"""An argument parser whose errors are one line and suggest the probable meaning."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn


class CommandLine(argparse.ArgumentParser):
    """`meant` turns an argument that belongs to no flag into the text of a suggestion."""

    meant: Callable[[str], str] | None = None

    def __init__(self, **options: Any) -> None:
        if "\n" in (options.get("epilog") or ""):  # text with its own line breaks
            options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(self._about(unknown))
        return found

    def error(self, message: str) -> NoReturn:
        """Print one line: a page of usage before it would hide it."""
        self.exit(2, f"{self.prog}: {message} (flags: {self.prog} --help)\n")

    def _about(self, unknown: Sequence[str]) -> str:
        first = unknown[0]
        if first.startswith("-") and first != "-":
            name = first.partition("=")[0]
            return f"there is no flag {name}{near(name, self._option_string_actions)}"
        meant = self.meant(first) if self.meant is not None else ""
        return f"{first!r} belongs to no flag{meant}"


def utf8(value: str) -> str:
    """The type of a flag that takes text. Bytes of a command line that are not UTF-8 arrive as lone
    surrogates, which a message cannot carry."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        at = len(os.fsencode(value[: error.start]))
        raise argparse.ArgumentTypeError(
            f"byte {at} is not valid UTF-8; encode it as UTF-8"
        ) from None
    return value


def near(name: str, known: Iterable[str]) -> str:
    """The suggestion `; did you mean X?`, or "" if no known name is similar."""
    alike = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f"; did you mean {alike[0]}?" if alike else ""
