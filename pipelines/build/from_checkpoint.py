"""A bundle from an existing checkpoint directory.

The parameters come from the checkpoint, then from the caller's options, then from the defaults of
its model family.
"""

from __future__ import annotations

import io
import json
import math
import wave
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pipelines.build.build import BundleSpec
from pipelines.build.checkpoint import Checkpoint
from pipelines.bundle import parameters
from pipelines.bundle.formats import parse_json
from pipelines.errors import BundleRefused
from pipelines.models.families import QWEN, SECTIONS, Family
from pipelines.types import SUBSETS, Modality, Part, Sample


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """The options of `pipelines build`; None = the default."""

    name: str
    labels: Mapping[str, Any]
    preprocess: Mapping[str, Any] | None = None
    template: Mapping[str, Any] | None = None
    objective: Mapping[str, Any] | None = None
    training: Mapping[str, Any] | None = None
    reference: Mapping[str, Any] | None = None
    card: str | None = None
    golden: Path | None = None
    max_pixels: int | None = None
    created_at: str = ""


def spec(checkpoint: Checkpoint, given: BuildOptions) -> BundleSpec:
    """Raises BundleRefused("config") where the checkpoint and the parameters disagree."""
    source = checkpoint.config.get("_name_or_path") or "a local checkpoint"
    card = f"# {given.name}\n\nBuilt from {source}. Not measured on this task yet.\n"
    training = {"data_id": "unknown: built from a checkpoint", "source": source}
    return BundleSpec(
        name=given.name,
        weights=checkpoint.shards,
        config=checkpoint.config,
        tokenizer=checkpoint.tokenizer,
        preprocess=preprocess(checkpoint.processor, given, checkpoint.family),
        template=given.template or parameters.write(checkpoint.family.template),
        labels=given.labels,
        golden=golden_samples(given.golden),
        objective=given.objective or {},
        training=given.training or training,
        card=given.card or card,
        reference=given.reference,
        created_at=given.created_at,
    )


def preprocess(
    processor: Mapping[str, Any], given: BuildOptions, family: Family = QWEN
) -> dict[str, Any]:
    """The four sections of preprocess.json. A section the caller gives replaces the default."""
    sections: dict[str, Any] = dict(family.preprocess)
    unknown = sorted(set(given.preprocess or {}) - set(SECTIONS))
    if unknown:
        raise BundleRefused("config", f"preprocess has sections {unknown}; known: {SECTIONS}")
    sections |= given.preprocess or {}
    if given.max_pixels is not None:
        sections["image"] = {**sections["image"], **family.budget(given.max_pixels)}
    for theirs, (section, ours) in family.stated.ours.items():
        stated, value = processor.get(theirs), sections[section].get(ours)
        if stated is not None and stated != value:
            raise BundleRefused(
                "config",
                f"the checkpoint was trained with {theirs} {stated}, {section}.{ours} is "
                f"{value}: correct it with --preprocess",
            )
    for theirs, only in family.stated.must_be.items():
        if processor.get(theirs, only) != only:
            stated = f"{theirs} {processor[theirs]}; this code implements {only}"
            raise BundleRefused("config", f"the checkpoint was trained with {stated}")
    return sections


def labels(path: Path) -> dict[str, Any]:
    """labels.json from a file: that JSON itself, a JSON list of names, or one `name` or
    `name<TAB>text` on each line. `text` is what the model must write to mean the label; the default
    is the name.

    Raises BundleRefused("config") when there are no labels, or when a name repeats.
    """
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".json" and not content.lstrip().startswith("["):
        return parse_json(str(path), content.encode())
    lines = json.loads(content) if path.suffix == ".json" else content.splitlines()
    pairs = [str(line).strip().partition("\t") for line in lines if str(line).strip()]
    found = [{"name": name.strip(), "text": (text or name).strip()} for name, _, text in pairs]
    names = [label["name"] for label in found]
    if not names:
        raise BundleRefused("config", f"{path} has no labels; write one a line")
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise BundleRefused("config", f"{path} has the label {twice!r} twice; remove one")
    return {"labels": found, "temperature": 1.0}


def golden_samples(folder: Path | None) -> tuple[Sample, ...]:
    """One input of each mix of modalities, from the first text (.txt), image and sound file of a
    directory. Without a directory, the files are generated."""
    note, photo, sound = _generated() if folder is None else _first_files(folder)
    return mixes(note, photo, sound)


def mixes(note: str, photo: bytes, sound: bytes) -> tuple[Sample, ...]:
    """The seven non-empty subsets of three media as samples; ids are the mix with dashes."""
    part: dict[Modality, Part] = {
        "audio": Part("audio", sound),
        "image": Part("image", photo),
        "text": Part("text", note),
    }
    subsets = [sorted(subset) for subset in SUBSETS]
    return tuple(Sample("-".join(kinds), tuple(part[kind] for kind in kinds)) for kinds in subsets)


def _first_files(folder: Path) -> tuple[str, bytes, bytes]:
    names = sorted(folder.iterdir())
    picked = []
    for what, suffixes in (
        ("text", {".txt"}),
        ("image", {".jpg", ".jpeg", ".png"}),
        ("sound", {".wav", ".flac", ".ogg"}),
    ):
        path = next((name for name in names if name.suffix.lower() in suffixes), None)
        if path is None:
            raise BundleRefused("golden", f"{folder} has no {what} file ({', '.join(suffixes)})")
        picked.append(path.read_bytes())
    return picked[0].decode(), picked[1], picked[2]


def _generated() -> tuple[str, bytes, bytes]:
    canvas = Image.linear_gradient("L").resize((320, 240)).convert("RGB")
    draw = ImageDraw.Draw(canvas)
    draw.ellipse((90, 50, 210, 170), fill=(210, 60, 30), outline=(20, 20, 20), width=4)
    draw.rectangle((230, 150, 300, 220), fill=(30, 120, 190))
    photo = io.BytesIO()
    canvas.save(photo, "JPEG", quality=90)
    times = np.arange(int(1.2 * 16000)) / 16000
    tone = np.sin(2 * math.pi * (300 + 200 * times) * times) * np.exp(-2 * times)
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((tone * 16000).astype("<i2").tobytes())
    return "The red lamp has been on since six.", photo.getvalue(), sound.getvalue()
