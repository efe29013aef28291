"""Classification in process: the embedded bundle, and the random thinker against the ceiling."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.gpu import thinker
from benchmarks.gpu.measure import (
    arguments,
    head,
    left,
    p50,
    p99,
    product_flops,
    profile,
    row,
    show,
    show_kernels,
    timed,
)
from benchmarks.support.bound import sample
from benchmarks.support.payloads import pool
from pipelines.batch import Batch, mapped
from pipelines.collate import collate
from pipelines.models import heads
from pipelines.models.backbone import Backbone
from pipelines.models.graphs import (
    DirectCapture,
    GraphBucket,
    GraphRecorder,
    StackGraphs,
    choose_capture,
)
from pipelines.pipeline import Pipeline

LABELS = 6
MOST_APART = (
    0.02  # of the largest state: bfloat16 keeps 8 bits, and padding changes the order of sums
)


def embedded(bundle: str, device: torch.device, small: bool) -> None:
    show("\n### embedded bundle: collate, forward and finish of prepared rows")
    threads = 1 if small else "auto"
    pipeline = Pipeline.load(bundle, device=str(device), threads=threads, allow_dirty=True)
    show(pipeline.reasons)
    sizes = (1, 4) if small else (1, 8, 32, 128)
    rows = [pipeline.prepare(sample(i, one)) for i, one in enumerate(pool(max(sizes)))]
    head("rows", "p50 ms", "p99 ms", "rows/s", "GPU busy ms", "launches", "waits")
    for size in sizes:

        def whole(batch: Any = rows[:size]) -> object:
            return pipeline.finish(pipeline.forward(pipeline.collate(batch)))

        times, found = timed(whole, device, 0.3 if small else 1.0), profile(whole, device)
        rate = 1e3 * size / p50(times)
        cells = (f"{found.busy_ms:.2f}", f"{found.launches:.0f}", f"{found.waits:.0f}")
        row(size, f"{p50(times):.2f}", f"{p99(times):.2f}", f"{rate:.0f}", *cells)


def large(device: torch.device, small: bool, budget: float) -> None:
    show("\n### random thinker,", "small" if small else "3B dimensions", thinker.dtype_of(small))
    model = thinker.backbone(small, device)
    rng = np.random.default_rng(0)
    rows = [thinker.prepared(model, rng, small, "classify") for _ in range(2 if small else 16)]
    labels = [tuple(int(t) for t in rng.integers(20, 600, 4)) for _ in range(LABELS)]
    top = product_flops(device, thinker.dtype_of(small), small)
    show(f"{model.weight_bytes / 2**30:.2f} GiB; ceiling {top / 1e12:.2f} TFLOP/s; {model.reasons}")
    names = "rows,text stack,tokens,p50 ms,rows/s,of ceiling,GPU busy ms,wall / busy,launches"
    head(*names.split(","))
    last = None
    for size in (1, 2) if small else (1, 2, 8, 16):
        if left(budget) < 12:
            show("no time left")
            break
        batch = collate(rows[:size], lambda _: labels, model.geometry)
        there = mapped(batch, lambda tensor: tensor.to(device))
        single = collate(rows[:1], lambda _: labels, model.geometry)
        alone = mapped(single, lambda tensor: tensor.to(device))

        @torch.inference_mode()
        def forward(there: Any = there) -> object:
            return heads.run(model, there)

        for recorded in (False, True):
            how = record(model, there, alone) if recorded else "launched"
            took, last = (
                p50(timed(forward, device, 0.3 if small else 1.0)),
                profile(forward, device),
            )
            share = size * thinker.row_flops(model, rows[0], small) / took * 1e3 / top
            row(
                size,
                how,
                rows[0].tokens,
                f"{took:.1f}",
                f"{1e3 * size / took:.1f}",
                f"{share:.2f}",
                f"{last.busy_ms:.1f}",
                f"{took / last.busy_ms:.2f}" if last.busy_ms else "-",
                f"{last.launches:.0f}",
            )
            model.recorded = None
    if last is not None:
        show_kernels("the last of these", last)


def record(model: Backbone, batch: Batch, one: Batch) -> str:
    """Records the text stack for this batch; `one` has a single row. On a CPU it uses the same
    buffers, without a graph."""
    capture, _ = choose_capture(model.device)
    recorder = GraphRecorder(capture or DirectCapture())
    bucket = GraphBucket(batch.rows, batch.prompt_columns)
    with torch.inference_mode():
        wanted = heads.run(model, batch).log_probs
        like, labels = model.columns(one), batch.label_trees[0].columns
        graphs = model.recorded = StackGraphs(model.stack, like, [bucket], labels)

        def prove() -> str:
            apart = (heads.run(model, batch).log_probs - wanted).abs() / wanted.abs().clamp(1.0)
            worst = float(apart.max())
            return "" if worst <= MOST_APART else f"differs by {worst:.2g}"

        graphs.record(bucket, recorder, prove)
    return "recorded" if recorder.kept else str(recorder)


def main() -> None:
    given = arguments()
    device = torch.device(given.device)
    embedded(given.bundle, device, given.small)
    large(device, given.small, given.budget)


if __name__ == "__main__":
    main()
