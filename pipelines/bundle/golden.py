"""Golden inputs: real JPEG, WAV and text files with the answers they must get.

The load self-test, restamping and the readiness probe use them to check that a loaded pipeline
still computes what it did when the bundle was made. The difference of an answer is the largest,
over all labels, of |difference of probability| and |difference of log probability| / max(1,
|expected|), and of the embedding's first components: one number, small when everything agrees,
whatever the scale of the scores.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Protocol

from pipelines.bundle.bundle import Bundle
from pipelines.bundle.golden_file import (
    FILE,
    Expected,
    GoldenCase,
    answer_of,
    document,
    embedding_head,
    read,
)
from pipelines.bundle.speed import Speed
from pipelines.errors import BadInput, BundleRefused
from pipelines.types import Prediction, Sample


class Answering(Protocol):
    """A loaded pipeline, as far as golden inputs need it."""

    @property
    def bundle(self) -> Bundle: ...
    @property
    def env(self) -> Mapping[str, str]: ...
    def predict(self, samples: Sequence[Sample]) -> list[Prediction | BadInput]: ...


@dataclass(frozen=True, slots=True)
class GoldenResult:
    case: str
    mix: str
    ok: bool
    worst_difference: float
    tolerance: float
    elapsed_ms: float
    reason: str


@dataclass(frozen=True, slots=True)
class MixResult:
    """The result of all golden runs of one mix: right and fast enough, or the reason why not."""

    mix: str
    ok: bool
    reason: str
    p50_ms: float
    max_ms: float
    limit_ms: float
    runs: int
    worst_difference: float
    tolerance: float


def dtype_of(pipeline: Answering) -> str:
    return pipeline.env.get("dtype", "float32").removeprefix("torch.")


def check(
    pipeline: Answering,
    mixes: Sequence[str] = (),
    clock: Callable[[], float] = time.perf_counter,
    texts: bool = True,
) -> list[GoldenResult]:
    """Runs every golden input (of the given mixes; without any, of all mixes) alone, as a caller
    would.

    With `texts`, the beginning of a generated answer is compared too, in float32.
    """
    cases, tolerance = read(pipeline.bundle)
    dtype = dtype_of(pipeline)
    allowed = tolerance.between(dtype)
    chosen = [case for case in cases if not mixes or case.mix in mixes]
    results = []
    for case in chosen:
        result = _run(pipeline, case, allowed, clock)
        if result.ok and texts and tolerance.compares_texts(dtype):
            result = _compare_text(pipeline, case, result)
        results.append(result)
    return results


def require(pipeline: Answering) -> list[GoldenResult]:
    """The load self-test. Raises BundleRefused("golden") naming the first input that fails."""
    results = check(pipeline)
    refuse_wrong(results)
    return results


def refuse_wrong(results: Sequence[GoldenResult]) -> None:
    """Raises BundleRefused("golden") for the first wrong answer."""
    for result in results:
        if not result.ok:
            raise BundleRefused("golden", f"{result.case} {result.reason}")


def probe(
    pipeline: Answering,
    mixes: Sequence[str] = (),
    runs: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> list[MixResult]:
    """Correctness and speed of every mix: `runs` passes over its golden inputs.

    Texts are generated in the first pass only, and are not timed.
    """
    speed = Speed.from_dict(pipeline.bundle.speed)
    device = pipeline.env.get("device", "cpu")
    wanted = mixes or tuple(dict.fromkeys(case.mix for case in read(pipeline.bundle)[0]))
    found = []
    for mix in wanted:
        results = [
            result for run in range(runs) for result in check(pipeline, (mix,), clock, run == 0)
        ]
        found.append(judge(mix, results, speed.limit_ms(device, mix)))
    return found


def judge(mix: str, results: Sequence[GoldenResult], limit: tuple[float, str]) -> MixResult:
    """One verdict over the runs of a mix: every answer right, the median within the limit."""
    times = [result.elapsed_ms for result in results]
    p50 = median(times) if times else math.inf
    wrong = next((result for result in results if not result.ok), None)
    reason = f"right, {p50:.1f} ms within {limit[0]:.1f} ms ({limit[1]})"
    if not results:
        reason = f"the bundle has no golden input of {mix}"
    elif wrong is not None:
        reason = f"{wrong.case}: {wrong.reason}"
    elif p50 > limit[0]:
        reason = f"median {p50:.1f} ms is over {limit[0]:.1f} ms ({limit[1]})"
    return MixResult(
        mix=mix,
        ok=bool(results) and wrong is None and p50 <= limit[0],
        reason=reason,
        p50_ms=p50,
        max_ms=max(times, default=math.inf),
        limit_ms=limit[0],
        runs=len(results),
        worst_difference=max((r.worst_difference for r in results), default=math.inf),
        tolerance=min((r.tolerance for r in results), default=0.0),
    )


def time_mixes(
    pipeline: Answering, runs: int = 7, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median milliseconds of one golden request, by mix, after a warm-up run of each."""
    check(pipeline, texts=False)
    results = [result for _ in range(runs) for result in check(pipeline, (), clock, texts=False)]
    mixes = dict.fromkeys(result.mix for result in results)
    return {mix: median(r.elapsed_ms for r in results if r.mix == mix) for mix in mixes}


def _run(
    pipeline: Answering, case: GoldenCase, tolerance: float, clock: Callable[[], float]
) -> GoldenResult:
    started = clock()
    answer = pipeline.predict([case.sample])[0]
    elapsed_ms = (clock() - started) * 1000
    worst, reason = _judge_answer(answer, case.expected)
    ok = worst <= tolerance
    if ok:
        reason = f"within {tolerance:g}"
    elif not reason:
        reason = f"differs by {worst:.3g} from the recorded answer, tolerance {tolerance:g}"
    return GoldenResult(case.id, case.mix, ok, worst, tolerance, elapsed_ms, reason)


def _compare_text(pipeline: Answering, case: GoldenCase, result: GoldenResult) -> GoldenResult:
    if case.expected is None or case.expected.text is None:
        return result
    text = _written(pipeline, case)
    if text == case.expected.text:
        return result
    reason = f"writes {text!r}, recorded was {case.expected.text!r}"
    return replace(result, ok=False, worst_difference=math.inf, reason=reason)


def _written(pipeline: Answering, case: GoldenCase) -> str | None:
    answer = pipeline.predict([case.to_write])[0]
    return None if isinstance(answer, BadInput) else answer.text


def _judge_answer(answer: Prediction | BadInput, expected: Expected | None) -> tuple[float, str]:
    """The difference, and the reason when it is infinite."""
    if isinstance(answer, BadInput):
        return math.inf, f"was refused as bad input ({answer})"
    if expected is None:
        return math.inf, "has no recorded answer; the bundle was never finished"
    return difference(answer, expected), ""


def difference(answer: Prediction, expected: Expected) -> float:
    """The difference that the module docstring defines; infinite when the labels differ or a value
    is NaN."""
    got = {score.label: (score.log_prob, score.probability) for score in answer.scores}
    embedding = embedding_head(answer)
    if set(got) != set(expected.scores) or len(embedding) != len(expected.embedding):
        return math.inf
    worst = [abs(a - b) for a, b in zip(embedding, expected.embedding, strict=True)]
    for label, (log_prob, probability) in expected.scores.items():
        worst.append(abs(got[label][0] - log_prob) / max(1.0, abs(log_prob)))
        worst.append(abs(got[label][1] - probability))
    return math.inf if any(math.isnan(value) for value in worst) else max(worst, default=math.inf)


def record(pipeline: Answering) -> dict[str, object]:
    """golden.json of this bundle with the answers this pipeline gives now.

    Raises BundleRefused("golden") when an input gets no answer, or one that is not finite.
    """
    cases, tolerance = read(pipeline.bundle)
    written: Any = pipeline.bundle.json(FILE)["cases"]
    finished = []
    for case, item in zip(cases, written, strict=True):
        answer = pipeline.predict([case.sample])[0]
        if isinstance(answer, BadInput):
            raise BundleRefused("golden", f"{case.id} was refused as bad input ({answer})")
        expected = answer_of(case.id, answer) | {"text": _written(pipeline, case)}
        finished.append({**item, "mix": case.mix, "expected": expected})
    return document(finished, tolerance.by_dtype, dtype_of(pipeline))
