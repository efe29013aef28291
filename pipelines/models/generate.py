"""Generates several texts at once, token by token; each is the same as if it were alone.

- one `Writing` holds the live texts of a device; between two steps the caller may run other work,
  and texts may start, end and be cancelled;
- every text has its own line of the cache, so the other texts do not change it;
- decoding is greedy: the most probable token, or the lower token id of two equal ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from pipelines.batch import Batch
from pipelines.models.backbone import Backbone
from pipelines.models.kv_cache import GenerationCache

Decode = Callable[[Sequence[int]], str]
Ending = Literal["", "end", "length", "cancelled"]


class IncrementalDecoder:
    """Turns tokens into text as soon as it is certain: never half a character.

    The pieces together are what decoding all tokens at once gives.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._context = 0  # tokens from here on are decoded again, so that joints are right
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

    def __init__(self, id: str, limit: int, position: int, decode: Decode) -> None:
        self.id = id
        self.ending: Ending = ""
        self.tokens: list[int] = []
        self.text = ""
        self._limit = limit
        self._position = position
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
    def position(self) -> int:
        """Rotary position of the newest token."""
        return self._position + len(self.tokens) - 1

    def cancel(self) -> None:
        """Takes effect at the next step. May be called from any thread."""
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


class Writing:
    """The live texts of one backbone. Not thread-safe, except for `Generation.cancel`."""

    def __init__(self, backbone: Backbone, decode: Decode, end_tokens: Sequence[int]) -> None:
        self._backbone = backbone
        self._decode = decode
        self._end_tokens = frozenset(end_tokens)
        self._lines = GenerationCache()
        self._live: list[Generation] = []  # Invariant: the n-th text uses the n-th line.

    @property
    def live(self) -> int:
        return len(self._live)

    @torch.inference_mode()
    def start(self, batch: Batch, limits: Sequence[int]) -> list[Generation]:
        """Reads the prompts and writes the first token of each; `limits` in tokens, at least 1."""
        self._drop_finished()
        hidden, prompts = self._backbone.prefill(batch)
        starts, following = batch.starts.tolist(), batch.following.tolist()
        self._lines.append(prompts, starts, max(limits, default=0))
        begun = [
            Generation(id, limit, position, self._decode)
            for id, limit, position in zip(batch.ids, limits, following, strict=True)
        ]
        self._live += begun
        self._write(begun, hidden[:, -1])
        self._drop_finished()
        return begun

    @torch.inference_mode()
    def step(self) -> list[Generation]:
        """Writes one token of every live text; returns the texts that got one, including finished
        ones."""
        self._drop_finished()
        if not self._live:
            return []
        advanced = list(self._live)
        device = self._lines.device
        tokens = torch.tensor([[text.tokens[-1]] for text in advanced], device=device)
        places = torch.tensor([[text.position] for text in advanced], device=device)
        seen = self._lines.make_room()
        hidden = self._backbone.extend(tokens, places.expand(3, -1, -1), seen, self._lines)
        self._write(advanced, hidden[:, -1])
        self._drop_finished()
        return advanced

    def _write(self, texts: Sequence[Generation], hidden: torch.Tensor) -> None:
        log_probs = torch.log_softmax(self._backbone.head(hidden).float(), dim=-1)
        best = log_probs.max(dim=-1)
        # Waits for the device once a step: both results are copied together.
        both = torch.stack([best.indices.double(), best.values.double()]).tolist()
        for text, token, log_prob in zip(texts, *both, strict=True):
            text.add(int(token), log_prob, int(token) in self._end_tokens)

    def _drop_finished(self) -> None:
        for place in reversed(range(len(self._live))):
            if self._live[place].finished:
                # The last line moves into the gap, so that the live lines stay contiguous.
                self._lines.remove(place)
                self._live[place] = self._live[-1]
                self._live.pop()
        if not self._live:
            self._lines = GenerationCache()  # frees the memory when no text is live
