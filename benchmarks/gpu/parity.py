"""Compares the device with the CPU: golden answers, labels and probabilities of mixed requests."""

from __future__ import annotations

import torch

from benchmarks.gpu.measure import arguments, head, left, row, show
from benchmarks.support.bound import sample
from benchmarks.support.payloads import mixed_pool
from pipelines.bundle import golden
from pipelines.pipeline import Pipeline
from pipelines.types import Prediction

NEAR = 0.05  # if the CPU's answer has a smaller margin, another label counts as a near tie


def main() -> None:
    given = arguments()
    count = 14 if given.small else 1000
    samples = [sample(i, example) for i, example in enumerate(mixed_pool(count))]
    threads = 1 if given.small else "auto"
    cpu = Pipeline.load(given.bundle, device="cpu", threads=threads, allow_dirty=True)
    expected = [one for one in cpu.predict(samples) if isinstance(one, Prediction)]
    head(
        "format",
        "golden",
        "worst difference",
        "requests",
        "other labels",
        "not near-ties",
        "max dP",
    )
    for dtype in ("float32", "bfloat16"):
        if left(given.budget) < 15:
            show(f"no time left before {dtype}")
            return
        other = Pipeline.load(given.bundle, given.device, dtype, threads, allow_dirty=True)
        checks = golden.check(other)
        found = [one for one in other.predict(samples) if isinstance(one, Prediction)]
        flips = [a for a, b in zip(expected, found, strict=True) if a.label != b.label]
        worst = max(_apart(a, b) for a, b in zip(expected, found, strict=True))
        row(
            dtype,
            f"{sum(check.ok for check in checks)} of {len(checks)}",
            f"{max(check.worst_difference for check in checks):.1e}",
            len(expected),
            len(flips),
            sum(one.margin > NEAR for one in flips),
            f"{worst:.1e}",
        )
    if torch.device(given.device).type == "cuda":
        show(f"memory at most {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")


def _apart(ours: Prediction, theirs: Prediction) -> float:
    chances = {score.label: score.probability for score in theirs.scores}
    return max(abs(score.probability - chances[score.label]) for score in ours.scores)


if __name__ == "__main__":
    main()
