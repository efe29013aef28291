"""Everything the console can do, listed once: the keys, the key sheet and the search box read this
list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    id: str
    title: str
    keys: tuple[str, ...]
    run: Callable[[], object]
    group: str = "Window"


class CommandRegistry:
    def __init__(self) -> None:
        self._commands: dict[str, Command] = {}

    def add(self, command: Command) -> None:
        """Raises ValueError for an id or a key that is taken."""
        if command.id in self._commands:
            raise ValueError(f"command {command.id} is already there")
        taken = {key: known.id for known in self for key in known.keys}
        for key in command.keys:
            if key in taken:
                raise ValueError(f"key {key} of {command.id} is taken by {taken[key]}")
        self._commands[command.id] = command

    def __iter__(self) -> Iterator[Command]:
        return iter(tuple(self._commands.values()))

    def __getitem__(self, name: str) -> Command:
        return self._commands[name]
