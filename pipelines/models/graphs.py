"""Recorded forwards. On a GPU each is a CUDA graph, which one call replays instead of a launch for
every kernel.

A recording computes on the same memory each time, so it has buffers of fixed size, a bucket. Real
rows and columns are copied into the smallest bucket that holds them. The rest is padding, which
never affects a real row. Only `CudaCapture` differs between devices; `DirectCapture` runs the same
work over the same buffers, so that everything else is tested on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import torch

from pipelines.models.backbone import TextInputs

Work = Callable[[], None]
MIB: Final = 1 << 20
# Runs before a capture, because cuBLAS and other libraries allocate and choose on first use.
WARM_RUNS: Final = 2
# Most padded tokens for each real one: beyond it the padding costs more than the launches.
MOST_PADDING: Final = 2.0
ROWS: Final = (1, 2, 4, 8, 16)
COLUMNS: Final = (64, 128, 256, 512, 1024)
# Tokens of one recorded batch. With more, a large model's kernels take longer than their launches.
MOST_TOKENS: Final = 2048
LABEL_ROUND: Final = 16  # the label columns of a bucket are a multiple of this


class Capture(Protocol):
    """How work is recorded on a device. Used by one thread."""

    def record(self, work: Work) -> Work:
        """Runs `work`, records it, and returns a function that replays it. Raises RuntimeError (of
        which torch.OutOfMemoryError is a subclass) if that fails."""

    def free_bytes(self) -> float:
        """Memory that is free on the device now."""


class DirectCapture:
    """Replays by calling the work itself."""

    def record(self, work: Work) -> Work:
        work()
        return work

    def free_bytes(self) -> float:
        return math.inf


class CudaCapture:
    """CUDA graphs (torch.cuda.graph), all in one memory pool. Not run on CUDA. It keeps these
    rules:

    - The work is run on the capturing stream first. A capture may neither allocate outside its pool
      nor wait, and the first call of a library does both.
    - The mode is `thread_local`, because the heartbeat asks the driver for free memory meanwhile.
      In the default mode, a forbidden call by any thread would break the capture; this thread makes
      none.
    - One pool for all graphs: what a graph allocates is no longer needed once it has run, and
      graphs run one after another on one stream. Results that outlive a replay are in buffers made
      beforehand.
    - The same stream for every capture: the allocator reuses blocks of a pool within a stream only.
    - A replay reads the addresses of the capture. The caller keeps every buffer alive, and never
      replaces one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def record(self, work: Work) -> Work:
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_RUNS):
                work()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            work()
        replay: Work = graph.replay
        return replay

    def free_bytes(self) -> float:
        return float(torch.cuda.mem_get_info(self._device)[0])


def choose_capture(device: torch.device, asked: bool = True) -> tuple[Capture | None, str]:
    """(how forwards are recorded, or None, and the reason)."""
    if not asked:
        return None, "not recorded: as configured"
    if device.type != "cuda":
        return None, "not recorded: a CPU has no launches to save"
    return CudaCapture(device), "CUDA graphs"


@dataclass(eq=False)
class GraphRecorder:
    """Records one bucket after another while memory and time last, and keeps the reason for each
    dropped bucket.

    `keep_free` bytes stay free for batches that are not recorded; `seconds` bounds the time of all
    recordings together.
    """

    capture: Capture
    keep_free: int = 0
    seconds: float = 20.0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._ends = self.clock() + self.seconds
        self._full = ""  # why no further bucket is tried
        self.kept: list[str] = []
        self.dropped: list[str] = []

    def record(self, name: str, work: Work, prove: Callable[[Work], str]) -> Work | None:
        """Returns a function that replays `work`, or None. `prove` runs it and returns why its
        answers are wrong, "" if they are right."""
        why = self._full or self._over()
        replay: Work | None = None
        if not why:
            try:
                replay = self.capture.record(work)
                why = prove(replay)
            except torch.OutOfMemoryError:
                why = self._full = "memory ends"
            except RuntimeError as error:  # torch's error for work that cannot be captured
                why = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        if why:
            self.dropped.append(f"{name} ({why})")
            return None
        self.kept.append(name)
        return replay

    def _over(self) -> str:
        free = self.capture.free_bytes()
        if free < self.keep_free:
            self._full = (
                f"{free / MIB:,.0f} MiB are free, {self.keep_free / MIB:,.0f} are for batches"
            )
        elif self.clock() > self._ends:
            self._full = f"{self.seconds:g} s are over"
        return self._full

    def __str__(self) -> str:
        parts = [f"{len(self.kept)} recorded: {', '.join(self.kept) or 'none'}"]
        if self.dropped:
            more = f" and {len(self.dropped) - 3} more" if len(self.dropped) > 3 else ""
            parts.append(f"dropped: {', '.join(self.dropped[:3])}{more}")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class GraphBucket:
    """The size of a recorded batch to classify: rows and prompt columns."""

    rows: int
    columns: int

    @property
    def tokens(self) -> int:
        return self.rows * self.columns

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


def buckets(
    rows: Sequence[int] = ROWS, columns: Sequence[int] = COLUMNS, most: int = MOST_TOKENS
) -> tuple[GraphBucket, ...]:
    """All buckets, the smallest first, so that they are recorded before memory runs out."""
    every = (GraphBucket(r, c) for r in rows for c in columns)
    return tuple(sorted((b for b in every if b.tokens <= most), key=lambda b: (b.tokens, b.rows)))


class Stack(Protocol):
    """What a recording computes: `Backbone._stack` without a cache."""

    def __call__(
        self, inputs: TextInputs, causal: int, behind: torch.Tensor | None
    ) -> torch.Tensor: ...


class StackGraphs:
    """The text stack over prompts and label columns, recorded for several buckets.

    The encoders, with their own shapes, run before it, and the heads after it. All buckets are
    views of the same buffers, which hold the largest; `label_columns` follow the prompts in each.
    """

    def __init__(
        self, stack: Stack, like: TextInputs, most: Sequence[GraphBucket], label_columns: int
    ) -> None:
        """`like` is any input of the stack: the buffers take its dtypes."""
        self._stack = stack
        self._labels = -(-max(label_columns, 1) // LABEL_ROUND) * LABEL_ROUND
        self._replays: dict[GraphBucket, Work] = {}
        self._only: GraphBucket | None = None
        self.taken = 0  # forwards computed by a recording
        rows = max(bucket.rows for bucket in most)
        places = max(bucket.rows * self._width(bucket) for bucket in most)
        seen = max(bucket.rows * self._labels * self._width(bucket) for bucket in most)
        device, size = like.embeddings.device, like.embeddings.shape[2]
        self._tokens = torch.zeros(places, dtype=like.tokens.dtype, device=device)
        self._positions = torch.zeros(3 * places, dtype=like.positions.dtype, device=device)
        self._embeddings = torch.zeros(places * size, dtype=like.embeddings.dtype, device=device)
        self._out = torch.zeros_like(self._embeddings)
        self._seen = torch.zeros(seen, dtype=torch.bool, device=device)
        # Padded label columns see themselves: attention without any key would give NaN.
        own = torch.eye(self._labels, dtype=torch.bool, device=device)
        self._own = own.expand(rows, -1, -1)
        self._by_token: torch.Tensor | None = None
        self._each: tuple[int, ...] = ()
        if like.by_token is not None:
            self._each = tuple(like.by_token.shape[2:])
            self._by_token = like.by_token.new_zeros(places * math.prod(self._each))

    @property
    def recorded(self) -> tuple[GraphBucket, ...]:
        return tuple(self._replays)

    @torch.inference_mode()
    def record(
        self, bucket: GraphBucket, recorder: GraphRecorder, prove: Callable[[], str]
    ) -> None:
        """Records one bucket. `prove` runs batches that fit this bucket, which computes them; it
        returns why their answers are wrong."""
        inputs, seen, out = self._views(bucket)
        seen.copy_(self._blank(bucket))

        def work() -> None:
            out.copy_(self._stack(inputs, bucket.columns, seen))

        def proved(replay: Work) -> str:
            self._replays[bucket] = replay
            with self._only_this(bucket):
                before = self.taken
                return prove() or ("" if self.taken > before else "no golden input fits")

        if recorder.record(str(bucket), work, proved) is None:
            self._replays.pop(bucket, None)

    def run(
        self, inputs: TextInputs, causal: int, behind: torch.Tensor | None
    ) -> torch.Tensor | None:
        """The result of the stack, or None where no recording fits."""
        rows, columns = inputs.tokens.shape
        labels = columns - causal
        bucket = self._bucket(rows, causal) if labels <= self._labels else None
        if bucket is None:
            return None
        held, seen, out = self._views(bucket)
        # What an earlier batch left in the padding would be harmless, unless it was NaN.
        held.embeddings.zero_()
        seen.copy_(self._blank(bucket))
        first = bucket.columns
        moved = (
            (slice(causal), slice(causal)),
            (slice(causal, None), slice(first, first + labels)),
        )
        for here, there in moved:
            held.tokens[:rows, there] = inputs.tokens[:, here]
            held.embeddings[:rows, there] = inputs.embeddings[:, here]
            held.positions[:, :rows, there] = inputs.positions[:, :, here]
            if held.by_token is not None and inputs.by_token is not None:
                held.by_token[:rows, there] = inputs.by_token[:, here]
            if behind is not None:
                seen[:rows, :labels, there] = behind[:, :, here]
        self._replays[bucket]()
        self.taken += 1
        if not labels:
            return out[:rows, :causal].clone()
        return torch.cat([out[:rows, :causal], out[:rows, first : first + labels]], dim=1)

    def _bucket(self, rows: int, columns: int) -> GraphBucket | None:
        fitting = [b for b in self._replays if b.rows >= rows and b.columns >= columns]
        if self._only is not None:
            return self._only if self._only in fitting else None
        best = min(fitting, key=lambda bucket: bucket.tokens, default=None)
        if best is None or best.tokens > MOST_PADDING * rows * columns:
            return None
        return best

    @contextmanager
    def _only_this(self, bucket: GraphBucket) -> Iterator[None]:
        self._only = bucket
        try:
            yield
        finally:
            self._only = None

    def _width(self, bucket: GraphBucket) -> int:
        return bucket.columns + self._labels

    def _blank(self, bucket: GraphBucket) -> torch.Tensor:
        """bool [rows, label columns, columns]: each label column sees itself."""
        own = self._own[: bucket.rows]
        return torch.nn.functional.pad(own, (bucket.columns, 0))

    def _views(self, bucket: GraphBucket) -> tuple[TextInputs, torch.Tensor, torch.Tensor]:
        """(the inputs, what the label columns see, the result) of a bucket."""
        rows, width = bucket.rows, self._width(bucket)
        count = rows * width

        def view(flat: torch.Tensor, *shape: int) -> torch.Tensor:
            return flat[: math.prod(shape)].view(shape)

        size = self._embeddings.numel() // self._tokens.numel()
        inputs = TextInputs(
            view(self._tokens, rows, width),
            view(self._embeddings, rows, width, size),
            view(self._positions, 3, rows, width),
        )
        if self._by_token is not None:
            by_token = self._by_token[: count * math.prod(self._each)]
            inputs = replace(inputs, by_token=by_token.view(rows, width, *self._each))
        seen = view(self._seen, rows, self._labels, width)
        return inputs, seen, view(self._out, rows, width, size)
