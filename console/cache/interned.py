"""The reading side of the `name` table."""

from __future__ import annotations

import sqlite3


class InternedTexts:
    """Maps ids to texts and back, and reads the table again when an unknown id turns up."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._texts: dict[int, str] = {}
        self._ids: dict[str, int] = {}

    def text(self, number: int) -> str:
        if number not in self._texts:
            self._extend()
        return self._texts.get(number, "")

    def find(self, text: str) -> int:
        """The id of a text, or -1 if no row has it."""
        if text not in self._ids:
            self._extend()
        return self._ids.get(text, -1)

    def all(self) -> dict[str, int]:
        self._extend()
        return dict(self._ids)

    def _extend(self) -> None:
        last = max(self._texts, default=0)
        for number, text in self._db.execute("SELECT id, text FROM name WHERE id > ?", (last,)):
            self._texts[number] = text
            self._ids[text] = number
