"""The ranges of library versions that this code was tested with, end to end; other tests use the
installed versions.

These tests were run with both transformers 5.17.0 and 5.23.0, with torch 2.13 on a CPU; torch 2.11
is the oldest version with every function that is used.
"""

import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from pipelines.models.qwen import thinker
from tests.support.tinybundle import thinker_config

RANGES = {
    "torch": ((2, 11), (2, 14)),
    "torchaudio": ((2, 11), (2, 12)),
    "transformers": ((5, 17), (5, 24)),
}


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+")[0].split(".")[:2])


@pytest.mark.parametrize("name", RANGES)
def test_installed_versions_are_within_the_ranges_tried(name: str) -> None:
    low, high = RANGES[name]
    assert low <= numbers(version(name)) < high


@pytest.mark.parametrize("name", RANGES)
def test_the_package_demands_the_ranges_tried(name: str) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    demanded = project["project"]["optional-dependencies"]["server"]
    (low, high) = (".".join(map(str, bound)) for bound in RANGES[name])
    assert f"{name}>={low},<{high}" in demanded


def test_both_module_trees_are_understood() -> None:
    """5.17 keeps the encoders beside the text stack, 5.23 below the same `model`."""
    with torch.device("meta"):
        model = Qwen2_5OmniThinkerForConditionalGeneration(thinker.read_config(thinker_config()))
    text, visual, audio = thinker.parts(model)
    assert hasattr(text, "embed_tokens") and hasattr(visual, "blocks") and hasattr(audio, "conv1")
    prefixes = {thinker.canonical(name).split(".")[0] for name in model.state_dict()}
    assert prefixes == {"model", "visual", "audio_tower", "lm_head"}
