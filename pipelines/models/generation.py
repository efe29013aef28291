"""One text being generated: its tokens, the text decoded from them, and why it ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

Decode = Callable[[Sequence[int]], str]
Ending = Literal["", "end", "length", "cancelled"]


class IncrementalDecoder:
    """Turns tokens into text as soon as it is certain: never half a character.

    The pieces joined equal the result of decoding all tokens at once.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        # Tokens from here on are decoded again, so that the text is right where pieces meet.
        self._context = 0
        self._emitted = 0  # text up to here has been returned

    def push(self, token: int) -> str:
        self._ids.append(token)
        text = self._decode(self._ids[self._context :])
        if text.endswith("\N{REPLACEMENT CHARACTER}"):
            return ""  # the bytes of a character may still be coming
        return self._emit(text)

    def flush(self) -> str:
        """The text held back; an unfinished character becomes U+FFFD."""
        return self._emit(self._decode(self._ids[self._context :]))

    def _emit(self, text: str) -> str:
        known = self._decode(self._ids[self._context : self._emitted])
        self._context, self._emitted = self._emitted, len(self._ids)
        return text[len(known) :]


class Generation:
    """One text. `ending` is why it finished: "end" (the end token), "length", "cancelled".

    `confidence` is exp(mean log-probability of its tokens, the end token included).
    """

    def __init__(self, id: str, limit: int, prompt: int, decode: Decode) -> None:
        """`prompt` in tokens."""
        self.id = id
        self.chosen = 0  # tokens chosen on the device; the host may not know them yet
        self.cached = prompt  # tokens whose keys and values are kept
        self.ending: Ending = ""
        self.tokens: list[int] = []
        self.text = ""
        self._limit = limit
        self._pieces = IncrementalDecoder(decode)
        self._untaken = ""
        self._log_prob = 0.0
        self._counted = 0

    @property
    def finished(self) -> bool:
        return self.ending != ""

    @property
    def confidence(self) -> float:
        return math.exp(self._log_prob / self._counted) if self._counted else math.nan

    @property
    def all_chosen(self) -> bool:
        """Whether no further token is needed."""
        return self.chosen >= self._limit

    def cancel(self) -> None:
        """Ends the text at the next step. May be called from any thread."""
        if not self.ending:
            self.ending = "cancelled"

    def take(self) -> str:
        """The text since the last call; "" while a character is incomplete."""
        piece, self._untaken = self._untaken, ""
        return piece

    def add(self, token: int, log_prob: float, end: bool) -> None:
        self._log_prob += log_prob
        self._counted += 1
        if not end:
            self.tokens.append(token)
            self._append(self._pieces.push(token))
        if end or len(self.tokens) >= self._limit:
            self.ending = "end" if end else "length"
            self._append(self._pieces.flush())

    def _append(self, piece: str) -> None:
        self.text += piece
        self._untaken += piece
