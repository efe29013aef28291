"""Trains the embedded default: `python -m recipes.triage.train`.

- four lessons: the vision and audio towers alone (`senses`); the whole model on every subset of the
  modalities; more notes made of fragments; more notes from a grammar;
- seeded: the rows of step n depend only on (seed, n), so that a killed run continues from its last
  checkpoint and ends with the same weights;
- the result is the running average of the weights, which is better calibrated than the last ones.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from tqdm import tqdm

from pipelines.collate import collate
from pipelines.models import heads
from pipelines.models.qwen.backbone import QwenOmniBackbone
from pipelines.models.tokens import DEFAULT as TEXT
from pipelines.models.tokens import PromptTokenizer
from recipes.triage import data, settings, tokens
from recipes.triage.media_pool import MediaPool, load_or_make
from recipes.triage.senses import Lesson
from recipes.triage.training_rows import ANSWER, LAST, LATE, Mix, RowSampler, TrainingRow


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines the weights, apart from code and libraries."""

    seed: int = 7
    photos: int = 16_000
    sounds: int = 10_000
    sense_steps: int = 1_100
    sense_photos: int = 64
    sense_sounds: int = 16
    sense_rate: float = 1e-3
    answer_steps: int = 1_700
    batch: int = 48
    answer_rate: float = 1.5e-3
    late_steps: int = 900
    late_rate: float = 1e-3
    last_steps: int = 1_000
    last_rate: float = 1.5e-3
    weight_decay: float = 0.02
    describe_weight: float = 0.5
    average: float = 0.998

    @property
    def lessons(self) -> tuple[tuple[int, float, Mix | None], ...]:
        """Steps, rate and rows of each, in order; without rows, only the towers learn."""
        return (
            (self.sense_steps, self.sense_rate, None),
            (self.answer_steps, self.answer_rate, ANSWER),
            (self.late_steps, self.late_rate, LATE),
            (self.last_steps, self.last_rate, LAST),
        )

    @property
    def steps(self) -> int:
        return sum(steps for steps, _, _ in self.lessons)


class Training:
    """The state of a run, which a checkpoint stores, and its training step."""

    def __init__(self, recipe: Recipe, pool: MediaPool | None, tokenizer: bytes) -> None:
        """With `pool` None, only the weights can be used."""
        self.recipe = recipe
        self.backbone = QwenOmniBackbone.fresh(settings.model_config(), recipe.seed)
        text = PromptTokenizer(tokenizer, TEXT, settings.TEMPLATE)
        self.rows = RowSampler(pool or MediaPool([], []), text, settings.special_ids())
        self.lesson = Lesson(pool or MediaPool([], []), self.rows, self.backbone, recipe.seed)
        self.step = 0
        self.seconds = 0.0
        model = [p for p in self.backbone.model.parameters() if p.requires_grad]
        self._weights = [*model, *self.lesson.readers.parameters()]
        self._average = [weight.detach().clone() for weight in self._weights]
        decayed = [w for w in self._weights if w.dim() > 1]
        plain = [w for w in self._weights if w.dim() <= 1]
        groups = [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))

    def advance(self) -> dict[str, float]:
        """One step: draw, forward and backward, update, average."""
        rng = np.random.default_rng((self.recipe.seed, self.step))
        progress, rate, mix = self._stage()
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        learnt = self._sense(rng, progress) if mix is None else self._answer(rng, mix)
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        self.step += 1
        # A short memory at first, so that the average forgets the random beginning.
        keep = min(self.recipe.average, (1 + self.step) / (20 + self.step))
        torch._foreach_lerp_(self._average, [w.detach() for w in self._weights], 1 - keep)
        return learnt

    def _stage(self) -> tuple[float, float, Mix | None]:
        """(progress of the current lesson from 0 to 1, learning rate, mix of rows).

        Each lesson warms up over 50 steps; the first stays there, the others fall along a cosine.
        """
        step = self.step
        for steps, rate, mix in self.recipe.lessons:
            if step < steps:
                rate *= min(1.0, (step + 1) / 50)
                if mix is not None:
                    rate *= 0.03 + 0.97 * (1 + math.cos(math.pi * step / steps)) / 2
                return step / steps, rate, mix
            step -= steps
        raise ValueError(f"step {self.step} is after the last lesson")

    def _sense(self, rng: Generator, progress: float) -> dict[str, float]:
        recipe = self.recipe
        losses = self.lesson.losses(rng, progress, recipe.sense_photos, recipe.sense_sounds)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def _answer(self, rng: Generator, mix: Mix) -> dict[str, float]:
        """Forward and backward in two halves of similar row length, which need less padding."""
        drawn = [self.rows.draw(rng, mix) for _ in range(self.recipe.batch)]
        drawn.sort(key=lambda row: row.prepared.tokens)
        half = len(drawn) // 2
        parts = [self._backward(part) for part in (drawn[:half], drawn[half:])]
        return {name: sum(part[name] for part in parts) for name in parts[0]}

    def _backward(self, rows: Sequence[TrainingRow]) -> dict[str, float]:
        """Adds these rows' share of the gradient of the answers' negative log-likelihood."""
        continuations = {id(row.prepared): row.continuations for row in rows}
        batch = collate(
            [row.prepared for row in rows],
            lambda prepared: continuations[id(prepared)],
            self.backbone.geometry,
            max_columns=4096,
        )
        scores = heads.run(self.backbone, batch).log_probs
        right = torch.tensor([row.right for row in rows])
        triage = scores.gather(1, right[:, None]).squeeze(1)
        described = torch.tensor([bool(row.description) for row in rows])
        last = torch.tensor([len(row.continuations) - 1 for row in rows])
        text = scores.gather(1, last[:, None]).squeeze(1)[described]
        share = 1 / self.recipe.batch
        loss = -(triage.sum() + self.recipe.describe_weight * text.sum()) * share
        loss.backward()  # type: ignore[no-untyped-call]
        labels = scores[:, : len(data.LABELS)].argmax(dim=1)
        return {
            "triage": -float(triage.detach().sum()) * share,
            "describe": -float(text.detach().sum()) * share,
            "right": float((labels == right).sum()) * share,
        }

    def averaged(self) -> dict[str, torch.Tensor]:
        """The weights to ship, under the names the bundle stores."""
        own = [weight.detach().clone() for weight in self._weights]
        with torch.no_grad():
            for weight, average in zip(self._weights, self._average, strict=True):
                weight.copy_(average)
            shipped = {k: v.detach().clone() for k, v in self.backbone.tensors().items()}
            for weight, kept in zip(self._weights, own, strict=True):
                weight.copy_(kept)
        return shipped

    def save(self, path: Path) -> None:
        state = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "seconds": self.seconds,
            "weights": [w.detach() for w in self._weights],
            "average": self._average,
            "optimiser": self._optimiser.state_dict(),
        }
        fresh = path.with_suffix(".part")
        torch.save(state, fresh)
        fresh.replace(path)  # a run killed while saving keeps the previous checkpoint

    def resume(self, path: Path) -> None:
        """Raises ValueError when the checkpoint comes from another recipe."""
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"{path} was trained with another recipe; remove it to start again")
        self.step, self.seconds = state["step"], state["seconds"]
        with torch.no_grad():
            for weight, kept in zip(self._weights, state["weights"], strict=True):
                weight.copy_(kept)
        self._average = list(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])


def run(
    recipe: Recipe,
    pool: MediaPool,
    tokenizer: bytes,
    work: Path,
    *,
    until: int | None = None,
    save_every: int = 200,
    clock: Callable[[], float] = time.monotonic,
) -> Training:
    """Trains up to step `until` (None: the end), from the checkpoint in `work` if there is one."""
    training = Training(recipe, pool, tokenizer)
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        training.resume(checkpoint)
    last = recipe.steps if until is None else until
    started, before = clock(), training.seconds
    smooth: dict[str, float] = {}
    with tqdm(total=last, initial=training.step, unit="step", mininterval=5) as bar:
        while training.step < last:
            learnt = training.advance()
            smooth = {n: 0.97 * smooth.get(n, v) + 0.03 * v for n, v in learnt.items()}
            shown = {name: f"{value:.3f}" for name, value in smooth.items()}
            bar.set_postfix(shown, refresh=False)
            bar.update()
            if training.step % save_every == 0 or training.step == last:
                training.seconds = before + clock() - started
                training.save(checkpoint)
    return training


def restored(work: Path) -> Training:
    """The state of the last checkpoint in `work`; it cannot sample rows."""
    kept = torch.load(work / "checkpoint.pt", weights_only=True)["recipe"]
    training = Training(Recipe(**kept), None, (work / "tokenizer.json").read_bytes())
    training.resume(work / "checkpoint.pt")
    return training


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recipes.triage.train", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/triage"), help="checkpoints, pool")
    parser.add_argument("--threads", type=int, default=2)
    for field in fields(Recipe):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(**{field.name: getattr(arguments, field.name) for field in fields(Recipe)})
    arguments.work.mkdir(parents=True, exist_ok=True)
    tokenizer = tokens.train(recipe.seed).to_str().encode()
    (arguments.work / "tokenizer.json").write_bytes(tokenizer)
    began = time.monotonic()
    pool = load_or_make(
        arguments.work, recipe.seed, recipe.photos, recipe.sounds, arguments.threads
    )
    seconds = time.monotonic() - began
    print(f"pool ready after {seconds:.0f} s", flush=True)
    if not (arguments.work / "pool.json").exists():
        (arguments.work / "pool.json").write_text(json.dumps({"seconds": round(seconds, 1)}))
    training = run(recipe, pool, tokenizer, arguments.work)
    print(f"{training.step} steps in {training.seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
