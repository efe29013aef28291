"""Generates several texts at once, token by token; each is the same as if it were alone.

- one `Writing` holds the live texts of a device; between two steps the caller may run other work,
  and texts may start, end and be cancelled;
- every text has its own line of the cache, so the other texts do not change it;
- prompts are read together, in pieces between the steps of the texts that are being written;
- decoding is greedy: the most probable token, or the lower token id of two equal ones.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch

from pipelines.batch import Batch
from pipelines.models.backbone import Backbone, TextInputs
from pipelines.models.device import Download
from pipelines.models.heads import last_states
from pipelines.models.kv_cache import Lines

Decode = Callable[[Sequence[int]], str]
# Prompt tokens read between two steps, which is how long a stream of texts stops: 2 x 2.8e9
# operations a token of a 3B model take 15 ms at half of 780 TFLOP/s. Encoders run in one piece.
PIECE_TOKENS: Final = 1024
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


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Tokens on their way to the host: f32 [2, texts], token and log-probability. float32 holds
    every token id below 2**24 exactly."""

    texts: tuple[Generation, ...]
    values: Download


@dataclass(slots=True)
class _Joining:
    """Prompts being read, all together and `done` of their columns; they use the lines from `line`
    on. `last` [B, H] are the states of the last prompt tokens read so far."""

    texts: tuple[Generation, ...]
    line: int
    prompt: TextInputs
    lengths: torch.Tensor
    following: torch.Tensor
    last: torch.Tensor | None = None
    done: int = 0

    @property
    def columns(self) -> int:
        return int(self.prompt.embeddings.shape[1])


class Writing:
    """The live texts of one backbone. Not thread-safe, except for `Generation.cancel`.

    Tokens are chosen and stay on the device; the host reads them `behind` steps later. With 1, as
    on a GPU, it reads those of a step while the next one computes: a text that ends is noticed one
    step late, and what it wrote beyond its end is dropped. Prompts are read `piece` tokens at a
    time (rows times columns), so that texts being written stop no longer than that takes.
    """

    def __init__(
        self,
        backbone: Backbone,
        decode: Decode,
        end_tokens: Sequence[int],
        behind: int = 0,
        piece: int = PIECE_TOKENS,
        most_bytes: float = math.inf,
    ) -> None:
        """`most_bytes` bounds the keys and values of all texts together."""
        self._backbone = backbone
        self._decode = decode
        self._end_tokens = frozenset(end_tokens)
        self._behind = behind
        self._piece = piece
        self._lines = Lines(backbone.cached_heads, backbone.device, backbone.dtype, most_bytes)
        # Token, rotary position and cached tokens of each line, i64 [3, lines].
        self._state = torch.zeros(3, 0, dtype=torch.int64, device=backbone.device)
        self._live: list[Generation] = []  # Invariant: the n-th text uses the n-th line.
        self._joining: _Joining | None = None
        self._chosen: deque[_Chosen] = deque()

    @property
    def live(self) -> int:
        """Texts that are not finished."""
        unread = {text for chosen in self._chosen for text in chosen.texts if not text.finished}
        joining = self._joining.texts if self._joining is not None else ()
        return len(unread.union(self._live, joining))

    @property
    def cache_bytes(self) -> int:
        return self._lines.nbytes

    def takes(self, prompts: Sequence[int], limits: Sequence[int]) -> bool:
        """Whether `start` would begin texts of these prompt lengths and limits now: one group at a
        time is read, and lines that do not fit wait for a text to end. True for a single text with
        nothing to wait for, which `start` refuses if it does not fit."""
        self._drop_finished()
        if self._joining is not None:
            return False
        live = len(self._live)
        if not live and len(prompts) == 1:
            return True
        return self._lines.fits(live + len(prompts), _room(prompts, limits), live)

    @torch.inference_mode()
    def start(self, batch: Batch, limits: Sequence[int]) -> list[Generation]:
        """Reads the first piece of the prompts; `limits` in tokens, at least 1. A prompt of one
        piece gets its first token.

        Raises NoRoom for texts that do not fit even alone; ValueError where `takes` is false.
        """
        self._drop_finished()
        line, lengths = len(self._live), list(batch.prompt_lengths)
        room = _room(lengths, limits)
        if self._joining is not None or not self._lines.reserve(line + batch.rows, room, line):
            raise ValueError("texts were started that `takes` did not allow")
        self._hold_state()
        begun = [
            Generation(id, limit, length, self._decode)
            for id, limit, length in zip(batch.ids, limits, lengths, strict=True)
        ]
        joining = _Joining(
            tuple(begun), line, self._backbone.columns(batch), batch.lengths, batch.following
        )
        # Kept only now: an error, for want of memory for example, leaves nothing behind.
        self._joining = None if self._read_piece(joining) else joining
        self._collect()
        self._drop_finished()
        return begun

    @torch.inference_mode()
    def step(self) -> list[Generation]:
        """Reads a piece of the prompts that wait, and writes one token of every live text; returns
        the texts whose token the host has now, including finished ones."""
        self._drop_finished()
        if self._joining is not None and self._read_piece(self._joining):
            self._joining = None
            self._drop_finished()
        count = len(self._live)
        if count:
            longest = max(text.cached for text in self._live) + 1
            tokens, positions, places = self._state[:, :count].clone()
            place = torch.arange(longest, device=places.device)
            seen = (place <= places[:, None])[:, None, :]
            cache = self._lines.writing(places, longest)
            everywhere = positions[:, None].expand(3, -1, -1)
            hidden = self._backbone.extend(tokens[:, None], everywhere, seen, cache)
            self._state[1:, :count] += 1
            self._choose(self._live, hidden[:, -1], 0)
        advanced = self._collect()
        self._drop_finished()
        return advanced

    def _read_piece(self, joining: _Joining) -> bool:
        """Whether that was the last piece; the texts are live then."""
        rows, columns = len(joining.texts), joining.columns
        most = columns if self._backbone.whole_prompts else max(1, self._piece // rows)
        first, last = joining.done, min(joining.done + most, columns)
        cache = self._lines.reading(joining.line, rows, first, last)
        hidden = self._backbone.read(joining.prompt, first, last, cache)
        place = joining.lengths - 1 - first
        here = last_states(hidden, (place + 1).clamp(1, last - first)).squeeze(1)
        if joining.last is not None:  # of rows that end in this piece, or before it
            here = torch.where((place >= 0)[:, None], here, joining.last)
        joining.last, joining.done = here, last
        if last == columns:
            self._join(joining, here)
        return last == columns

    def _join(self, joining: _Joining, last: torch.Tensor) -> None:
        line, rows = len(self._live), len(joining.texts)
        for number, text in enumerate(joining.texts):
            if joining.line != line:  # texts ended while these prompts were read
                self._lines.move(joining.line + number, line + number, text.cached)
        self._state[1, line : line + rows] = joining.following
        self._state[2, line : line + rows] = joining.lengths
        self._choose(joining.texts, last, line, prompt=True)
        self._live += joining.texts

    def _choose(
        self,
        texts: Sequence[Generation],
        hidden: torch.Tensor,
        line: int,
        prompt: bool = False,
    ) -> None:
        """The next token of texts whose lines begin at `line`, from `hidden` [texts, H]."""
        log_probs = torch.log_softmax(self._backbone.head(hidden).float(), dim=-1)
        best = log_probs.max(dim=-1)
        self._state[0, line : line + len(texts)] = best.indices
        for text in texts:
            text.chosen += 1
            text.cached += not prompt
        values = Download(torch.stack([best.indices.float(), best.values]))
        self._chosen.append(_Chosen(tuple(texts), values))

    def _collect(self) -> list[Generation]:
        """Reads what was chosen, but for the last `behind` times while there is more to compute."""
        keep = self._behind if any(not text.all_chosen for text in self._live) else 0
        ready = [self._chosen.popleft() for _ in range(len(self._chosen) - keep)]
        if ready:
            ready[-1].values.wait()  # the newest is the only one worth a wait
        advanced: list[Generation] = []
        for chosen in ready:
            for text, token, log_prob in zip(
                chosen.texts, *chosen.values.array().tolist(), strict=True
            ):
                if not text.finished:
                    text.add(int(token), log_prob, int(token) in self._end_tokens)
                    advanced.append(text)
        return list(dict.fromkeys(advanced))

    def _drop_finished(self) -> None:
        """Ends the lines of texts that need no further token, and prompts that nobody waits for."""
        if self._joining is not None and all(text.finished for text in self._joining.texts):
            self._joining = None
        for place in reversed(range(len(self._live))):
            text = self._live[place]
            if text.finished or text.all_chosen:
                # The last line moves into the gap, so that the live lines stay contiguous.
                last = self._live.pop()
                if last is not text:
                    self._lines.move(len(self._live), place, last.cached)
                    self._state[:, place] = self._state[:, len(self._live)]
                    self._live[place] = last
        if not self._live and self._joining is None:
            self._lines.clear()  # frees the memory when no text is live

    def _hold_state(self) -> None:
        if self._state.shape[1] < self._lines.lines:
            more = self._lines.lines - self._state.shape[1]
            self._state = torch.nn.functional.pad(self._state, (0, more))


def _room(prompts: Sequence[int], limits: Sequence[int]) -> int:
    """Tokens a line must hold: the padded prompts, and the longest text with its limit. The last
    token of a text is never cached."""
    return max(max(prompts), max(p + limit for p, limit in zip(prompts, limits, strict=True)))
