"""Texts: tokens a second compared with the limit set by reading the weights, and the launches of a
step."""

from __future__ import annotations

import time

import numpy as np
import torch

from benchmarks.gpu import thinker
from benchmarks.gpu.measure import (
    arguments,
    copy_bytes_s,
    head,
    left,
    p50,
    p99,
    profile,
    row,
    settle,
    show,
    show_kernels,
)
from pipelines.batch import Batch, mapped
from pipelines.collate import collate
from pipelines.models.generate import PIECE_TOKENS, Writing
from pipelines.models.graphs import DirectCapture, GraphRecorder, choose_capture


def record(writing: Writing, texts: int, room: int, batch: Batch) -> str:
    """Records the step of `texts` texts; on a CPU over the same buffers, without a graph."""
    capture, _ = choose_capture(batch.prompt_ids.device)
    recorder = GraphRecorder(capture or DirectCapture())
    writing.record(recorder, [texts], [-(-room // 64) * 64], batch)
    return "recorded" if recorder.kept else str(recorder)


def main() -> None:
    given = arguments(steps=64)
    device, small = torch.device(given.device), given.small
    model = thinker.backbone(small, device)
    bandwidth, read = copy_bytes_s(device, small), thinker.step_bytes(model)
    show(f"a token reads {read / 1e9:.2f} GB of weights: {1e3 * read / bandwidth:.2f} ms at least")
    head(
        "texts",
        "steps",
        "prompt",
        "start ms",
        "step p50 ms",
        "p99 ms",
        "tokens/s",
        "of bound",
        "launches",
        "waits",
    )
    rng = np.random.default_rng(0)
    found = None
    for size in (1, 2) if small else (1, 8, 32):
        rows = [thinker.prepared(model, rng, small, "generate") for _ in range(size)]
        there = mapped(collate(rows, lambda _: (), model.geometry), lambda t: t.to(device))
        for recorded in (False, True):
            if left(given.budget) < 12:
                show("no time left")
                break
            writing = Writing(model, lambda ids: "", (), int(device.type == "cuda"))
            limit = given.steps + 40
            how = record(writing, size, rows[0].tokens + limit, there) if recorded else "launched"
            settle(device)
            began = time.perf_counter()
            writing.start(there, [limit] * size)
            pieces = -(-size * rows[0].tokens // PIECE_TOKENS)
            for _ in range(pieces + 3):
                writing.step()
            start = 1e3 * (time.perf_counter() - began)
            times = []
            for _ in range(given.steps if not small else 8):
                began = time.perf_counter()
                writing.step()
                times.append(1e3 * (time.perf_counter() - began))
            found = profile(writing.step, device, 8)
            rate = 1e3 * size / p50(times)
            row(
                size,
                how,
                rows[0].tokens,
                f"{start:.0f}",
                f"{p50(times):.2f}",
                f"{p99(times):.2f}",
                f"{rate:.0f}",
                f"{rate * read / bandwidth / size:.2f}",
                f"{found.launches:.0f}",
                f"{found.waits:.0f}",
            )
    if found is not None:
        show_kernels("a step of the last of these", found)


if __name__ == "__main__":
    main()
