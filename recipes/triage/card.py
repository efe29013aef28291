"""CARD.md, written from training.json alone: `python -m recipes.triage.card`."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.bundle import manifest as manifests
from pipelines.bundle.stamp import Leaf
from pipelines.pipeline import EMBEDDED
from pipelines.types import MODALITIES

BUNDLE = EMBEDDED


def render(training: Mapping[str, Any]) -> str:
    """Every number of the card is one of `training`'s."""
    return "\n\n".join(
        (
            _head(training),
            _accuracy(training["held_out"]),
            _fusion(training["held_out"]["ablation"]),
            _confidence(training["held_out"], training["temperature"]),
            _describe(training["held_out"]["describe"]),
            _made(training),
            _LIMITS,
        )
    )


def _head(training: Mapping[str, Any]) -> str:
    labels = ", ".join(f"`{label}`" for label in training["labels"])
    return f"""# Line-side triage

What to do about a station on a production line, from any subset of an operator's note, a photo of
the station (signal lamp, sign, handwritten unit number) and a recording of the machine. It answers
with one of six labels
({labels})
or writes a one-line description such as "unit 3, amber cross; knock sound; smoke note".

{training["parameters"]:,} parameters in float32, the architecture of Qwen2.5-Omni's thinker. Made
from scratch by the recipe in `recipes/triage`. It is there to try the server with, not to monitor a
real line."""


def _accuracy(held_out: Mapping[str, Any]) -> str:
    overall = held_out["overall"]
    rows = [("**all**", overall)]
    by_subset = held_out["by_modalities"]
    subsets = sorted(by_subset, key=lambda name: (name.count("+"), name))
    rows += [(name.replace("+", " + "), by_subset[name]) for name in subsets]
    rows += [(f"site {name}", row) for name, row in sorted(held_out["by_site"].items())]
    rows += [(f"{name} shift", row) for name, row in sorted(held_out["by_shift"].items())]
    rows += [(f"label `{name}`", row) for name, row in held_out["by_label"].items()]
    lines = [
        f"| {name} | {row['examples']} | {row['accuracy']:.3f} | {row['ece']:.3f} |"
        for name, row in rows
    ]
    table = "\n".join(lines)
    return f"""## Accuracy on held-out examples

{held_out["examples"]:,} examples whose wordings, handwritten digits and seeds were not in training.
Always giving the most frequent label would be right for {overall["majority_share"]:.3f} of them.
ECE is the expected calibration error over 15 bins of equal width, after temperature.

| examples | number | accuracy | ECE |
|---|---|---|---|
{table}

Site b's camera is yellowish and site c's hall loud; at night photos are darker and noisier and the
hall louder still."""


def _fusion(ablation: Mapping[str, float]) -> str:
    whole = ablation["all"]
    lines = [
        f"| without {name} | {ablation[f'without_{name}']:.3f} "
        f"| {whole - ablation[f'without_{name}']:.3f} |"
        for name in MODALITIES
    ]
    table = "\n".join(lines)
    return f"""## Every modality matters

The examples with all three modalities, asked again with one of them left out of the request:

| request | accuracy | lost |
|---|---|---|
| all three | {whole:.3f} | |
{table}"""


def _confidence(held_out: Mapping[str, Any], temperature: Mapping[str, Any]) -> str:
    overall, mass = held_out["overall"], held_out["closed_set_mass"]
    lines = [
        f"| {name.replace('_', ' ')} | {row['p05']:.3f} | {row['median']:.3f} | {row['p95']:.3f} | "
        + (f"{row[_BELOW]:.3f} |" if _BELOW in row else "|")
        for name, row in mass.items()
    ]
    table = "\n".join(lines)
    return f"""## Confidence

Temperature {temperature["value"]} ({temperature["why"]}; fitted on {temperature["examples"]:,}
examples of a third set of wordings). Overall mean confidence {overall["mean_confidence"]:.3f}, log
loss {overall["log_loss"]:.3f} nats; ECE {overall["ece"]:.3f}, before temperature
{overall["ece_before_temperature"]:.3f}.

Closed-set mass, the model's own probability that any of the labels fits, for stations and for
out-of-distribution inputs (sentences about other things; stripes, boards and rings; birds).
Training shows other kinds of such inputs with the answer "unknown". The last column is the share
whose mass is below the 5 % quantile of the stations.

| input | 5 % | median | 95 % | recognised |
|---|---|---|---|---|
{table}"""


_BELOW = "below_5_percent_of_stations"


def _describe(describe: Mapping[str, Any]) -> str:
    exact = ", ".join(
        f"{name.replace('+', ' + ')} {value:.2f}" for name, value in describe["exact"].items()
    )
    by_word = ", ".join(f"{name} {value:.2f}" for name, value in describe["words"].items())
    return f"""## Descriptions

Of {describe["examples"]} descriptions, exactly right by subset: {exact}.
Right by word: {by_word}."""


def _made(training: Mapping[str, Any]) -> str:
    recipe = "\n".join(f"| {name} | {value} |" for name, value in training["recipe"].items())
    return f"""## How it was made

`python -m recipes.triage.train`, then `python -m recipes.triage.assemble`. Drawing and
preprocessing the pool took {training["pool_seconds"] / 60:.1f} minutes and the
{training["steps"]:,} steps {training["train_seconds"] / 60:.1f} minutes on {training["machine"]}.
Training data id: `{training["data_id"]}`.

| setting | value |
|---|---|
{recipe}

The reference profile is built from {training["reference_examples"]:,} further examples in the order
in which a plant sends them (`recipes/triage/traffic.py`)."""


_LIMITS = """## Limits

- The data is synthetic: notes from a grammar, drawn photos, computed sounds. The figures say
  nothing about real factories.
- Held-out wordings are new clauses of known words. The model guesses at words it has never seen.
- About one note in twenty is ambiguous, and so are some lamps, signs and sounds. The right answer
  to them has a low confidence.
- One seed, one run. The settings were chosen by looking at short runs and at the tuning set.
- A few out-of-distribution prompts still get a confident label: watch the closed-set mass.
- The handwritten digits are those of the UCI optical recognition set as scikit-learn ships them.
"""


def rewrite(bundle: Path) -> str:
    """Rewrites CARD.md from training.json and its entry in the manifest; returns the text."""
    text = render(json.loads((bundle / "training.json").read_text()))
    content = text.encode()
    manifest = manifests.read((bundle / manifests.FILE).read_bytes())
    leaf = Leaf("CARD.md", len(content), hashlib.sha256(content).hexdigest())
    others = tuple(other for other in manifest.files if other.path != leaf.path)
    (bundle / "CARD.md").write_bytes(content)
    (bundle / manifests.FILE).write_bytes(replace(manifest, files=(*others, leaf)).to_bytes())
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.triage.card", description="Rewrites CARD.md from training.json."
    )
    parser.add_argument("--bundle", type=Path, default=BUNDLE)
    print(rewrite(parser.parse_args().bundle))


if __name__ == "__main__":
    main()
