"""Pixels to vision patches, as the Qwen2-VL family expects them.

Resizes, normalises and cuts into merge-ordered patches. The resize always runs on uint8 on the CPU:
a device that rounds differently would be a second pipeline under the same stamp.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from pipelines.bundle import parameters
from pipelines.media.decode import DecodedImage

Grid = tuple[int, int, int]  # (t, h, w) in patches


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """Every parameter that can change a pixel value. Each string names the one rule implemented."""

    min_pixels: int
    max_pixels: int
    patch_size: int
    merge_size: int
    temporal_patch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str  # bicubic, antialiased, in uint8
    size_rule: str  # sides rounded to a multiple of patch*merge, area kept within the two limits
    orientation: str  # EXIF orientation applied
    alpha: str  # composited on white
    colour: str  # embedded profiles ignored

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises BundleRefused("config", ...)."""
        config = parameters.read(cls, values, "image")
        for name in ("resize", "size_rule", "orientation", "alpha", "colour"):
            parameters.only(f"image.{name}", getattr(config, name), (getattr(DEFAULT, name),))
        return config

    @property
    def factor(self) -> int:
        """Sides of the resized image are multiples of this."""
        return self.patch_size * self.merge_size

    @property
    def patch_values(self) -> int:
        return 3 * self.temporal_patch_size * self.patch_size**2


DEFAULT = ImageConfig(
    min_pixels=56 * 56,
    max_pixels=112 * 112,
    patch_size=14,
    merge_size=2,
    temporal_patch_size=2,
    mean=(0.48145466, 0.4578275, 0.40821073),  # the values of CLIP
    std=(0.26862954, 0.26130258, 0.27577711),
    resize="bicubic-antialias-uint8",
    size_rule="round-to-factor",
    orientation="exif",
    alpha="white",
    colour="ignore-profile",
)
QWEN = replace(DEFAULT, max_pixels=28 * 28 * 1280)


def target_size(height: int, width: int, config: ImageConfig) -> tuple[int, int]:
    """(height, width) after resizing: multiples of the factor, area within the two limits, aspect
    kept as far as that allows (the Qwen2-VL rule)."""
    factor = config.factor
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > config.max_pixels:
        shrink = math.sqrt(height * width / config.max_pixels)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < config.min_pixels:
        grow = math.sqrt(config.min_pixels / (height * width))
        rows = math.ceil(height * grow / factor) * factor
        columns = math.ceil(width * grow / factor) * factor
    return rows, columns


def patches(image: DecodedImage, config: ImageConfig) -> tuple[torch.Tensor, Grid]:
    """float32 [P, 3 * temporal * patch * patch] with its grid: `normalised` of `levels`."""
    found, grid = levels(image, config)
    return normalised(found, config), grid


def levels(image: DecodedImage, config: ImageConfig) -> tuple[torch.Tensor, Grid]:
    """uint8 [P, 3 * patch * patch] with its (1, h, w) grid, P = h * w.

    Rows of the result are ordered so that each block of merge x merge neighbours is contiguous.
    """
    return _cut(resized(image.pixels, target_size(image.height, image.width, config)), config)


def normalised(levels: torch.Tensor, config: ImageConfig) -> torch.Tensor:
    """The encoder's input, float32 [P, 3 * temporal * patch * patch], on the device of `levels`.
    Each operation is rounded as IEEE 754 requires, so every device gives the same numbers. A still
    image is the same frame, repeated over the temporal patch."""
    mean, std = _constants(config, levels.device)
    values = levels.view(len(levels), 3, -1).to(torch.float32).div_(255.0).sub_(mean).div_(std)
    frames = config.temporal_patch_size
    return values.unsqueeze(2).expand(-1, -1, frames, -1).flatten(1)


@lru_cache(maxsize=8)
def _constants(config: ImageConfig, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation [1, 3, 1]; cached, because each call would copy them to the
    device."""
    mean, std = (torch.tensor(values, dtype=torch.float32) for values in (config.mean, config.std))
    return mean.view(1, 3, 1).to(device), std.view(1, 3, 1).to(device)


def resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> torch.Tensor:
    """uint8 [3, h, w], within one level of Pillow's bicubic filter.

    torch is up to nine times as fast, but stays within one level only when it at least halves both
    sides (measured on noise, photographs and black-and-white edges; 2 to 4 levels otherwise).
    """
    height, width = pixels.shape[:2]
    if height >= 2 * size[0] and width >= 2 * size[1]:
        # Stays uint8 and channels_last: a contiguous copy costs more than the resize.
        view = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)
        return F.interpolate(view, size=size, mode="bicubic", antialias=True)[0]
    if (height, width) != size:
        resized = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC)
        pixels = np.array(resized)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _cut(values: torch.Tensor, config: ImageConfig) -> tuple[torch.Tensor, Grid]:
    side, merge = config.patch_size, config.merge_size
    channels, height, width = values.shape
    rows, columns = height // side, width // side
    tiles = values.reshape(
        channels, rows // merge, merge, side, columns // merge, merge, side
    ).permute(1, 4, 2, 5, 0, 3, 6)
    return tiles.reshape(rows * columns, channels * side * side), (1, rows, columns)


def image_tokens(grid: Grid, config: ImageConfig) -> int:
    """Placeholder tokens an image of this grid takes in the prompt."""
    return grid[0] * grid[1] * grid[2] // config.merge_size**2
