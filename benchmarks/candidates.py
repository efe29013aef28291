"""Bundles for a canary or a rehearsal, each a copy of another one with at most one fault.

    same       another name, nothing else
    worse      noise on its weights: it errs three times as often, and doubts more
    overbold   the same noise and a low temperature: it errs as often and does not doubt
    slow       layers more that add nothing: the same answers, later
    failing    a limit on the length of sounds that golden inputs keep and one real one in ten does
               not

All of them pass every check of a load: only traffic shows the difference.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.variants import disturb

NOISE = 0.8
BOLD = 0.4  # temperature: even wrong answers have a high confidence
LONGEST_S = 3.0
MORE_LAYERS = 24
WEIGHTS = "weights/model.safetensors"
CONFIG = "model/config.json"


def candidates(bundle: Path, folder: Path, names: Sequence[str] = ()) -> dict[str, Path]:
    """The candidates by name (without `names`, all), each in its own folder and restamped. `bundle`
    is not changed."""
    folder.mkdir(parents=True, exist_ok=True)
    return {name: candidate(bundle, folder / name) for name in names or CHANGES}


def candidate(bundle: Path, folder: Path) -> Path:
    """The one of CHANGES that has the folder's name."""
    found = Path(shutil.copytree(bundle, folder))
    for file in found.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    CHANGES[found.name](found)
    return found


def _worse(found: Path) -> None:
    disturb(found, NOISE, 1)


def _overbold(found: Path) -> None:
    disturb(found, NOISE, 1)
    labels = _json(found, "labels.json")
    change(found, {"labels.json": _bytes(labels | {"temperature": BOLD})})


def change(bundle: Path, changes: Mapping[str, bytes]) -> None:
    """Change the bundle in place, give it its own name, and record golden answers again."""
    from pipelines.build.build import rewrite
    from pipelines.build.restamp import restamp
    from pipelines.bundle import manifest

    before = manifest.read((bundle / manifest.FILE).read_bytes())
    rewrite(bundle, replace(before, name=f"{before.name}-{bundle.name}"), changes)
    restamp(bundle, accept_new_golden=True)


def deepened(bundle: Path, more: int) -> dict[str, bytes]:
    """Adds layers whose outputs are zero: a residual network then gives the same answers, and takes
    longer."""
    from safetensors.numpy import load, save

    config = _json(bundle, CONFIG)
    text = config["text_config"]
    depth = text["num_hidden_layers"]
    text["num_hidden_layers"] = text["max_window_layers"] = depth + more
    tensors = load((bundle / WEIGHTS).read_bytes())
    last = f"model.layers.{depth - 1}."
    for name in [name for name in tensors if name.startswith(last)]:
        zero = name.endswith(("o_proj.weight", "down_proj.weight"))
        tensor = np.zeros_like(tensors[name]) if zero else tensors[name]
        for number in range(depth, depth + more):
            tensors[name.replace(last, f"model.layers.{number}.")] = tensor.copy()
    return {CONFIG: _bytes(config), WEIGHTS: save(tensors)}


def _short_sounds(bundle: Path) -> bytes:
    found = _json(bundle, "preprocess.json")
    found["limits"]["max_audio_s"] = LONGEST_S
    return _bytes(found)


def _json(bundle: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / name).read_bytes())
    return found


def _bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()


CHANGES: dict[str, Callable[[Path], None]] = {
    "same": lambda found: change(found, {}),
    "worse": _worse,
    "overbold": _overbold,
    "slow": lambda found: change(found, deepened(found, MORE_LAYERS)),
    "failing": lambda found: change(found, {"preprocess.json": _short_sounds(found)}),
}
