"""Pixels to vision patches, as the Gemma 4 family expects them.

The image fills its token budget as far as its aspect allows; the model normalises the values
itself. Patches are in merge order (those pooled into one token are contiguous), unlike the
reference's row order. Every patch carries its position, so the order matters only to the pooling,
which this package implements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch

from pipelines.bundle import parameters
from pipelines.errors import BundleRefused
from pipelines.media.decode import DecodedImage
from pipelines.models.qwen.patches import Grid, resized

MAX_SOFT_TOKENS = 1120  # the largest budget the reference offers


@dataclass(frozen=True, slots=True)
class GemmaImageConfig:
    """Every parameter that can change a pixel value. The strings name the one rule implemented."""

    max_soft_tokens: int  # the budget of one image; the reference offers 70, 140, 280, 560, 1120
    patch_size: int
    pooling_kernel_size: int  # this many patches on each side become one token
    scale: str  # levels divided by 255
    resize: str  # bicubic, antialiased, in uint8
    size_rule: str  # the largest size with that aspect within the budget, sides rounded down
    orientation: str  # EXIF orientation applied
    alpha: str  # composited on white
    colour: str  # embedded profiles ignored

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises BundleRefused("config", ...)."""
        config = parameters.read(cls, values, "image")
        for name in ("scale", "resize", "size_rule", "orientation", "alpha", "colour"):
            parameters.only(f"image.{name}", getattr(config, name), (getattr(GEMMA, name),))
        for name in ("max_soft_tokens", "patch_size", "pooling_kernel_size"):
            if getattr(config, name) < 1:
                raise BundleRefused("config", f"image.{name} must be at least 1")
        if config.max_soft_tokens > MAX_SOFT_TOKENS:
            message = f"is {config.max_soft_tokens}; the limit is {MAX_SOFT_TOKENS}"
            raise BundleRefused("config", f"image.max_soft_tokens {message}")
        return config

    @property
    def factor(self) -> int:
        """Sides of the resized image are multiples of this; one token covers its square."""
        return self.patch_size * self.pooling_kernel_size

    @property
    def merge_size(self) -> int:
        return self.pooling_kernel_size

    @property
    def patch_values(self) -> int:
        return 3 * self.patch_size**2


GEMMA = GemmaImageConfig(
    max_soft_tokens=280,
    patch_size=16,
    pooling_kernel_size=3,
    scale="unit",
    resize="bicubic-antialias-uint8",
    size_rule="fill-budget",
    orientation="exif",
    alpha="white",
    colour="ignore-profile",
)


def target_size(height: int, width: int, config: GemmaImageConfig) -> tuple[int, int]:
    """(height, width) after resizing; small images are enlarged. Sides are rounded down to a
    multiple of the factor, and at least one factor remains (the rule of Gemma4ImageProcessor)."""
    budget, factor = config.max_soft_tokens, config.factor
    scale = math.sqrt(budget * factor**2 / (height * width))
    rows, columns = math.floor(scale * height / factor), math.floor(scale * width / factor)
    if rows == 0:
        rows, columns = 1, min(width // height, budget)
    elif columns == 0:
        rows, columns = min(height // width, budget), 1
    return rows * factor, columns * factor


def gemma_normalised(levels: torch.Tensor, _config: GemmaImageConfig) -> torch.Tensor:
    """The encoder's input, float32 in 0..1, on the device of `levels`."""
    return levels.to(torch.float32).div_(255.0)


def gemma_levels(image: DecodedImage, config: GemmaImageConfig) -> tuple[torch.Tensor, Grid]:
    """uint8 [P, patch * patch * 3] with its (1, h, w) grid, P = h * w.

    Rows are ordered so that each block of pooled neighbours is contiguous; within a patch the
    channel runs fastest.
    """
    pixels = resized(image.pixels, target_size(image.height, image.width, config))
    side, merge = config.patch_size, config.pooling_kernel_size
    _, height, width = pixels.shape
    rows, columns = height // side, width // side
    values = pixels.reshape(3, rows // merge, merge, side, columns // merge, merge, side)
    tiles = values.permute(1, 4, 2, 5, 3, 6, 0)
    return tiles.reshape(rows * columns, config.patch_values), (1, rows, columns)
