"""Recorded forwards over buffers of fixed size: the same answers in any batch, the choice of the
bucket, fallback, proof. `DirectCapture` covers everything but the calls of torch.cuda."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.bundle import golden_file
from pipelines.collate import collate
from pipelines.models.backbone import Backbone
from pipelines.models.generate import Writing
from pipelines.models.generation import Generation
from pipelines.models.graphs import (
    DirectCapture,
    GraphBucket,
    GraphRecorder,
    StackGraphs,
    Work,
    buckets,
    choose_capture,
)
from pipelines.models.heads import run
from pipelines.models.label_tree import Tokens
from pipelines.pipeline import Pipeline
from pipelines.recording import record_batches, record_steps, sizes_to
from pipelines.types import Prepared
from tests.support import tinygemma, tinyrows
from tests.support.opcount import OpCount, TouchedMemory

LABELS = ((65, 66, 258), (90, 258), (65, 70, 71, 258))
SMALL = buckets((1, 2, 4), (64, 128))


class Stale(DirectCapture):
    """Its replays compute nothing, as if a buffer had been replaced after the capture."""

    def record(self, work: Work) -> Work:
        work()
        return lambda: None


class Small(DirectCapture):
    """Memory ends with the third recording."""

    left = 3

    def record(self, work: Work) -> Work:
        self.left -= 1
        if not self.left:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().record(work)


class Addressed(DirectCapture):
    """`strange`: memory that a replay found elsewhere than the capture did. A CUDA graph would have
    gone on with that of the capture."""

    def __init__(self) -> None:
        self.strange: set[int] = set()

    def record(self, work: Work) -> Work:
        with TouchedMemory() as captured:
            work()

        def replay() -> None:
            with TouchedMemory() as touched:
                work()
            self.strange |= touched.given - captured.given

        return replay


def scored_by(labels: tuple[Tokens, ...]) -> Callable[[Prepared], tuple[Tokens, ...]]:
    return lambda _: labels


def recorded(capture: DirectCapture) -> GraphRecorder:
    return GraphRecorder(capture, clock=lambda: 0.0)


@pytest.fixture(scope="module")
def pipeline(tiny_bundle: Path) -> Pipeline:
    return Pipeline.load(tiny_bundle, device="cpu", threads=1)


@pytest.fixture(params=["qwen", "gemma"])
def family(request: pytest.FixtureRequest) -> tuple[Backbone, list[Prepared]]:
    if request.param == "qwen":
        return tinyrows.tiny_backbone(), tinyrows.five_rows()
    from pipelines.models.gemma.backbone import load_backbone

    state = tinygemma.random_model().state_dict()
    config = tinygemma.gemma_config()
    backbone = load_backbone(config, state, torch.device("cpu"), torch.float32)
    return backbone, tinygemma.six_rows()


# ---- batches -------------------------------------------------------------------------------------


def test_a_recorded_batch_scores_as_the_same_batch_does(
    family: tuple[Backbone, list[Prepared]],
) -> None:
    backbone, rows = family
    dice = random.Random(3)
    batches = [
        collate(dice.sample(rows, dice.randint(1, 4)), scored_by(labels), backbone.geometry)
        for labels in (LABELS, LABELS[:1], ())
        for _ in range(3)
    ]
    with torch.inference_mode():
        wanted = [run(backbone, batch) for batch in batches]
        like = backbone.columns(batches[0])
        graphs = StackGraphs(backbone.stack, like, SMALL, label_columns=6)
        backbone.recorded = graphs
        recorder = recorded(DirectCapture())
        shortest = min(rows, key=lambda row: row.tokens)
        one = collate([shortest], lambda _: LABELS, backbone.geometry)
        backbone.recorded = None
        right = run(backbone, one).log_probs
        backbone.recorded = graphs

        def prove() -> str:
            return "" if torch.allclose(run(backbone, one).log_probs, right, atol=2e-5) else "wrong"

        for bucket in SMALL:
            graphs.record(bucket, recorder, prove)
        assert graphs.recorded == SMALL and graphs.taken == len(SMALL)
        before = graphs.taken
        for batch, want in zip(batches, wanted, strict=True):
            found = run(backbone, batch)
            torch.testing.assert_close(found.log_probs, want.log_probs, atol=2e-5, rtol=2e-5)
            torch.testing.assert_close(found.embeddings, want.embeddings, atol=2e-5, rtol=2e-5)
    assert graphs.taken > before  # some need more padding than they are worth


def test_what_a_batch_leaves_in_the_padding_reaches_no_other() -> None:
    backbone = tinyrows.tiny_backbone()
    with torch.inference_mode():
        batch = collate([tinyrows.row(["abcd"])], lambda _: LABELS, backbone.geometry)
        inputs = backbone.columns(batch)
        graphs = StackGraphs(backbone.stack, inputs, SMALL, 4)
        ok: list[str] = []
        recorder = recorded(DirectCapture())
        graphs.record(GraphBucket(2, 64), recorder, lambda: ok.append("") or _taken(graphs, inputs))  # type: ignore[func-returns-value]
        wide = collate([tinyrows.row(["x" * 50])] * 2, lambda _: (), backbone.geometry)
        poison = backbone.columns(wide)
        poison.embeddings.fill_(math.nan)
        graphs.run(poison, wide.prompt_columns, None)
        pair = collate([tinyrows.row(["y" * 40])] * 2, lambda _: LABELS, backbone.geometry)
        assert graphs.run(inputs, inputs.tokens.shape[1], None) is None  # mostly padding
        backbone.recorded = graphs
        assert torch.isfinite(run(backbone, pair).log_probs).all()
    assert graphs.taken == 3


def _taken(graphs: StackGraphs, inputs: Any) -> str:
    return "" if graphs.run(inputs, inputs.tokens.shape[1], None) is not None else "not taken"


def test_golden_answers_prove_each_bucket_of_a_pipeline(pipeline: Pipeline) -> None:
    samples = [case.sample for case in golden_file.read(pipeline.bundle)[0]]
    wanted = pipeline.predict(samples)
    recorder = recorded(DirectCapture())
    record_batches(pipeline, recorder, SMALL)
    graphs = pipeline.backbone.recorded
    assert isinstance(graphs, StackGraphs) and len(graphs.recorded) == len(recorder.kept) > 3
    before = graphs.taken
    for sample, want in zip(samples, wanted, strict=True):
        (found,) = pipeline.predict([sample])
        for one, other in zip(found.scores, want.scores, strict=True):  # type: ignore[union-attr]
            assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)
    assert graphs.taken > before
    pipeline.backbone.recorded = None


def test_a_recording_with_wrong_answers_is_dropped_and_answers_stay_right(
    pipeline: Pipeline,
) -> None:
    recorder = recorded(Stale())
    record_batches(pipeline, recorder, SMALL)
    assert not recorder.kept and pipeline.backbone.recorded is None
    # What the first recording itself left in the buffer is not an answer to any other batch.
    assert all("differs by" in why for why in recorder.dropped)
    assert "dropped: " in str(recorder)


def test_recordings_end_with_memory_and_with_time(pipeline: Pipeline) -> None:
    recorder = recorded(Small())
    record_batches(pipeline, recorder, SMALL)
    assert len(recorder.kept) == 2 and all("memory ends" in why for why in recorder.dropped)
    short = GraphRecorder(Full(), keep_free=900 << 20)
    record_batches(pipeline, short, SMALL)
    assert "600 MiB are free, 900 are for batches" in short.dropped[0] and not short.kept
    times = iter([0.0, 1.0, 30.0])
    late = GraphRecorder(DirectCapture(), seconds=20, clock=lambda: next(times, 30.0))
    record_batches(pipeline, late, SMALL)
    assert len(late.kept) == 1 and "20 s are over" in late.dropped[0]
    pipeline.backbone.recorded = None


class Full(DirectCapture):
    def free_bytes(self) -> float:
        return 600 << 20


def test_buckets_are_small_and_a_cpu_records_nothing() -> None:
    assert sizes_to(6) == [1, 2, 4, 6] and sizes_to(1) == [1]
    assert all(bucket.tokens <= 2048 for bucket in buckets())
    where, why = choose_capture(torch.device("cpu"))
    assert where is None and "no launches to save" in why
    assert choose_capture(torch.device("cuda:0"), asked=False)[1].endswith("as configured")


# ---- texts ---------------------------------------------------------------------------------------


def begin(backbone: Backbone, writing: Writing, rows: Sequence[Prepared]) -> list[Generation]:
    return writing.start(collate(rows, lambda _: (), backbone.geometry), [10] * len(rows))


def steps_recorded(backbone: Backbone, rows: Sequence[Prepared], **more: Any) -> Writing:
    writing = Writing(backbone, lambda ids: "", [], **more)
    recorder = recorded(DirectCapture())
    batch = collate(rows[:2], lambda _: (), backbone.geometry)
    assert writing.record(recorder, [1, 2, 6], [64, 256], batch)
    assert recorder.kept and not writing.live
    return writing


@pytest.mark.parametrize(("behind", "piece"), [(0, 1024), (1, 9)])
def test_recorded_steps_write_the_same_texts_in_any_company(
    family: tuple[Backbone, list[Prepared]], behind: int, piece: int
) -> None:
    backbone, rows = family
    expected = []
    for made in rows:
        alone = Writing(backbone, lambda ids: "", [])
        (text,) = begin(backbone, alone, [made])
        while alone.live:
            alone.step()
        expected.append(text.tokens)
    shortest = sorted(rows, key=lambda row: row.tokens)
    writing = steps_recorded(backbone, shortest, behind=behind, piece=piece)
    dice = random.Random(7)
    for _ in range(2):
        waiting = dice.sample(range(len(rows)), len(rows))
        begun: dict[int, Generation] = {}
        while waiting or writing.live:
            joining = waiting[-dice.randint(1, 2) :] if dice.random() < 0.7 else []
            group = [rows[n] for n in joining]
            if joining and writing.takes([row.tokens for row in group], [10] * len(group)):
                del waiting[-len(joining) :]
                begun |= dict(zip(joining, begin(backbone, writing, group), strict=True))
            writing.step()
        assert [begun[n].tokens for n in range(len(rows))] == expected
    assert writing.replayed > 10


def test_texts_that_no_recording_holds_are_written_all_the_same() -> None:
    backbone = tinyrows.tiny_backbone()
    short, long = tinyrows.row(["ab"]), tinyrows.row(["c" * 280])
    writing = steps_recorded(backbone, [short])
    pinned = writing.cache_bytes
    texts = begin(backbone, writing, [short])
    writing.step()
    assert writing.replayed == 1
    texts += begin(backbone, writing, [long])  # beyond the pinned room: all move to other blocks
    while writing.live:
        writing.step()
    assert writing.replayed == 1 and writing.cache_bytes == pinned
    alone = Writing(backbone, lambda ids: "", [])
    (wanted,) = begin(backbone, alone, [short])
    while alone.live:
        alone.step()
    assert texts[0].tokens == wanted.tokens and len(texts[1].tokens) == 10
    begin(backbone, writing, [short])
    writing.step()
    assert writing.replayed == 2  # back in the pinned blocks


def test_a_replay_finds_its_memory_where_the_capture_did() -> None:
    """Also after texts that had more lines than the recordings: a larger state went with them."""
    backbone, capture = tinyrows.tiny_backbone(), Addressed()
    short, long = tinyrows.row(["ab"]), tinyrows.row(["c" * 280])
    writing = Writing(backbone, lambda ids: "", [])
    batch = collate([short] * 2, lambda _: (), backbone.geometry)
    assert writing.record(recorded(capture), [1, 2], [64, 256], batch)
    for rows in ([short, short], [long], [short]):
        begin(backbone, writing, rows)
        writing.step()
        if rows != [short, short]:
            while writing.live:
                writing.step()
    assert writing.replayed > 2 and not capture.strange


def test_batches_are_replayed_in_the_memory_of_their_capture(pipeline: Pipeline) -> None:
    samples = [case.sample for case in golden_file.read(pipeline.bundle)[0]]
    capture = Addressed()
    record_batches(pipeline, recorded(capture), SMALL)
    pipeline.predict(samples)
    assert isinstance(pipeline.backbone.recorded, StackGraphs)
    assert not capture.strange
    pipeline.backbone.recorded = None


def test_a_recorded_step_waits_for_nothing_and_copies_nothing_from_the_host() -> None:
    backbone = tinyrows.tiny_backbone()
    writing = steps_recorded(backbone, [tinyrows.row(["ab"])])
    (replay, *_) = writing._steps.values()
    with OpCount() as count, torch.inference_mode():
        replay()
    assert count.waits == 0 and not count.launched["lift_fresh"]


def test_a_step_that_is_recorded_wrongly_is_dropped() -> None:
    backbone = tinyrows.tiny_backbone()
    writing = Writing(backbone, lambda ids: "", [])
    recorder = recorded(Stale())
    batch = collate([tinyrows.row(["ab"]), tinyrows.row(["cde"])], lambda _: (), backbone.geometry)
    writing.record(recorder, [1, 2], [64], batch)
    assert not recorder.kept and len(recorder.dropped) == 2
    begin(backbone, writing, [tinyrows.row(["ab"])])
    writing.step()
    assert writing.replayed == 0


def test_the_lines_of_recordings_stay_within_the_memory_of_texts(pipeline: Pipeline) -> None:
    token = pipeline.writing().token_bytes
    most = 2 * 5 * 256 * token
    writing = pipeline.writing(most)
    recorder = recorded(DirectCapture())
    record_steps(pipeline, writing, recorder, 4, most)
    assert "4 texts of 256" in recorder.kept and "4 texts of 512" not in str(recorder)
    assert writing.cache_bytes == 5 * 256 * token
    none = recorded(DirectCapture())
    record_steps(pipeline, pipeline.writing(4096), none, 4, 4096)
    assert not none.kept and "memory set aside for texts" in none.dropped[0]
