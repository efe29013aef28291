"""Records the forwards of a loaded pipeline (models/graphs.py), and proves each recording with
golden answers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final

import torch

from pipelines.bundle import golden, golden_file
from pipelines.models.generate import Writing
from pipelines.models.graphs import GraphBucket, GraphRecorder, StackGraphs, buckets
from pipelines.pipeline import Pipeline
from pipelines.types import Prepared

ROOMS: Final = (128, 256, 512, 1024, 2048)  # tokens of a text, prompt included
# Share of the memory set aside for texts that the lines of recordings may take. The rest is for
# longer texts.
PINNED_SHARE: Final = 0.5


def record_batches(
    pipeline: Pipeline, recorder: GraphRecorder, some: Sequence[GraphBucket] | None = None
) -> None:
    """Makes small batches run as recordings from now on. `some` buckets replace the default ones of
    graphs.py; a bucket too small for the shortest golden input is skipped."""
    backbone = pipeline.backbone
    cases, tolerance = golden_file.read(pipeline.bundle)
    allowed = tolerance.between(golden.dtype_of(pipeline))
    rows = [(case, pipeline.prepare(case.sample)) for case in cases]
    shortest = min(row.tokens for _, row in rows)
    chosen = [b for b in some or buckets() if b.columns >= shortest]
    if not chosen:
        recorder.dropped.append(f"batches (the shortest golden prompt has {shortest} tokens)")
        return
    like = pipeline.batch_of([rows[0][1]])
    label_columns = max(tree.columns for tree in like.label_trees) if like.label_trees else 0
    with torch.inference_mode():
        graphs = StackGraphs(backbone.stack, backbone.columns(like), chosen, label_columns)
    for bucket in chosen:
        fitting = [pair for pair in rows if pair[1].tokens <= bucket.columns]
        group = (fitting * bucket.rows)[: bucket.rows]

        def prove(group: list[tuple[golden_file.GoldenCase, Prepared]] = group) -> str:
            found = pipeline.score([row for _, row in group])
            for (case, _), answer in zip(group, found, strict=True):
                if case.expected is None:
                    return f"{case.id} has no recorded answer"
                apart = golden.difference(answer, case.expected)
                if not apart <= allowed:
                    return f"{case.id} differs by {apart:.3g}, tolerance {allowed:g}"
            return ""

        backbone.recorded = graphs
        graphs.record(bucket, recorder, prove)
    backbone.recorded = graphs if graphs.recorded else None


def record_steps(
    pipeline: Pipeline,
    writing: Writing,
    recorder: GraphRecorder,
    most_texts: int,
    most_bytes: float,
) -> None:
    """Makes the steps of `writing`, which has no text yet, run as recordings where one fits its
    texts. `most_bytes` is the limit of its keys and values."""
    cases = golden_file.read(pipeline.bundle)[0]
    rows = sorted((pipeline.prepare(case.to_write) for case in cases), key=lambda row: row.tokens)
    texts = sizes_to(most_texts)
    line = writing.token_bytes * (most_texts + 1)
    rooms = [room for room in ROOMS if room * line <= PINNED_SHARE * most_bytes]
    shorter = list(islice((row for row in rows if rooms and row.tokens < rooms[-1]), most_texts))
    if not shorter:
        recorder.dropped.append("texts (no golden text fits into the memory set aside for texts)")
        return
    batch = pipeline.batch_of(shorter)
    writing.record(recorder, texts, rooms, batch)


def sizes_to(most: int) -> list[int]:
    """1, 2, 4, ... and `most` itself."""
    sizes = [1]
    while sizes[-1] < most:
        sizes.append(min(2 * sizes[-1], most))
    return sizes
