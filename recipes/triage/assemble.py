"""Builds the default bundle from trained weights: `python -m recipes.triage.assemble`.

Writes a draft bundle, fits its temperature on the tuning set, measures it on the test set, runs a
reference stream through it, and writes the finished bundle with all results. Uses the weights of
the last training run or, with `--from-bundle`, those of the existing bundle.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from tqdm import tqdm

from pipelines import features
from pipelines.build import reference_profile
from pipelines.build.build import BundleSpec, write_bundle
from pipelines.bundle import golden, parameters
from pipelines.bundle.speed import Speed
from pipelines.bundle.tensors import to_bytes
from pipelines.features import PROJECTIONS, Projection
from pipelines.pipeline import EMBEDDED, Pipeline
from pipelines.types import MODALITIES, SUBSETS, Prediction, Sample, mix_of
from recipes.triage import card, data, drawing, settings, sounds, traffic
from recipes.triage import evaluate as evaluation
from recipes.triage.evaluate import BUNDLE, ask, chunks, modalities_of, sample_of

NAME = "triage-2026.11.25"
REFERENCE_ROWS = 4_500
TUNE_PER_SUBSET = 300
REFERENCE_SEED, GOLDEN_SEED = 9004, 9005

# Euros per decision. Stopping a line costs money, not evacuating during a fire costs more, and
# recognising a drill costs nothing. RowSampler are the truth, columns the decision.
_VALUE: Mapping[str, tuple[float, ...]] = {
    #                run on   watch  service  stop  evacuate  drill
    "run on":       (0.0,     -2.0,   -40.0, -300.0, -1500.0, -5.0),
    "watch":        (-25.0,   5.0,    -30.0, -280.0, -1500.0, -30.0),
    "service soon": (-150.0,  -60.0,  60.0,  -220.0, -1400.0, -150.0),
    "stop line":    (-900.0,  -700.0, -400.0, 250.0, -900.0,  -900.0),
    "evacuate":     (-9000.0, -8000.0, -7000.0, -2500.0, 2000.0, -9000.0),
    "ignore drill": (-10.0,   -15.0,  -60.0, -350.0, -1500.0, 0.0),
}  # fmt: skip
_WINDOW_S = {
    "run on": 3600.0,
    "watch": 3600.0,
    "service soon": 1800.0,
    "stop line": 60.0,
    "evacuate": 20.0,
    "ignore drill": 600.0,
}


@dataclass(frozen=True, slots=True)
class Trained:
    """The results of a training run. `facts` goes into training.json unchanged."""

    weights: Mapping[str, torch.Tensor]
    tokenizer: bytes
    facts: Mapping[str, Any]


def from_run(work: Path, machine: str) -> Trained:
    """The averaged weights of the last checkpoint in `work`; `machine` describes where it ran."""
    from recipes.triage.train import Recipe, restored

    training = restored(work)
    tokenizer = (work / "tokenizer.json").read_bytes()
    weights = training.averaged()
    made_with: Recipe = training.recipe
    facts = {
        "recipe": {field.name: getattr(made_with, field.name) for field in fields(made_with)},
        "steps": training.step,
        "train_seconds": round(training.seconds, 1),
        "pool_seconds": json.loads((work / "pool.json").read_text())["seconds"],
        "machine": machine,
    }
    return Trained(weights, tokenizer, facts)


_FACTS = ("recipe", "steps", "train_seconds", "pool_seconds", "machine")


def from_bundle(path: Path) -> Trained:
    """The weights of a bundle as if just trained, to measure it again after a change of code."""
    from safetensors.torch import load_file

    training = json.loads((path / "training.json").read_text())
    return Trained(
        load_file(path / "weights" / "model.safetensors"),
        (path / "tokenizer" / "tokenizer.json").read_bytes(),
        {name: training[name] for name in _FACTS},
    )


def assemble(trained: Trained, out: Path) -> str:
    """Writes the finished bundle to `out` (replacing what is there); returns its stamp."""
    with tempfile.TemporaryDirectory() as scratch:
        spec = _draft(trained)
        write_bundle(spec, Path(scratch) / "draft")
        pipeline = Pipeline.load(Path(scratch) / "draft")
        spec = _calibrated(spec, pipeline)
        temperature = float(spec.labels["temperature"])
        training = dict(spec.training) | {
            "held_out": evaluation.measure(pipeline, temperature),
            "reference_examples": REFERENCE_ROWS,
        }
        projection, profile = _reference(pipeline, temperature)
        spec = replace(
            spec,
            training=training,
            card=card.render(training),
            reference=profile,
            reference_files={
                "embedding.safetensors": to_bytes(
                    {
                        "mean": torch.from_numpy(projection.mean),
                        "axes": torch.from_numpy(projection.axes),
                    }
                )
            },
            speed=_speed(pipeline),
        )
        stamp = write_bundle(spec, Path(scratch) / "finished")
        finished = Pipeline.load(Path(scratch) / "finished")
        golden.require(finished)
        write_samples(finished, EMBEDDED.parent / "samples")
        if out.exists():
            shutil.rmtree(out)
        shutil.copytree(Path(scratch) / "finished", out)
    return stamp.hex


def _draft(trained: Trained) -> BundleSpec:
    data_id = hashlib.sha256(json.dumps(trained.facts["recipe"], sort_keys=True).encode())
    folder = Path(__file__).parent
    for source in sorted((*folder.glob("*.py"), *folder.glob("*.json"))):
        if source.stem in ("wordings", "phrases", "notes", "drawing", "sounds", "outliers", "data"):
            data_id.update(source.read_bytes())
    training = dict(trained.facts) | {
        "labels": list(data.LABELS),
        "parameters": sum(weight.numel() for weight in trained.weights.values()),
        "data_id": data_id.hexdigest()[:16],
    }
    return BundleSpec(
        name=NAME,
        weights=trained.weights,
        config=settings.model_config(),
        tokenizer=trained.tokenizer,
        preprocess=settings.preprocess(),
        template=parameters.write(settings.TEMPLATE),
        labels=_labels(1.0),
        objective=objective(),
        golden=golden_inputs(),
        training=training,
    )


def _labels(temperature: float) -> dict[str, Any]:
    return {
        "labels": [{"name": label, "text": label} for label in data.LABELS],
        "temperature": temperature,
    }


def objective() -> dict[str, Any]:
    """The value of right and wrong decisions, and how long acting on one is useful."""
    return {
        "unit": "EUR",
        "value": {truth: dict(zip(data.LABELS, row, strict=True)) for truth, row in _VALUE.items()},
        "window_s": _WINDOW_S,
    }


def _calibrated(spec: BundleSpec, pipeline: Pipeline) -> BundleSpec:
    total = TUNE_PER_SUBSET * len(SUBSETS)
    examples = evaluation.held_out(evaluation.TUNE_SEED, "tune", TUNE_PER_SUBSET)
    answers = evaluation.answers_to(pipeline, examples, total, "tuning")
    temperature, why = evaluation.fit_temperature(answers)
    fitted = {"value": temperature, "why": why, "examples": total}
    return replace(
        spec, labels=_labels(temperature), training=dict(spec.training) | {"temperature": fitted}
    )


def _reference(pipeline: Pipeline, temperature: float) -> tuple[Projection, dict[str, Any]]:
    """(projection of the embedding, profile) of one stretch of traffic in time order."""
    rng = np.random.default_rng(REFERENCE_SEED)
    examples = islice(traffic.stream(rng), REFERENCE_ROWS)
    answers: list[Prediction] = []
    truth, mixes, slices = [], [], []
    for chunk in chunks(tqdm(examples, total=REFERENCE_ROWS, desc="reference", mininterval=2)):
        answers += ask(pipeline, [replace(sample_of(e), want_embedding=True) for e in chunk])
        truth += [example.label for example in chunk]
        mixes += [mix_of(modalities_of(example)) for example in chunk]
        slices += [example.slices for example in chunk]
    embeddings = np.array([answer.embedding for answer in answers])
    projection = principal(embeddings)
    rows = [
        dict(answer.features)
        | _at_temperature(answer, temperature)
        | _projected(answer, projection)
        for answer in answers
    ]
    answered = reference_profile.ReferenceAnswers(
        confidence=[row["output.confidence"] for row in rows],
        predicted=[answer.label for answer in answers],
        truth=truth,
        labels=data.LABELS,
    )
    profile = reference_profile.build(
        np.array([features.vector(row) for row in rows]),
        features.schema(data.LABELS),
        mixes=mixes,
        slices=slices,
        answers=answered,
        made_from=f"{REFERENCE_ROWS} examples of recipes/triage/traffic.py, seed "
        f"{REFERENCE_SEED}, held-out wordings and digits",
    )
    return projection, profile


def _at_temperature(answer: Prediction, temperature: float) -> dict[str, float]:
    """Output features at the fitted temperature; the draft bundle answers at temperature 1."""
    scores = np.array([score.log_prob for score in answer.scores])
    sure = features.certainty(softmax(scores / temperature))
    return features.output_features(answer.label, data.LABELS, sure, answer.closed_set_mass)


def _projected(answer: Prediction, projection: Projection) -> dict[str, float]:
    assert answer.embedding is not None
    found = features.embedding_features(answer.embedding, projection)
    # The answer's embedding has length 1; its original length is already among the features.
    return {name: value for name, value in found.items() if name != "embedding.norm"}


def principal(embeddings: NDArray[np.float32]) -> Projection:
    """Mean and the first PROJECTIONS principal axes, scaled so that each projection has sd 1.

    The largest component of each axis is positive, so the same data give the same signs.
    """
    wide = embeddings.astype(np.float64)
    mean = wide.mean(axis=0)
    _, spread, axes = np.linalg.svd(wide - mean, full_matrices=False)
    axes, spread = axes[:PROJECTIONS], spread[:PROJECTIONS] / np.sqrt(len(wide))
    largest = np.abs(axes).argmax(axis=1)
    signs = np.sign(axes[np.arange(PROJECTIONS), largest])
    whitened = axes * (signs / np.maximum(spread, 1e-12))[:, None]
    return Projection(mean.astype(np.float32), whitened.astype(np.float32))


def golden_inputs() -> list[Sample]:
    """One small request of each mix; every second one has its parts in reverse order."""
    rng = np.random.default_rng(GOLDEN_SEED)
    samples = []
    for number, subset in enumerate(SUBSETS):
        shape = ((320, 240), (256, 192))[number % 2]
        example = data.example(
            rng,
            site=data.SITES[number % 3],
            shift=data.SHIFTS[number % 2],
            modalities=subset,
            size=shape,
            seconds=0.8 + 0.1 * number,
        )
        mix = "-".join(sorted(subset))
        sample = sample_of(example, mix)
        samples.append(Sample(mix, tuple(reversed(sample.parts)) if number % 2 else sample.parts))
    return samples


def write_samples(pipeline: Pipeline, folder: Path) -> None:
    """Three small files to try the server with, and its answer: a loose bearing, as a photo, a
    recording and a note."""
    rng = np.random.default_rng(GOLDEN_SEED)
    wanted = data.StationState("concern", "amber", "triangle", 3, "knock")
    jpeg = drawing.photograph(
        rng,
        drawing.Station(wanted.lamp, wanted.sign, wanted.unit),
        data.surroundings("a", "day")[0],
        "test",
        (640, 480),
    )
    wav = sounds.record(rng, wanted.sound, 0.5, 2.0)
    note = "Odd noise from the gearbox since lunch, please have a look soon."
    example = data.Example(note, jpeg, wav, data.label(wanted, MODALITIES), "", {}, wanted)
    answer = ask(pipeline, [sample_of(example)])[0]
    written = ask(pipeline, [sample_of(example, task="generate")])[0]
    folder.mkdir(exist_ok=True)
    (folder / "note.txt").write_text(note + "\n")
    (folder / "station.jpg").write_bytes(jpeg)
    (folder / "machine.wav").write_bytes(wav)
    expected = {"label": answer.label, "description": written.text}
    (folder / "answer.json").write_text(json.dumps(expected, indent=1) + "\n")


def _speed(pipeline: Pipeline, runs: int = 15) -> Speed:
    """Medians of single typical requests: 640x480, 2 s, one note."""
    rng = np.random.default_rng(GOLDEN_SEED)
    medians: dict[str, float] = {}
    device = pipeline.env["device"].split(":", 1)[0]
    for subset in SUBSETS:
        example = data.example(rng, modalities=subset, size=(640, 480), seconds=2.0)
        mix = mix_of(subset)
        times = [_milliseconds(pipeline, sample_of(example)) for _ in range(runs)]
        medians[mix] = round(median(times[3:]), 2)
    return Speed(baseline={device: medians})


def _milliseconds(pipeline: Pipeline, sample: Sample) -> float:
    started = time.perf_counter()
    ask(pipeline, [sample])
    return (time.perf_counter() - started) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.triage.assemble")
    parser.add_argument(
        "--work", type=Path, default=Path("build/triage"), help="folder of the training run"
    )
    parser.add_argument(
        "--machine",
        default=f"{os.cpu_count()} cores of {platform.machine()}",
        help="description of the training machine, for the card",
    )
    parser.add_argument("--from-bundle", action="store_true", help="keep the bundle's weights")
    parser.add_argument("--out", type=Path, default=BUNDLE)
    arguments = parser.parse_args()
    trained = (
        from_bundle(BUNDLE)
        if arguments.from_bundle
        else from_run(arguments.work, arguments.machine)
    )
    stamp = assemble(trained, arguments.out)
    print((arguments.out / "CARD.md").read_text())
    print(f"{arguments.out}: {stamp}")


if __name__ == "__main__":
    main()
