import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipelines
from pipelines.bundle import golden
from pipelines.errors import BadInput, BundleRefused
from pipelines.features import NAMES
from pipelines.models.qwen import patches
from pipelines.pipeline import Pipeline
from pipelines.types import Part, Prediction, Sample
from tests.support import tolerance
from tests.support.opcount import OpCount
from tests.support.tinybundle import LABELS, jpeg, wav


@pytest.fixture(scope="module")
def pipeline(tiny_bundle: Path) -> Pipeline:
    return pipelines.load(tiny_bundle, device="cpu", threads=1)


def text(content: str) -> Part:
    return Part("text", content)


PARTS = (
    text("the pump hums"),
    text("nothing to report since the start of the shift, apart from a rattle near the gate"),
    Part("image", jpeg()),
    Part("image", jpeg(40, 90, seed=3)),
    Part("audio", wav()),
    Part("audio", wav(2.3, 8000, 300.0)),
)


def answered(answer: Prediction | BadInput) -> Prediction:
    assert isinstance(answer, Prediction), answer
    return answer


def assert_same(one: Prediction, other: Prediction) -> None:
    assert (one.id, one.label, one.text, one.stamp) == (
        other.id,
        other.label,
        other.text,
        other.stamp,
    )
    ours, theirs = ({s.label: s for s in answer.scores} for answer in (one, other))
    assert ours.keys() == theirs.keys()
    tolerance.PROBABILITY.check(
        [ours[label].probability for label in theirs], [s.probability for s in theirs.values()]
    )
    tolerance.LOG_PROBABILITY.check(
        [ours[label].log_prob for label in theirs], [s.log_prob for s in theirs.values()]
    )
    assert one.closed_set_mass == pytest.approx(other.closed_set_mass, rel=1e-3, nan_ok=True)
    assert (one.embedding is None) == (other.embedding is None)
    if one.embedding is not None and other.embedding is not None:
        tolerance.EMBEDDING.check(one.embedding, other.embedding)
    assert dict(one.features) == pytest.approx(dict(other.features), abs=1e-3, nan_ok=True)


samples = st.builds(
    lambda parts, task, labels, wanted: Sample(
        "", tuple(parts), task, labels if task == "classify" else (), wanted, 4
    ),
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=4),
    st.sampled_from(("classify", "classify", "embed", "generate")),
    st.sampled_from(((), (), ("yes", "no"), ("stop", "stop line", "run"))),
    st.booleans(),
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(samples, min_size=2, max_size=6))
def test_answers_do_not_depend_on_company(pipeline: Pipeline, mixed: list[Sample]) -> None:
    named = [replace(sample, id=str(n)) for n, sample in enumerate(mixed)]
    together = pipeline.predict(named)
    for sample, answer in zip(named, together, strict=True):
        assert_same(answered(answer), answered(pipeline.predict([sample])[0]))


def test_every_modality_subset_answers_the_same_in_one_batch(pipeline: Pipeline) -> None:
    kinds = (PARTS[0], PARTS[2], PARTS[5])
    chosen = [[p for n, p in enumerate(kinds) if mask >> n & 1] for mask in range(1, 8)]
    named = [Sample(str(n), tuple(parts)) for n, parts in enumerate(chosen)]
    for sample, answer in zip(named, pipeline.predict(named), strict=True):
        assert_same(answered(answer), answered(pipeline.predict([sample])[0]))


def test_one_bad_row_does_not_hurt_the_others(pipeline: Pipeline) -> None:
    bad = Sample("bad", (text("fine"), Part("image", b"\xff\xd8\xff broken")))
    good = Sample("good", (text("fine"),))
    first, refused, last = pipeline.predict([good, bad, good])
    assert isinstance(refused, BadInput) and refused.field.startswith("parts[1]")
    assert_same(answered(first), answered(last))


def test_a_prediction_is_complete(pipeline: Pipeline) -> None:
    sample = Sample("x", PARTS[:1] + PARTS[2:3], want_embedding=True)
    answer = answered(pipeline.predict([sample])[0])
    assert answer.stamp == pipeline.stamp.hex and answer.text is None
    chances = [score.probability for score in answer.scores]
    assert sum(chances) == pytest.approx(1.0, abs=1e-6) and chances == sorted(chances)[::-1]
    assert {score.label for score in answer.scores} == set(LABELS)
    assert (answer.label, answer.confidence) == (answer.scores[0].label, chances[0])
    assert answer.margin == pytest.approx(chances[0] - chances[1], abs=1e-6)
    assert answer.embedding is not None
    assert float(np.linalg.norm(answer.embedding)) == pytest.approx(1.0, abs=1e-5)
    assert tuple(answer.features) == NAMES
    assert answer.features["output.label"] == LABELS.index(answer.label)
    assert answer.features["output.confidence"] == answer.confidence
    assert np.isnan(answer.features["audio.duration_s"])


def test_labels_may_come_with_the_request(pipeline: Pipeline) -> None:
    answer = answered(pipeline.predict([Sample("x", PARTS[:1], labels=("yes", "no"))])[0])
    assert {score.label for score in answer.scores} == {"yes", "no"}
    assert answer.features["output.label"] == len(LABELS)  # none of the bundle's own


@pytest.mark.parametrize(
    ("labels", "field", "reason"),
    [
        (("yes", " "), "labels[1]", "LABEL_EMPTY"),
        (("yes", "no", "yes "), "labels[2]", "LABEL_REPEATED"),
        (("y" * 200,), "labels[0]", "LABEL_TOO_LONG"),
        (tuple(str(n) for n in range(1001)), "labels", "TOO_MANY_LABELS"),
    ],
)
def test_label_sets_that_cannot_be_scored_are_refused(
    pipeline: Pipeline, labels: tuple[str, ...], field: str, reason: str
) -> None:
    with pytest.raises(BadInput) as refused:
        pipeline.prepare(Sample("x", PARTS[:1], labels=labels))
    assert (refused.value.field, refused.value.reason) == (field, reason)


def test_hundreds_of_labels_are_scored_exactly(pipeline: Pipeline) -> None:
    many = tuple(f"{a} {b}" for a in "abcdefghij" for b in "qrstuvwxyz0123456789")
    whole = answered(pipeline.predict([Sample("x", PARTS[:1], labels=many)])[0])
    few = answered(pipeline.predict([Sample("x", PARTS[:1], labels=many[37:40])])[0])
    scores = {score.label: score.log_prob for score in whole.scores}
    assert len(scores) == 200
    assert {s.label: scores[s.label] for s in few.scores} == pytest.approx(
        {s.label: s.log_prob for s in few.scores}, abs=1e-4
    )


def test_unknown_tasks_and_impossible_lengths_are_refused(pipeline: Pipeline) -> None:
    for change in ({"task": "translate"}, {"max_new_tokens": -1}, {"max_new_tokens": 10**9}):
        (answer,) = pipeline.predict([replace(Sample("x", PARTS[:1]), **change)])
        assert isinstance(answer, BadInput)


def test_streamed_text_is_the_predicted_text(pipeline: Pipeline) -> None:
    sample = Sample("x", PARTS, "generate", max_new_tokens=9)
    streamed = list(pipeline.generate(sample))
    answer = answered(pipeline.predict([sample])[0])
    assert "".join(streamed) == answer.text and all(streamed)
    assert 0.0 < answer.confidence <= 1.0 and answer.label == "" and answer.scores == ()


def test_a_cancelled_stream_stops(pipeline: Pipeline) -> None:
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 2

    list(pipeline.generate(Sample("x", PARTS[:1], "generate", max_new_tokens=200), cancelled))
    assert len(asked) == 3


def test_texts_and_batches_interleave(pipeline: Pipeline) -> None:
    sample = Sample("text", PARTS[:1], "generate", max_new_tokens=6)
    expected = answered(pipeline.predict([sample])[0]).text
    other = Sample("other", PARTS[2:3])
    alone = answered(pipeline.predict([other])[0])
    writing = pipeline.writing()
    row = pipeline.prepare(sample)
    (written,) = pipeline.start(writing, [row])
    while writing.live:
        assert_same(answered(pipeline.predict([other])[0]), alone)
        writing.step()
    assert pipeline.written(row, written).text == expected


def test_rows_can_be_prepared_from_many_threads(pipeline: Pipeline) -> None:
    wanted = [pipeline.prepare(Sample(str(n), PARTS[n % 3 :])) for n in range(6)]
    found: dict[int, Sequence[int]] = {}

    def prepare(n: int) -> None:
        found[n] = pipeline.prepare(Sample(str(n), PARTS[n % 3 :])).input_ids.tolist()

    threads = [threading.Thread(target=prepare, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[n] for n in range(6)] == [row.input_ids.tolist() for row in wanted]


def test_preparing_measures_its_stages(tiny_bundle: Path) -> None:
    row = Pipeline.load(tiny_bundle, device="cpu", threads=1).prepare(Sample("x", PARTS))
    assert row.decode_ms > 0.0 and row.preprocess_ms > 0.0
    assert row.modalities == ("audio", "image", "text")
    assert row.tokens == len(row.input_ids)


def test_a_batch_takes_no_text_to_write(pipeline: Pipeline) -> None:
    row = pipeline.prepare(Sample("x", PARTS[:1], "generate"))
    with pytest.raises(ValueError, match="use `start` for rows to generate"):
        pipeline.collate([row])


def test_golden_answers_pass_and_the_environment_is_reported(pipeline: Pipeline) -> None:
    assert all(result.ok for result in golden.check(pipeline))
    assert pipeline.env["device"] == "cpu" and pipeline.env["dtype"] == "float32"
    assert pipeline.env["threads"] == str(torch.get_num_threads()) == "1"
    assert pipeline.env["transformers"] and pipeline.env["attention"]
    assert set(pipeline.reasons) == {
        *("device", "dtype", "threads"),
        *("attention", "projections", "segments"),
    }
    assert all(pipeline.reasons.values())


@pytest.mark.parametrize(
    "setting", [{"device": "tpu"}, {"device": "cuda:99"}, {"dtype": "int4"}, {"threads": -1}]
)
def test_settings_that_cannot_be_are_refused(tiny_bundle: Path, setting: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        Pipeline.load(tiny_bundle, **setting)  # type: ignore[arg-type]


def test_a_missing_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleRefused):
        pipelines.load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "samples",
    [
        [Sample("a", (text("hums"),))],
        [Sample(str(n), PARTS[n : n + 2]) for n in range(4)],
        [Sample("e", PARTS[:3], task="embed", want_embedding=True)],
    ],
)
def test_a_batch_comes_to_the_host_in_one_copy_and_finish_only_reads(
    pipeline: Pipeline, samples: list[Sample]
) -> None:
    staged = pipeline.collate([pipeline.prepare(sample) for sample in samples])
    with OpCount() as forward:
        found = pipeline.forward(staged)
    assert forward.copies == 1 and forward.waits == 0
    with OpCount() as finish:
        answers = pipeline.finish(found)
    assert finish.launches == 0
    assert [answer.id for answer in answers] == [sample.id for sample in samples]


def test_pixels_travel_as_levels_and_become_the_numbers_of_the_library(pipeline: Pipeline) -> None:
    made = pipeline.prepare(Sample("p", (Part("image", jpeg()),)))
    assert made.pixel_values is not None and made.pixel_values.dtype == torch.uint8
    config = patches.DEFAULT
    levels = made.pixel_values.view(-1, 3, config.patch_size**2).float() / 255.0
    mean, std = (torch.tensor(v).view(1, 3, 1) for v in (config.mean, config.std))
    once = (levels - mean) / std
    expected = torch.stack([once] * config.temporal_patch_size, dim=2).flatten(1)
    assert torch.equal(patches.normalised(made.pixel_values, config), expected)
    staged = pipeline.collate([made])
    assert staged.batch.images is not None
    assert 8 * staged.batch.images.patches.nbytes == expected.nbytes
