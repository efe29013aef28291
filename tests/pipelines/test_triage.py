"""The recipe of the default bundle, and the bundle that it made."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pipelines
from pipelines.models.tokens import DEFAULT, PromptTokenizer
from pipelines.pipeline import EMBEDDED, Pipeline
from pipelines.types import MODALITIES, SUBSETS, Part, Prediction, Sample
from recipes.triage import (
    card,
    data,
    drawing,
    evaluate,
    notes,
    outliers,
    settings,
    sounds,
    tokens,
    traffic,
    wordings,
)
from recipes.triage.assemble import objective, principal
from recipes.triage.evaluate import BUNDLE, LabelledAnswers
from recipes.triage.media_pool import MediaPool, _photo, _sound
from recipes.triage.train import Recipe, Training, run
from recipes.triage.training_rows import ANSWER, RowSampler
from recipes.triage.wordings import Split, Wordings

SPLITS: tuple[Split, ...] = ("train", "tune", "test")
TRUTHS = [
    data.StationState(*values)
    for values in itertools.product(
        notes.CLASSES, drawing.COLOURS, drawing.SHAPES, (0,), sounds.CLASSES
    )
]


# ---- the examples ----------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_example_to_the_byte() -> None:
    first, again, other = (data.example(np.random.default_rng(seed)) for seed in (4, 4, 5))
    assert first == again
    assert first.jpeg != other.jpeg


def test_an_example_is_a_real_note_jpeg_and_wav() -> None:
    example = data.example(np.random.default_rng(1), size=(640, 480), seconds=2.0)
    assert example.note and example.jpeg and example.wav
    with Image.open(io.BytesIO(example.jpeg)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (640, 480))
    with wave.open(io.BytesIO(example.wav)) as sound:
        assert sound.getnframes() / sound.getframerate() == pytest.approx(2.0)


def test_a_subset_of_the_modalities_is_a_subset_of_the_same_example() -> None:
    whole = data.example(np.random.default_rng(2))
    part = data.example(np.random.default_rng(2), modalities=["image"])
    assert (part.note, part.jpeg, part.wav) == (None, whole.jpeg, None)


def test_no_wording_is_in_two_splits() -> None:
    groups: list[Wordings[Any]] = [*wordings.BY_CLASS.values(), wordings.NEUTRAL]
    groups += [wordings.HEDGED, wordings.CORRECTIONS]
    assert len(groups) == 7
    for group in groups:
        clauses = [clause for split in SPLITS for clause in group.of(split)]
        assert len(set(clauses)) == len(clauses)
        assert all(group.of(split) for split in SPLITS)


def test_no_loose_word_of_training_is_a_held_out_clause() -> None:
    loose = {word for words in wordings.FRAGMENTS.values() for word in words}
    for group in wordings.BY_CLASS.values():
        assert not loose & {*group.tune, *group.test}


def test_no_handwritten_digit_is_in_two_splits() -> None:
    images = [d.tobytes() for s in SPLITS for unit in drawing.digits(s) for d in unit]
    assert len(images) == 1797
    assert len(set(images)) == len(images)


def test_the_label_rule_is_defined_for_every_state_and_subset() -> None:
    for truth, subset in itertools.product(TRUTHS, SUBSETS):
        assert data.label(truth, subset) in data.LABELS


def test_a_leak_outranks_a_drill_and_a_drill_outranks_the_rest() -> None:
    truth = data.StationState("drill", "red", "cross", 3, "hiss")
    assert data.label(truth, MODALITIES) == "evacuate"
    assert data.label(truth, ("text", "image")) == "ignore drill"
    assert data.label(truth, ["image"]) == "stop line"
    assert data.description(truth, MODALITIES) == "unit 3, red cross; hiss sound; drill note"


def test_no_two_modalities_determine_the_label_of_all_three() -> None:
    """Were it otherwise, a model could do well while ignoring the third."""
    for gone in MODALITIES:
        kept = [m for m in MODALITIES if m != gone]
        changed = [data.label(t, kept) != data.label(t, MODALITIES) for t in TRUTHS]
        assert np.mean(changed) > 0.2, gone


def test_a_client_can_draw_traffic_without_torch() -> None:
    code = (
        "import sys, numpy; from recipes.triage import traffic;"
        "next(traffic.stream(numpy.random.default_rng(1)));"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_traffic_keeps_the_stated_shares() -> None:
    rng = np.random.default_rng(6)
    drawn = [traffic.subset(rng) for _ in range(2000)]
    assert drawn.count(MODALITIES) / 2000 == pytest.approx(0.4, abs=0.04)
    assert set(drawn) == set(SUBSETS)


# ---- training --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool() -> MediaPool:
    torch.set_num_threads(2)
    rng = np.random.default_rng(11)
    photos = [_photo(rng) for _ in range(150)]
    clips = [_sound(rng) for _ in range(100)]
    return MediaPool(photos, clips)


def test_the_tokenizer_is_the_same_every_time_and_reads_any_text() -> None:
    first, again = (tokens.train(3, texts=400).to_str() for _ in range(2))
    assert first == again
    text = PromptTokenizer(first.encode(), DEFAULT, settings.TEMPLATE)
    odd = "Rauch an Pumpe 3! 煙 🚨"
    assert text.decode(text.label_ids(odd)) == odd


def test_a_killed_run_resumes_to_the_same_weights(pool: MediaPool, tmp_path: Path) -> None:
    recipe = Recipe(
        sense_steps=2,
        sense_photos=6,
        sense_sounds=3,
        answer_steps=2,
        late_steps=1,
        last_steps=1,
        batch=6,
    )
    tokenizer = tokens.train(recipe.seed, texts=400).to_str().encode()
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    straight.mkdir()
    killed.mkdir()
    whole = run(recipe, pool, tokenizer, straight)
    run(recipe, pool, tokenizer, killed, until=3)
    resumed = run(recipe, pool, tokenizer, killed)
    assert resumed.step == whole.step == recipe.steps
    average = resumed.averaged()
    for name, weight in whole.averaged().items():
        assert torch.equal(weight, average[name]), name


def test_a_checkpoint_of_another_recipe_is_not_continued(tmp_path: Path) -> None:
    tokenizer = tokens.train(7, texts=400).to_str().encode()
    Training(Recipe(batch=6), None, tokenizer).save(tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="another recipe"):
        Training(Recipe(batch=7), None, tokenizer).resume(tmp_path / "checkpoint.pt")


def test_rows_have_one_right_answer_and_outliers_none_of_the_labels(pool: MediaPool) -> None:
    tokenizer = tokens.train(7, texts=400).to_str().encode()
    text = PromptTokenizer(tokenizer, DEFAULT, settings.TEMPLATE)
    rows = RowSampler(pool, text, settings.special_ids())
    drawn = [rows.draw(np.random.default_rng(seed), ANSWER) for seed in range(120)]
    strange = [row for row in drawn if not row.description]
    assert strange
    for row in strange:
        assert text.decode(row.answers[row.right]) == outliers.ANSWER
    for row in drawn:
        if row.description:
            assert text.decode(row.answers[row.right]) in data.LABELS
            assert row.right < len(row.answers) == len(data.LABELS)


# ---- measuring -------------------------------------------------------------------------------


def _answers(log_probs: np.ndarray, truth: np.ndarray) -> LabelledAnswers:
    mass = np.exp(log_probs).sum(axis=1)
    return LabelledAnswers(log_probs, truth, mass, (), ())


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    confidence = np.full(100, 0.9)
    right = np.arange(100) < 70
    assert evaluate.calibration_error(confidence, right) == pytest.approx(0.2)
    assert evaluate.calibration_error(confidence, np.arange(100) < 90) == pytest.approx(0.0)


def test_temperature_is_bounded_and_only_kept_if_it_helps() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 6, 2000)
    scores = np.full((2000, 6), -5.0)
    scores[np.arange(2000), truth] = -0.05
    assert 0.5 <= evaluate.fit_temperature(_answers(scores, truth))[0] <= 3.0
    guessed = np.where(rng.random(2000) < 0.3, rng.integers(0, 6, 2000), truth)
    overconfident = np.full((2000, 6), -9.0)
    overconfident[np.arange(2000), guessed] = -0.01
    temperature, _ = evaluate.fit_temperature(_answers(overconfident, truth))
    assert temperature > 1.5


def test_embedding_axes_whiten_the_reference() -> None:
    rng = np.random.default_rng(5)
    mixed = rng.standard_normal((500, 40)) @ rng.standard_normal((40, 40))
    projection = principal(mixed.astype(np.float32))
    projected = (mixed - projection.mean) @ projection.axes.T
    assert np.cov(projected, rowvar=False) == pytest.approx(np.eye(16), abs=0.01)


def test_the_objective_prefers_the_right_decision_for_every_truth() -> None:
    value = objective()["value"]
    assert set(value) == set(objective()["window_s"]) == set(data.LABELS)
    for truth, row in value.items():
        assert set(row) == set(data.LABELS)
        assert max(row, key=lambda decision: row[decision]) == truth


# ---- the shipped bundle ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return pipelines.load(BUNDLE, allow_dirty=True)


@pytest.fixture(scope="module")
def training() -> dict[str, Any]:
    return dict(json.loads((BUNDLE / "training.json").read_text()))


def test_the_bundle_is_small() -> None:
    assert sum(path.stat().st_size for path in BUNDLE.rglob("*") if path.is_file()) <= 8_000_000


def test_the_bundle_contains_what_the_issue_asks_for(training: dict[str, Any]) -> None:
    held_out = training["held_out"]
    assert held_out["examples"] >= 2000
    assert 0.90 <= held_out["overall"]["accuracy"] <= 0.985
    assert held_out["overall"]["ece"] <= 0.03
    for gone in MODALITIES:
        lost = held_out["ablation"]["all"] - held_out["ablation"][f"without_{gone}"]
        assert lost >= 0.15, gone


def test_fresh_examples_are_answered_as_well_as_the_card_states(
    pipeline: Pipeline, training: dict[str, Any]
) -> None:
    examples = list(evaluate.held_out(20_261, "test", 30))
    answers = evaluate.answers_to(pipeline, examples, len(examples), "fresh")
    stated = training["held_out"]["overall"]["accuracy"]
    # Four standard errors of 210 examples.
    room = 4 * np.sqrt(stated * (1 - stated) / len(examples))
    assert answers.right.mean() == pytest.approx(stated, abs=room)


def test_the_card_agrees_with_training_json(training: dict[str, Any]) -> None:
    assert (BUNDLE / "CARD.md").read_text() == card.render(training)


def test_the_sample_files_get_a_label_and_a_description(pipeline: Pipeline) -> None:
    folder = EMBEDDED.parent / "samples"
    parts = (
        Part("text", (folder / "note.txt").read_bytes()),
        Part("image", (folder / "station.jpg").read_bytes()),
        Part("audio", (folder / "machine.wav").read_bytes()),
    )
    answer = pipeline.predict([Sample("readme", parts)])[0]
    assert isinstance(answer, Prediction)
    expected = json.loads((folder / "answer.json").read_text())
    assert answer.label == expected["label"]
    written = "".join(pipeline.generate(Sample("readme", parts, task="generate")))
    assert written == expected["description"]
