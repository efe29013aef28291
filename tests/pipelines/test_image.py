"""The patches here equal the reference processor's, within one level of 255."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from pipelines.bundle import parameters
from pipelines.errors import BundleRefused
from pipelines.media.decode import DecodedImage, InputLimits, decode
from pipelines.models.qwen import patches as image
from pipelines.models.qwen.patches import (
    DEFAULT,
    QWEN,
    ImageConfig,
    image_tokens,
    patches,
    target_size,
)
from pipelines.types import Part
from tests.support import media_bytes as made


def decoded(pixels: np.ndarray) -> DecodedImage:
    height, width = pixels.shape[:2]
    return DecodedImage(pixels, "PNG", "RGB", width, height, payload_bytes=1)


def reference(pixels: np.ndarray, config: ImageConfig) -> tuple[torch.Tensor, tuple[int, ...]]:
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": config.min_pixels, "longest_edge": config.max_pixels}
    )
    found = processor(images=[Image.fromarray(pixels)], return_tensors="pt")
    return found["pixel_values"], tuple(found["image_grid_thw"][0].tolist())


def levels(values: torch.Tensor, config: ImageConfig) -> torch.Tensor:
    """Normalised patches back to levels of 0..255: [P, 3, the rest]."""
    std = torch.tensor(config.std).view(1, 3, 1)
    mean = torch.tensor(config.mean).view(1, 3, 1)
    return (values.view(len(values), 3, -1) * std + mean) * 255.0


SIZES = [(480, 640), (640, 480), (540, 960), (84, 112), (100, 33), (28, 28), (9, 200), (13, 600)]


@pytest.mark.parametrize("config", [DEFAULT, QWEN], ids=["default", "qwen"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["smooth", "noise", "edges"])
def test_patches_equal_the_reference_within_one_level(
    size: tuple[int, int], config: ImageConfig, kind: str
) -> None:
    rng = np.random.default_rng(1)
    pixels = {
        "smooth": made.photo(*size),
        "noise": rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        "edges": (rng.integers(0, 2, (*size, 3)) * 255).astype(np.uint8),
    }[kind]
    ours, grid = patches(decoded(pixels), config)
    theirs, their_grid = reference(pixels, config)
    assert grid == their_grid and ours.shape == theirs.shape and ours.dtype == torch.float32
    difference = (levels(ours, config) - levels(theirs, config)).abs()
    assert difference.max() < 1.001
    assert (difference > 0.5).float().mean() < 0.02  # most values are not even one level off


def test_picture_of_the_right_size_is_not_resampled_at_all() -> None:
    pixels = made.photo(84, 112)
    ours, grid = patches(decoded(pixels), DEFAULT)
    assert grid == (1, 6, 8)
    assert torch.allclose(ours, reference(pixels, DEFAULT)[0], atol=1e-6)


def test_every_patch_is_found_where_the_grid_says() -> None:
    """Row 0 of the merge order is (0,0) (0,1) (1,0) (1,1) of the first 2x2 block, then the next."""
    pixels = np.zeros((56, 84, 3), np.uint8)
    for row in range(4):
        for column in range(6):
            pixels[row * 14 : row * 14 + 14, column * 14 : column * 14 + 14] = row * 6 + column
    values, grid = patches(decoded(pixels), DEFAULT)
    order = levels(values, DEFAULT).mean(dim=(1, 2)).round().int().tolist()
    assert grid == (1, 4, 6)
    assert order[:8] == [0, 1, 6, 7, 2, 3, 8, 9] and order[-4:] == [16, 17, 22, 23]


@pytest.mark.parametrize("config", [DEFAULT, QWEN])
def test_target_size_keeps_to_the_factor_and_the_budget(config: ImageConfig) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = (int(side) for side in rng.integers(1, 4000, 2))
        if max(height, width) > 100 * min(height, width):
            continue
        rows, columns = target_size(height, width, config)
        assert rows % config.factor == 0 and columns % config.factor == 0
        narrow = min(rows, columns) == config.factor
        assert rows * columns <= config.max_pixels or narrow
        assert rows * columns >= config.min_pixels


def test_tokens_are_a_quarter_of_the_patches() -> None:
    assert image_tokens((1, 8, 8), DEFAULT) == 16
    values, grid = patches(decoded(made.photo(480, 640)), DEFAULT)
    assert len(values) == 4 * image_tokens(grid, DEFAULT)


def test_default_budget_is_sixteen_tokens_for_any_ordinary_shape() -> None:
    for size in ((480, 640), (3000, 4000), (500, 500), (1080, 1920)):
        assert image_tokens(patches(decoded(made.photo(*size)), DEFAULT)[1], DEFAULT) <= 16


def test_bytes_go_in_and_patches_come_out() -> None:
    buffer = io.BytesIO()
    Image.fromarray(made.photo(480, 640)).save(buffer, "JPEG")
    found = decode(Part("image", buffer.getvalue()), "parts[0]", InputLimits())
    assert isinstance(found, DecodedImage)
    assert patches(found, DEFAULT)[0].shape == (48, 1176)


def test_config_survives_json_and_refuses_what_it_does_not_know() -> None:
    values = parameters.write(DEFAULT)
    assert ImageConfig.from_dict(values) == DEFAULT
    for wrong in (
        {**values, "interpolation": "bilinear"},
        {name: value for name, value in values.items() if name != "mean"},
        {**values, "resize": "bilinear"},
        {**values, "max_pixels": "12544"},
        {**values, "std": 0.5},
    ):
        with pytest.raises(BundleRefused) as caught:
            ImageConfig.from_dict(wrong)
        assert caught.value.check == "config"
    assert image.QWEN.max_pixels > image.DEFAULT.max_pixels
