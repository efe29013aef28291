"""Measures the default bundle on data it has never seen: `python -m recipes.triage.evaluate`.

All inputs go through the served pipeline. Wordings, handwritten digits and seeds are held out.
Confidence is measured after the bundle's own temperature.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from tqdm import tqdm

from pipelines.pipeline import EMBEDDED
from pipelines.types import MODALITIES, SUBSETS, Modality, Part, Prediction, Sample, Task
from recipes.triage import data, outliers
from recipes.triage.data import Example
from recipes.triage.wordings import Split

if TYPE_CHECKING:
    from pipelines.pipeline import Pipeline

BUNDLE = EMBEDDED
TEST_SEED, TUNE_SEED, OUTLIER_SEED = 9001, 9002, 9003
# With bins of fifty rows, chance alone adds about .01 to the calibration error; a thousand rows a
# subset halve that.
PER_SUBSET = 1_000
DESCRIBED_PER_SUBSET = 100
OUTLIERS = 150
BINS = 15
_BATCH = 32
# Of each modality: the field of an Example that holds it, and its MIME type.
_MEDIA: dict[Modality, tuple[str, str]] = {
    "text": ("note", ""),
    "image": ("jpeg", "image/jpeg"),
    "audio": ("wav", "audio/wav"),
}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelledAnswers:
    """The pipeline's answers to labelled examples, one row each.

    `log_probs` [N, 6] in the order of data.LABELS, `truth` the right label's place, `mass` the
    closed-set mass; `slices` and `modalities` as the examples had them.
    """

    log_probs: Floats
    truth: NDArray[np.int64]
    mass: Floats
    slices: tuple[dict[str, str], ...]
    modalities: tuple[tuple[Modality, ...], ...]

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(self.log_probs.argmax(axis=1) == self.truth)

    def probabilities(self, temperature: float) -> Floats:
        return np.asarray(softmax(self.log_probs / temperature, axis=1))


def sample_of(example: Example, id: str = "", task: Task = "classify") -> Sample:
    """The example as a caller would send it: note, photo, sound."""
    given = ((name, getattr(example, field), mime) for name, (field, mime) in _MEDIA.items())
    parts = (Part(name, value, mime) for name, value, mime in given if value is not None)
    return Sample(id, tuple(parts), task=task)


def without(example: Example, gone: Modality) -> Example:
    """The same station with the same label, but one modality left out."""
    return replace(example, **{_MEDIA[gone][0]: None})  # type: ignore[arg-type]


def modalities_of(example: Example) -> tuple[Modality, ...]:
    return tuple(name for name in MODALITIES if getattr(example, _MEDIA[name][0]) is not None)


def held_out(seed: int, split: Split, per_subset: int) -> Iterator[Example]:
    """`per_subset` examples of each subset of the modalities, spread evenly over the slices."""
    rng = np.random.default_rng(seed)
    for number in range(per_subset):
        site, shift = data.SITES[number % 3], data.SHIFTS[number // 3 % 2]
        for subset in SUBSETS:
            yield data.example(rng, site=site, shift=shift, split=split, modalities=subset)


def ask(pipeline: Pipeline, samples: Sequence[Sample]) -> list[Prediction]:
    """Raises the error of a refused input: none of these inputs may be refused."""
    answers = []
    for start in range(0, len(samples), _BATCH):
        for answer in pipeline.predict(list(samples[start : start + _BATCH])):
            if not isinstance(answer, Prediction):
                raise answer
            answers.append(answer)
    return answers


def answers_to(
    pipeline: Pipeline, examples: Iterable[Example], total: int, what: str
) -> LabelledAnswers:
    predictions: list[Prediction] = []
    kept: list[Example] = []
    for chunk in chunks(tqdm(examples, total=total, desc=what, mininterval=2)):
        predictions += ask(pipeline, [sample_of(example) for example in chunk])
        kept += chunk
    scores = [{s.label: s.log_prob for s in answer.scores} for answer in predictions]
    return LabelledAnswers(
        log_probs=np.array([[row[label] for label in data.LABELS] for row in scores]),
        truth=np.array([data.LABELS.index(example.label) for example in kept]),
        mass=np.array([answer.closed_set_mass for answer in predictions]),
        slices=tuple(example.slices for example in kept),
        modalities=tuple(modalities_of(example) for example in kept),
    )


def chunks(examples: Iterable[Example]) -> Iterator[list[Example]]:
    rest = iter(examples)
    return iter(lambda: list(islice(rest, _BATCH)), [])


def log_loss(answers: LabelledAnswers, temperature: float, rows: slice = slice(None)) -> float:
    """Mean negative log-likelihood of the right label, in nats."""
    chosen = answers.probabilities(temperature)[np.arange(len(answers.truth)), answers.truth]
    return float(-np.log(np.maximum(chosen[rows], 1e-12)).mean())


def fit_temperature(answers: LabelledAnswers) -> tuple[float, str]:
    """(temperature, reason). Fitted on every second row; used only if the other rows improve.

    log T is searched between log 0.5 and log 3: an unbounded fit diverges where a model makes
    almost no errors.
    """
    from scipy.optimize import minimize_scalar

    fitted_on, judged_on = slice(0, None, 2), slice(1, None, 2)
    found = minimize_scalar(
        lambda log_t: log_loss(answers, math.exp(log_t), fitted_on),
        bounds=(math.log(0.5), math.log(3.0)),
        method="bounded",
    )
    temperature = round(math.exp(float(found.x)), 3)
    before, after = log_loss(answers, 1.0, judged_on), log_loss(answers, temperature, judged_on)
    if after < before:
        return temperature, f"held-out log loss {before:.4f} -> {after:.4f}"
    return 1.0, f"T = {temperature} would not help: held-out log loss {before:.4f} -> {after:.4f}"


def calibration_error(confidence: Floats, right: NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error over bins of equal width (Guo et al. 2017, section 2)."""
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(bin_of, confidence - right, minlength=bins)
    return float(np.abs(gap).sum() / len(confidence))


def scores(answers: LabelledAnswers, temperature: float, rows: NDArray[np.bool_]) -> dict[str, Any]:
    right = answers.right[rows]
    confidence = answers.probabilities(temperature).max(axis=1)[rows]
    return {
        "examples": int(rows.sum()),
        "accuracy": _round(right.mean()),
        "ece": _round(calibration_error(confidence, right)),
        "mean_confidence": _round(confidence.mean()),
    }


def measure(pipeline: Pipeline, temperature: float, per_subset: int = PER_SUBSET) -> dict[str, Any]:
    """Every figure of the card, at this temperature."""
    examples = list(
        tqdm(
            held_out(TEST_SEED, "test", per_subset),
            total=per_subset * len(SUBSETS),
            desc="drawing",
            mininterval=2,
        )
    )
    answers = answers_to(pipeline, examples, len(examples), "answering")
    everything = np.ones(len(examples), dtype=bool)
    full = [example for example in examples if modalities_of(example) == MODALITIES]
    return {
        "examples": len(examples),
        "overall": scores(answers, temperature, everything)
        | {
            "log_loss": _round(log_loss(answers, temperature)),
            "ece_before_temperature": _round(
                calibration_error(answers.probabilities(1.0).max(axis=1), answers.right)
            ),
            "majority_share": _round(np.bincount(answers.truth).max() / len(answers.truth)),
        },
        "by_modalities": _by(answers, temperature, ["+".join(m) for m in answers.modalities]),
        "by_label": _by(answers, temperature, [data.LABELS[t] for t in answers.truth]),
        "by_site": _by(answers, temperature, [tags["site"] for tags in answers.slices]),
        "by_shift": _by(answers, temperature, [tags["shift"] for tags in answers.slices]),
        "confusion": _confusion(answers),
        "ablation": _ablation(pipeline, full),
        "describe": _described(pipeline, examples),
        "closed_set_mass": _masses(pipeline, answers),
    }


def _by(answers: LabelledAnswers, temperature: float, group: list[str]) -> dict[str, Any]:
    names = np.array(group)
    return {name: scores(answers, temperature, names == name) for name in dict.fromkeys(group)}


def _confusion(answers: LabelledAnswers) -> dict[str, dict[str, int]]:
    """Counts by true label, then by given label."""
    counts = np.zeros((len(data.LABELS), len(data.LABELS)), dtype=int)
    np.add.at(counts, (answers.truth, answers.log_probs.argmax(axis=1)), 1)
    return {
        true: {given: int(counts[i, j]) for j, given in enumerate(data.LABELS)}
        for i, true in enumerate(data.LABELS)
    }


def _ablation(pipeline: Pipeline, full: Sequence[Example]) -> dict[str, Any]:
    """Accuracy on examples with all modalities, and with one of them left out of the request."""
    whole = answers_to(pipeline, full, len(full), "all three").right.mean()
    found: dict[str, Any] = {"all": _round(whole)}
    for gone in MODALITIES:
        part = answers_to(
            pipeline, (without(example, gone) for example in full), len(full), f"no {gone}"
        )
        found[f"without_{gone}"] = _round(part.right.mean())
    return found


def _described(pipeline: Pipeline, examples: Sequence[Example]) -> dict[str, Any]:
    """The share of exactly right descriptions by subset, and of each word in them."""
    taken = examples[: DESCRIBED_PER_SUBSET * len(SUBSETS)]
    exact: dict[str, list[bool]] = {}
    by_word: dict[str, list[bool]] = {}
    written = ask(pipeline, [sample_of(example, task="generate") for example in taken])
    for example, answer in zip(taken, written, strict=True):
        text, modalities = answer.text or "", modalities_of(example)
        wanted = data.description(example.truth, modalities)
        exact.setdefault("+".join(modalities), []).append(text == wanted)
        for name, ok in _word_checks(example, text, wanted):
            by_word.setdefault(name, []).append(ok)
    return {
        "examples": len(taken),
        "exact": {name: _round(np.mean(oks)) for name, oks in exact.items()},
        "words": {name: _round(np.mean(oks)) for name, oks in by_word.items()},
    }


def _word_checks(example: Example, text: str, wanted: str) -> list[tuple[str, bool]]:
    got, right = text.replace(",", "").split(), wanted.replace(",", "").split()
    if len(got) != len(right):
        return [("well-formed", False)]
    truth, names = example.truth, {"well-formed": ""}
    if example.jpeg is not None:
        names |= {"number": str(truth.unit), "lamp": truth.lamp, "sign": truth.sign}
    if example.wav is not None:
        names["sound"] = truth.sound
    if example.note is not None:
        names["note"] = truth.note
    given = [word.strip(";") for word in got]
    return [(name, value in given if value else True) for name, value in names.items()]


def _masses(pipeline: Pipeline, known: LabelledAnswers) -> dict[str, Any]:
    """The closed-set mass of stations and of out-of-distribution inputs."""
    rng = np.random.default_rng(OUTLIER_SEED)
    outlier_parts = {
        "text": [Part("text", outliers.text(rng, "test")) for _ in range(OUTLIERS)],
        "image": [Part("image", outliers.picture(rng, "test")) for _ in range(OUTLIERS)],
        "audio": [Part("audio", outliers.sound(rng, "test")) for _ in range(OUTLIERS)],
    }
    found = {"stations": _spread(known.mass)}
    limit = float(np.quantile(known.mass, 0.05))
    for kind, parts in outlier_parts.items():
        answers = ask(pipeline, [Sample(str(i), (part,)) for i, part in enumerate(parts)])
        mass = np.array([answer.closed_set_mass for answer in answers])
        found[f"other_{kind}"] = _spread(mass) | {
            "below_5_percent_of_stations": _round((mass < limit).mean())
        }
    return found


def _spread(values: Floats) -> dict[str, float]:
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return {"p05": _round(low), "median": _round(middle), "p95": _round(high)}


def _round(value: Any) -> float:
    return round(float(value), 4)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.triage.evaluate")
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    parser.add_argument("--per-subset", type=int, default=PER_SUBSET)
    arguments = parser.parse_args()
    from pipelines.pipeline import Pipeline as Loaded

    pipeline = Loaded.load(arguments.bundle)
    temperature = float(json.loads((arguments.bundle / "labels.json").read_text())["temperature"])
    print(json.dumps(measure(pipeline, temperature, arguments.per_subset), indent=1))


if __name__ == "__main__":
    main()
