"""Generates several texts at once, token by token; each is the same as if it were alone.

- one `Writing` holds the live texts of a device. Between two steps the caller may run other work,
  and texts may start, end and be cancelled;
- every text has its own line of the cache, so the other texts do not change it;
- prompts are read together, in pieces between the steps of the texts that are being written;
- decoding is greedy: the most probable token, or the lower token id of two equal ones.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from pipelines.batch import Batch
from pipelines.models.backbone import Backbone, TextInputs
from pipelines.models.device import Download
from pipelines.models.generation import Decode, Generation
from pipelines.models.graphs import GraphRecorder, Work
from pipelines.models.heads import last_states
from pipelines.models.kv_cache import Lines

# Prompt tokens read between two steps, which is how long the texts being written pause: at 2 x
# 2.8e9 operations a token, a 3B model takes 15 ms for them at half of 780 TFLOP/s. Encoders run in
# one piece.
PIECE_TOKENS: Final = 1024
# Largest difference of a log-probability between a recorded step and the same step unrecorded:
# padding may change the order in which a kernel sums, and bfloat16 and float16 keep 8 and 11 bits
# of each activation.
PROOF_TOLERANCE: Final = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Tokens on their way to the host: f32 [2, texts], token and log-probability. float32 holds
    every token id below 2**24 exactly."""

    texts: tuple[Generation, ...]
    values: Download


@dataclass(slots=True)
class _Joining:
    """Prompts that are read together, `done` columns of them so far. They use the lines from `line`
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

    Tokens are chosen and stay on the device; the host reads them `behind` steps later. With
    `behind` 1, as on a GPU, it reads the tokens of a step while the next step computes. It then
    notices one step late that a text has ended, and drops the tokens beyond the end. Prompts are
    read `piece` tokens at a time (rows times columns), so that the texts being written never pause
    longer than one piece takes.
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
        # The state of the pinned lines, on which recordings compute.
        self._pinned_state = self._state
        self._steps: dict[tuple[int, int], Work] = {}  # recorded steps, by number of texts and room
        self._count = torch.zeros((), dtype=torch.int64, device=backbone.device)
        self._padded = 0  # the value of `_count`, which recordings read
        self._out = torch.zeros(2, 0, device=backbone.device)  # the output of recordings
        self.replayed = 0  # number of steps computed by a recording
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

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values for one token of one text."""
        return self._lines.token_bytes

    def takes(self, prompts: Sequence[int], limits: Sequence[int]) -> bool:
        """Whether `start` would begin texts of these prompt lengths and limits now. Only one group
        is read at a time, and lines that do not fit wait for a text to end. True for a single text
        if there is nothing to wait for; `start` refuses it if it does not fit."""
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
        # Stored only now, so that an error (out of memory, for example) leaves no trace.
        self._joining = None if self._read_piece(joining) else joining
        self._collect()
        self._drop_finished()
        return begun

    @torch.inference_mode()
    def step(self) -> list[Generation]:
        """Reads a piece of the waiting prompts and writes one token of every live text; returns the
        texts whose token has now reached the host, finished ones included."""
        self._drop_finished()
        if self._joining is not None and self._read_piece(self._joining):
            self._joining = None
            self._drop_finished()
        if self._live:
            longest = max(text.cached for text in self._live) + 1
            found = self._replayed(len(self._live), longest)
            if found is None:
                found = self._written(len(self._live), longest)
            self._note(self._live, found)
        advanced = self._collect()
        self._drop_finished()
        return advanced

    def record(
        self, recorder: GraphRecorder, texts: Sequence[int], rooms: Sequence[int], batch: Batch
    ) -> bool:
        """Records steps for these numbers of texts and rooms (tokens for each text), and proves
        each recording on the texts of `batch` against the same step unrecorded. No text may be live
        before; none is afterwards. False if the lines of the largest recording do not fit into
        `most_bytes`."""
        if not self._lines.pin(max(texts), max(rooms)):
            return False
        self._hold_state()
        self._pinned_state = self._state
        self._out = torch.zeros(2, max(texts), device=self._backbone.device)
        begun = self.start(batch, [max(rooms) - max(batch.prompt_lengths)] * batch.rows)
        while self._joining is not None:
            self.step()
        for room in sorted(rooms):
            for count in sorted(texts):
                self._record(recorder, count, room)
        for text in begun:
            text.cancel()
        self._collect()
        self._chosen.clear()
        self._drop_finished()
        return True

    @torch.inference_mode()
    def _record(self, recorder: GraphRecorder, texts: int, room: int) -> None:
        live = self._live[:texts]
        longest = max((text.cached for text in live), default=0) + 1
        before = self._state.clone()
        self._set_count(len(live))

        def work() -> None:
            self._out[:, :texts] = self._written(texts, room, padded=True)

        def proved(replay: Work) -> str:
            if not live or longest > room or not self._lines.pinned:
                return f"no golden text of at most {room} tokens"
            self._state.copy_(before)
            wanted = self._written(len(live), longest)
            after = self._state.clone()
            self._state.copy_(before)
            replay()
            return self._difference(wanted, after)

        replay = recorder.record(f"{texts} texts of {room}", work, proved)
        self._state.copy_(before)
        if replay is not None:
            self._steps[texts, room] = replay

    def _difference(self, wanted: torch.Tensor, state: torch.Tensor) -> str:
        """Why a recording is wrong, "" if it is right. It must choose the same tokens as the step
        itself, with the same log-probabilities up to the order of a sum, and leave the other lines
        alone. In half precision it may choose the other of two equally probable tokens."""
        found = self._out[:, : wanted.shape[1]]
        apart = float((found[1] - wanted[1]).abs().max())
        if not apart <= PROOF_TOLERANCE[self._backbone.dtype]:
            return f"log-probabilities differ by {apart:.2g}"
        exact = self._backbone.dtype == torch.float32
        if exact and not torch.equal(self._state[0], state[0]):
            return "it chooses another token"
        return "" if torch.equal(self._state[1:], state[1:]) else "it changes another text"

    def _replayed(self, count: int, longest: int) -> torch.Tensor | None:
        """The result of `_written`, f32 [2, count], by the smallest recording that fits; None
        without one."""
        if not self._steps or not self._lines.pinned:
            return None
        fitting = [key for key in self._steps if key[0] >= count and key[1] >= longest]
        if not fitting:
            return None
        self._set_count(count)
        self._steps[min(fitting, key=math.prod)]()
        self.replayed += 1
        return self._out[:, :count]

    def _set_count(self, count: int) -> None:
        if count != self._padded:
            self._count.fill_(count)
            self._padded = count

    def _written(self, rows: int, longest: int, padded: bool = False) -> torch.Tensor:
        """f32 [2, rows]: the next token of each of the first lines and its log-probability, from
        the first `longest` places of the lines. It never waits, and its shapes depend only on its
        arguments, so that it can be recorded.

        `padded`: only the first `_count` lines have texts. The other lines are computed too, on
        place 0, but write to the spare line, because a prompt may be in their own line.
        """
        tokens, positions, places = self._state[:, :rows].clone()
        lines: torch.Tensor | None = None
        real: torch.Tensor | None = None
        advance: torch.Tensor | None = None
        if padded:
            line = torch.arange(rows, device=places.device)
            real = line < self._count
            advance = real.to(torch.int64)
            # Arithmetic, because a number in torch.where would be copied to the device.
            lines = (line - self._lines.lines) * advance + self._lines.lines
            places = places * advance
        place = torch.arange(longest, device=places.device)
        seen = (place <= places[:, None])[:, None, :]
        cache = self._lines.writing(places, longest, lines)
        everywhere = positions[:, None].expand(3, -1, -1)
        hidden = self._backbone.extend(tokens[:, None], everywhere, seen, cache)
        found = self._most_probable(hidden[:, -1])
        chosen = found[0].to(torch.int64)
        if real is None or advance is None:
            self._state[1:, :rows] += 1
        else:  # padding may have the state of a text whose prompt is being read
            self._state[1:, :rows] += advance
            chosen = torch.where(real, chosen, tokens)
        self._state[0, :rows] = chosen
        return found

    def _most_probable(self, hidden: torch.Tensor) -> torch.Tensor:
        log_probs = torch.log_softmax(self._backbone.head(hidden).float(), dim=-1)
        best = log_probs.max(dim=-1)
        return torch.stack([best.indices.float(), best.values])

    def _read_piece(self, joining: _Joining) -> bool:
        """Reads the next piece; returns whether it was the last one. Then the texts are live."""
        rows, columns = len(joining.texts), joining.columns
        most = columns if self._backbone.whole_prompts else max(1, self._piece // rows)
        first, last = joining.done, min(joining.done + most, columns)
        cache = self._lines.reading(joining.line, rows, first, last)
        hidden = self._backbone.read(joining.prompt, first, last, cache)
        place = joining.lengths - 1 - first
        here = last_states(hidden, (place + 1).clamp(1, last - first)).squeeze(1)
        if joining.last is not None:  # of rows that end in this piece or before it
            here = torch.where((place >= 0)[:, None], here, joining.last)
        joining.last, joining.done = here, last
        if last == columns:
            self._join(joining, here)
        return last == columns

    def _join(self, joining: _Joining, last: torch.Tensor) -> None:
        line, rows = len(self._live), len(joining.texts)
        for number, text in enumerate(joining.texts):
            if joining.line != line:  # texts ended while these prompts were being read
                self._lines.move(joining.line + number, line + number, text.cached)
        self._state[1, line : line + rows] = joining.following
        self._state[2, line : line + rows] = joining.lengths
        found = self._most_probable(last)
        self._state[0, line : line + rows] = found[0].to(torch.int64)
        self._note(joining.texts, found, prompt=True)
        self._live += joining.texts

    def _note(self, texts: Sequence[Generation], found: torch.Tensor, prompt: bool = False) -> None:
        """Notes `found` f32 [2, texts], the next token of each text and its log-probability."""
        for text in texts:
            text.chosen += 1
            text.cached += not prompt
        self._chosen.append(_Chosen(tuple(texts), Download(found)))

    def _collect(self) -> list[Generation]:
        """Reads the chosen tokens, except those of the last `behind` steps while there is more to
        compute."""
        keep = self._behind if any(not text.all_chosen for text in self._live) else 0
        ready = [self._chosen.popleft() for _ in range(len(self._chosen) - keep)]
        if ready:
            ready[-1].values.wait()  # only the newest needs a wait
        advanced: list[Generation] = []
        for chosen in ready:
            for text, token, log_prob in zip(
                chosen.texts, *chosen.values.array().tolist(), strict=True
            ):
                if not text.finished:
                    text.add(int(token), log_prob, int(token) in self._end_tokens)
                    advanced.append(text)
        return list(dict.fromkeys(advanced))

    # `takes` calls it outside inference mode, and the lines were made inside
    @torch.inference_mode()
    def _drop_finished(self) -> None:
        """Frees the lines of texts that need no further token, and drops prompts whose texts have
        all finished."""
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
            self._state = self._pinned_state

    def _hold_state(self) -> None:
        if self._state.shape[1] < self._lines.lines:
            more = self._lines.lines - self._state.shape[1]
            self._state = torch.nn.functional.pad(self._state, (0, more))


def _room(prompts: Sequence[int], limits: Sequence[int]) -> int:
    """Tokens that a line must hold: the padded prompts, and the longest text with its limit. The
    last token of a text is never cached."""
    return max(max(prompts), max(p + limit for p, limit in zip(prompts, limits, strict=True)))
