"""The model families that are served, one row for each; `model_type` in model/config.json selects
one.

Everything that differs between families is in its row. No other module asks which family it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch

from pipelines.bundle import parameters
from pipelines.errors import BundleRefused
from pipelines.media import limits
from pipelines.media.decode import DecodedAudio, DecodedImage
from pipelines.models import tokens
from pipelines.models.backbone import Backbone
from pipelines.models.gemma import backbone as gemma
from pipelines.models.gemma import log_mel as gemma_audio
from pipelines.models.gemma import model as gemma_model
from pipelines.models.gemma import patches as gemma_image
from pipelines.models.gemma.log_mel import GemmaAudioConfig
from pipelines.models.gemma.patches import GemmaImageConfig
from pipelines.models.qwen import backbone as qwen
from pipelines.models.qwen import log_mel as audio
from pipelines.models.qwen import patches as image
from pipelines.models.qwen import thinker
from pipelines.models.qwen.log_mel import AudioConfig
from pipelines.models.qwen.patches import Grid, ImageConfig
from pipelines.models.tokens import Template

Loading = Callable[
    [Mapping[str, Any], Mapping[str, torch.Tensor], torch.device, torch.dtype], Backbone
]


@dataclass(frozen=True, slots=True)
class MediaPreprocessing:
    """How pixels and samples become tensors. `levels` takes the config that `read_image` returns,
    as does `normalised`, which makes the encoder's input of levels on their device; `log_mel` takes
    the one that `read_audio` returns."""

    read_image: Callable[[Mapping[str, Any]], ImageConfig | GemmaImageConfig]
    read_audio: Callable[[Mapping[str, Any]], AudioConfig | GemmaAudioConfig]
    levels: Callable[[DecodedImage, Any], tuple[torch.Tensor, Grid]]
    normalised: Callable[[torch.Tensor, Any], torch.Tensor]
    log_mel: Callable[[DecodedAudio, Any, str], torch.Tensor]
    audio_tokens: Callable[[int], int]


@dataclass(frozen=True, slots=True)
class StatedPreprocessing:
    """What a checkpoint directory states about preprocessing; `files` are read in this order.

    `ours` maps a name in those files to (section, name) in preprocess.json, `must_be` to the only
    value that is implemented.
    """

    files: tuple[str, ...]
    ours: Mapping[str, tuple[str, str]]
    must_be: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Family:
    """`belongs(config)` returns a test for the names of tensors that are used, `canonical` gives a
    tensor's name in a bundle. `budget(pixels)` is the image parameter that limits an image to that
    area.

    `plain_added`: added tokens that the tokenizer file does not mark as special (runs of line
    feeds, for example) are ordinary text.
    """

    model_type: str
    media: MediaPreprocessing
    plain_added: bool
    load: Loading
    belongs: Callable[[Mapping[str, Any]], Callable[[str], bool]]
    canonical: Callable[[str], str]
    preprocess: Mapping[str, Mapping[str, Any]]
    template: Template
    stated: StatedPreprocessing
    budget: Callable[[int], Mapping[str, int]]


# The sections of preprocess.json.
SECTIONS: Final = ("image", "audio", "text", "limits")


def _sections(image: Any, audio: Any, text: Any, limits: Any) -> dict[str, dict[str, Any]]:
    sections = zip(SECTIONS, (image, audio, text, limits), strict=True)
    return {name: parameters.write(section) for name, section in sections}


QWEN: Final = Family(
    model_type="qwen2_5_omni_thinker",
    media=MediaPreprocessing(
        read_image=ImageConfig.from_dict,
        read_audio=AudioConfig.from_dict,
        levels=image.levels,
        normalised=image.normalised,
        log_mel=audio.log_mel,
        audio_tokens=audio.audio_tokens,
    ),
    plain_added=False,
    load=qwen.load_backbone,
    belongs=lambda _config: thinker.belongs,
    canonical=thinker.canonical,
    preprocess=_sections(image.QWEN, audio.QWEN, tokens.QWEN, limits.QWEN),
    template=tokens.QWEN_TEMPLATE,
    stated=StatedPreprocessing(
        files=("preprocessor_config.json",),
        ours={
            "patch_size": ("image", "patch_size"),
            "merge_size": ("image", "merge_size"),
            "temporal_patch_size": ("image", "temporal_patch_size"),
            "image_mean": ("image", "mean"),
            "image_std": ("image", "std"),
        },
        must_be={},
    ),
    budget=lambda pixels: {"max_pixels": pixels},
)

GEMMA: Final = Family(
    model_type="gemma4",
    media=MediaPreprocessing(
        read_image=GemmaImageConfig.from_dict,
        read_audio=GemmaAudioConfig.from_dict,
        levels=gemma_image.gemma_levels,
        normalised=gemma_image.gemma_normalised,
        log_mel=gemma_audio.gemma_log_mel,
        audio_tokens=gemma_audio.gemma_audio_tokens,
    ),
    plain_added=True,
    load=gemma.load_backbone,
    belongs=gemma_model.belongs,
    canonical=lambda name: name,
    preprocess=_sections(gemma_image.GEMMA, gemma_audio.GEMMA, tokens.QWEN, limits.DEFAULT),
    template=tokens.GEMMA_TEMPLATE,
    stated=StatedPreprocessing(
        files=("preprocessor_config.json", "processor_config.json"),
        ours={
            "patch_size": ("image", "patch_size"),
            "pooling_kernel_size": ("image", "pooling_kernel_size"),
            "sampling_rate": ("audio", "sample_rate"),
            "feature_size": ("audio", "n_mels"),
            "frame_length": ("audio", "frame"),
            "hop_length": ("audio", "hop"),
            "fft_length": ("audio", "n_fft"),
            "min_frequency": ("audio", "f_min"),
            "max_frequency": ("audio", "f_max"),
            "mel_floor": ("audio", "log_floor"),
        },
        must_be={
            "rescale_factor": 1 / 255,
            "do_normalize": False,
            "preemphasis": 0.0,
            "fft_overdrive": False,
            "dither": 0.0,
            "input_scale_factor": 1.0,
        },
    ),
    budget=lambda pixels: {"max_soft_tokens": max(1, pixels // gemma_image.GEMMA.factor**2)},
)

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {family.model_type: family for family in (QWEN, GEMMA)}
)


def family_of(config: Mapping[str, Any]) -> Family:
    """Raises BundleRefused("config") for a family that is not served."""
    name = config.get("model_type")
    if name not in FAMILIES:
        message = f"model_type {name!r} is not served; served are {', '.join(FAMILIES)}"
        raise BundleRefused("config", message)
    return FAMILIES[str(name)]
